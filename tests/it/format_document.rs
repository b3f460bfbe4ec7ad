//! `docs/log-format.md` and the golden files say the same: its bytes are theirs, and its tables decode them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::golden::{LOGS, data, json_lines, manifest};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/log-format.md");
    fs::read_to_string(path).expect("the document is there")
}

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The code blocks of a language, with the file they are of.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut found = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("```").and_then(|info| info.strip_prefix(language)) {
            found.push((name.trim(), lines.by_ref().take_while(|line| *line != "```").collect()));
        }
    }
    found
}

/// Offset and bytes of a line like `00001050: 6c 6c 6f`.
fn dumped(line: &str) -> (usize, Vec<u8>) {
    let (offset, bytes) = line.split_once(": ").expect("an offset before the bytes");
    let byte = |text| u8::from_str_radix(text, 16).expect("a byte in hex");
    (usize::from_str_radix(offset, 16).expect("an offset in hex"), bytes.split_whitespace().map(byte).collect())
}

/// The rows of the first table under a heading, without its head.
fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// Offset and length of each field that a table of offsets names.
fn layout(document: &str, heading: &str) -> BTreeMap<String, (usize, usize)> {
    let number = |text: &str| text.parse().expect("a number");
    table(document, heading).iter().map(|row| (row[2].to_owned(), (number(row[0]), number(row[1])))).collect()
}

fn field<'a>(bytes: &'a [u8], layout: &BTreeMap<String, (usize, usize)>, name: &str) -> &'a [u8] {
    let (offset, length) = layout[name];
    &bytes[offset..offset + length]
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes between backticks at the start of a cell.
fn quoted_bytes(cell: &str) -> Vec<u8> {
    let quoted = cell.split('`').nth(1).expect("bytes in backticks");
    quoted.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("a byte in hex")).collect()
}

/// What the cell of a field says.
fn value_of<'a>(document: &'a str, heading: &str, name: &str) -> &'a str {
    let rows = table(document, heading);
    rows.iter().find(|row| row[2] == name).unwrap_or_else(|| panic!("no field {name}"))[3]
}

#[test]
fn the_hex_of_the_document_is_that_of_the_golden_log() {
    let document = document();
    let dumps = blocks(&document, "hexdump");
    assert_eq!(dumps.len(), 2, "the header and the first frame");
    for (name, lines) in dumps {
        let bytes = file(name);
        assert!(lines.len() >= 6);
        for line in lines {
            let (offset, expected) = dumped(line);
            assert_eq!(bytes[offset..offset + expected.len()], expected, "{name}: {line}");
        }
    }
    let quotes = blocks(&document, "json");
    assert_eq!(quotes.len(), 1);
    for (name, lines) in quotes {
        let text = String::from_utf8(file(name)).expect("text");
        assert!(!lines.is_empty() && lines.iter().all(|line| text.lines().any(|found| found == *line)), "{lines:?}");
    }
}

#[test]
fn the_frame_that_is_worked_through_is_the_one_of_the_dump() {
    let document = document();
    let (_, dump) = blocks(&document, "hexdump").pop().expect("the first frame");
    let dumped: Vec<u8> = dump.into_iter().flat_map(|line| dumped(line).1).collect();
    let (_, worked) = document.split_once("| bytes | meaning |").expect("the table");
    let rows = worked.lines().skip(2).take_while(|line| line.starts_with('|'));
    let bytes: Vec<u8> = rows.flat_map(|row| quoted_bytes(row.split('|').nth(1).expect("a cell"))).collect();
    assert_eq!(bytes, dumped);

    let segment = file("tests/data/log-v1/fresh/00000000000000000001.wal");
    let salt = crc32c::crc32c(&segment[40..56]);
    let (header, payload) = (&dumped[..28], &dumped[32..]);
    let sums = [
        salt,
        crc32c::crc32c_append(salt, header),
        crc32c::crc32c_append(salt, payload),
        crc32c::crc32c(header),
        crc32c::crc32c(payload),
        crc32c::crc32c(&segment[..4092]),
    ];
    for sum in sums {
        assert!(document.contains(&format!("`0x{sum:08X}`")), "{sum:08X} is not in the document");
    }
}

#[test]
fn the_test_vectors_of_the_document_are_those_of_our_checksum() {
    let document = document();
    let ascending: Vec<u8> = (0..32).collect();
    let inputs: [&[u8]; 5] = [b"", b"123456789", &[0; 32], &[255; 32], &ascending];
    let (_, vectors) = document.split_once("| input | CRC-32C |").expect("the table");
    let rows: Vec<_> = vectors.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), inputs.len());
    for (row, input) in rows.iter().zip(inputs) {
        assert!(row.contains(&format!("`0x{:08X}`", crc32c::crc32c(input))), "{row}");
    }
}

#[test]
fn the_tables_of_the_document_decode_the_golden_logs() {
    let document = document();
    let (header, frame) = (layout(&document, "### Segment header"), layout(&document, "### Frame header"));
    for heading in ["### Segment header", "### Frame header"] {
        let ends = table(&document, heading).iter().fold(0, |end, row| {
            assert_eq!(row[0], end.to_string(), "{heading}: the fields follow each other");
            end + row[1].parse::<usize>().expect("a number")
        });
        assert_eq!(ends, if heading == "### Frame header" { 32 } else { 4096 });
    }
    for log in LOGS {
        for expected in manifest(log, "segments") {
            let name = expected["file"].as_str().expect("a name");
            let bytes = fs::read(data().join("log-v1").join(log).join(name)).expect("the segment is there");
            assert_eq!(decoded(&document, &header, &frame, name, &bytes), expected, "{log}");
        }
    }
}

/// A segment as the tables of the document say, in the form of the manifest.
fn decoded(
    document: &str,
    header: &BTreeMap<String, (usize, usize)>,
    frame: &BTreeMap<String, (usize, usize)>,
    name: &str,
    bytes: &[u8],
) -> Value {
    let of_header = |name| field(bytes, header, name);
    assert_eq!(of_header("magic"), quoted_bytes(value_of(document, "### Segment header", "magic")));
    assert_eq!(number(of_header("header_crc")), u64::from(crc32c::crc32c(&bytes[..header["header_crc"].0])));
    assert!(of_header("reserved").iter().all(|byte| *byte == 0));
    let salt = of_header("salt");
    let sum = |rest: &[u8]| u64::from(crc32c::crc32c(&[salt, rest].concat()));
    let frame_magic = quoted_bytes(value_of(document, "### Frame header", "magic"));
    let mut frames = Vec::new();
    let mut offset = 4096;
    while let Some(head) = bytes.get(offset..offset + 32) {
        let of_frame = |name| field(head, frame, name);
        if of_frame("magic") != frame_magic
            || of_frame("mark") != &salt[..4]
            || number(of_frame("frame_header_crc")) != sum(&head[..frame["frame_header_crc"].0])
        {
            break;
        }
        let end = offset + 32 + number(of_frame("payload_bytes")) as usize;
        match bytes.get(offset + 32..end) {
            Some(payload) if number(of_frame("payload_crc")) == sum(payload) => {}
            _ => break,
        }
        let (first, records) = (number(of_frame("first")), number(of_frame("records")));
        frames.push(json!({"offset": offset, "bytes": end - offset, "first": first, "records": records}));
        offset = end;
    }
    json!({
        "file": name,
        "bytes": bytes.len(),
        "version": number(of_header("version")),
        "node_id": number(of_header("node_id")),
        "log_id": hex(of_header("log_id")),
        "epoch": number(of_header("epoch")),
        "salt": hex(salt),
        "first": number(of_header("first")),
        "previous_first": number(of_header("previous_first")),
        "created_at_us": number(of_header("created_at_us")),
        "flags": number(of_header("flags")),
        "frames": frames,
        "end": offset,
    })
}

#[test]
fn the_refusals_of_the_document_are_those_of_the_code() {
    let document = document();
    let version = walcast::wal::format::FORMAT_VERSION;
    let record = walcast::event::record::RECORD_VERSION;
    let segment_says = format!(
        "the segment has format version {}, this walcast knows up to {version}; use a newer walcast",
        version + 1
    );
    let record_says =
        format!("the record has version {}, this walcast knows up to {record}; use a newer walcast", record + 1);
    for says in [segment_says, record_says] {
        assert!(document.contains(&format!("- `{says}`")), "{says}");
    }
}

#[test]
fn the_tables_of_record_versions_decode_the_golden_records() {
    let document = document();
    for (version, heading) in [
        (1, "#### Record version 1: a message"),
        (2, "#### Record version 2: a message with idempotency key or traceparent"),
    ] {
        let fields = table(&document, heading);
        for mut expected in json_lines(&data().join(format!("record-v{version}.jsonl"))) {
            let bytes = expected.as_object_mut().expect("an object").remove("record_base64").expect("the bytes");
            let bytes = STANDARD.decode(bytes.as_str().expect("a text")).expect("base64");
            assert_eq!(bytes[0], version);
            let found = fields_of(&fields, &bytes[1..]);
            let body = found["body"].as_str().and_then(|body| body.strip_prefix("bytes ")).expect("bytes").to_owned();
            for name in ["subject", "id", "published_at_us", "expiration_seconds"] {
                assert_eq!(found[name], expected[name]);
            }
            for name in ["idempotency_key", "traceparent"] {
                assert_eq!(found[name].as_str().unwrap_or(""), expected[name].as_str().unwrap_or(""));
            }
            assert_eq!(expected["body_base64"], body);
        }
    }
}

#[test]
fn the_tables_of_lists_decode_the_golden_records() {
    let document = document();
    for (version, heading, name) in [
        (3, "#### Record version 3: high-water marks that were taken over", "marks"),
        (4, "#### Record version 4: idempotency keys that were taken over", "keys"),
    ] {
        let mut rows = table(&document, heading);
        assert_eq!(rows.remove(0)[..3], ["8", name, "`u64`"]);
        // The first row of an entry says that it is one of several.
        rows[0][0] = rows[0][0].split_once(": ").expect("for each entry").1;
        let lines = json_lines(&data().join(format!("record-v{version}.jsonl")));
        assert!(!lines.is_empty());
        for line in lines {
            let bytes = STANDARD.decode(line["record_base64"].as_str().expect("a text")).expect("base64");
            assert_eq!(bytes[0], version);
            let entries = line[name].as_array().expect("a list");
            assert_eq!(number(&bytes[1..9]), entries.len() as u64);
            let mut rest = &bytes[9..];
            for expected in entries {
                let found;
                (found, rest) = take_fields(&rows, rest);
                for (field, value) in expected.as_object().expect("an object") {
                    assert_eq!(found[field], *value, "{field}");
                }
            }
            assert!(rest.is_empty());
        }
    }
}

/// What the rows of a record's table make of its bytes, to the last one.
fn fields_of(rows: &[Vec<&str>], bytes: &[u8]) -> Value {
    let (found, rest) = take_fields(rows, bytes);
    assert!(rest.is_empty());
    found
}

/// What the rows make of the first bytes, and the bytes behind them.
fn take_fields<'a>(rows: &[Vec<&str>], bytes: &'a [u8]) -> (Value, &'a [u8]) {
    let mut rest = bytes;
    let mut found = json!({});
    for row in rows {
        let (length, name, kind) = (row[0], row[1], row[2]);
        let length = length.parse().unwrap_or_else(|_| found[length].as_u64().expect("a length before it") as usize);
        let (value, after) = rest.split_at(length);
        rest = after;
        found[name] = match kind {
            "`u32`" | "`u64`" => number(value).into(),
            "`i64`" => (number(value) as i64).into(),
            "UTF-8" => String::from_utf8(value.to_vec()).expect("UTF-8").into(),
            "hash" => hex(value).into(),
            other => Value::String(format!("{other} {}", STANDARD.encode(value))),
        };
    }
    (found, rest)
}
