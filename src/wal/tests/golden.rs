//! The golden logs in `tests/data/log-v1`: made by today's code on the simulated disk, whose clock and randomness are
//! known, and compared byte by byte with the files. What differs there can no longer be read by older builds, or
//! the other way round.
//!
//! `WALCAST_WRITE_GOLDEN=1 cargo test --lib golden` writes the files of a new format version. The files of a released
//! version never change.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::event::record::{self, KeyEntry, Record};
use crate::event::{Expiration, MessageId, UnixMicros};
use crate::wal::format::{SEGMENT_HEADER_BYTES, Salted, SegmentHeader};
use crate::wal::sim::SimFileSystem;

const DIR: &str = "/log";
const BASE_MICROS: i64 = 1_700_000_000_123_456;

/// 1 KiB of frames a segment: as small as the largest golden frame allows.
fn options() -> Options {
    Options {
        segment_bytes: 5 * 1024,
        max_bytes: 100 * 1024,
        keep_bytes: 0,
        frame_bytes_max: 960,
        node_id: 7,
        ..small(Path::new(DIR))
    }
}

struct Golden {
    fs: SimFileSystem,
    opened: Opened,
    /// Lines of the manifest.
    records: Vec<Value>,
}

impl Golden {
    fn new(seed: u64) -> Self {
        let fs = SimFileSystem::new(seed);
        let opened = open(Arc::new(fs.clone()), options()).expect("opens");
        Self { fs, opened, records: Vec::new() }
    }

    fn restart(self) -> Self {
        let Self { fs, opened, records } = self;
        drop(opened);
        fs.advance_clock(60);
        let opened = open(Arc::new(fs.clone()), options()).expect("opens");
        Self { fs, opened, records }
    }

    fn append(&mut self, records: &[Record<'_>]) {
        let mut batch = Batch::new(options().frame_bytes_max);
        for record in records {
            batch.push(|buffer| record::encode(record, buffer)).expect("the record fits");
        }
        let first = self.opened.writer.next_sequence();
        self.opened.writer.append(&batch).expect("the disk works");
        self.records.extend((first.get()..).zip(records).map(|(sequence, record)| line(sequence, record)));
        self.fs.advance_clock(1);
    }

    /// A frame of records that a repair had to give up.
    fn append_lost(&mut self, count: u64) {
        let first = self.opened.writer.next_sequence().get();
        self.opened.writer.append(&batch(&vec![record::LOST; count as usize])).expect("the disk works");
        self.records.extend((first..first + count).map(|sequence| json!({"sequence": sequence, "lost": true})));
    }

    /// Frames of two records with the next ids of a subject and bodies of this length.
    fn fill(&mut self, frames: u32, body_bytes: usize) {
        for _ in 0..frames {
            let next = self.opened.writer.next_sequence().get() as u32;
            let bodies = [b'a', b'A'].map(|letter| vec![letter + (next % 26) as u8; body_bytes]);
            let records: Vec<_> = (next..).zip(&bodies).map(|(id, body)| record("fill", id, 0, body)).collect();
            self.append(&records);
        }
    }

    /// Trims the oldest so many segments; returns the last sequence that is gone.
    fn trim(&self, segments: usize) -> u64 {
        let first_kept = self.opened.log.segments()[segments].first;
        self.opened.log.release(first_kept).expect("can be trimmed").sequence().get()
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let names = self.fs.names();
        names.into_iter().map(|name| (name.clone(), content(&self.fs, &Path::new(DIR).join(name)))).collect()
    }
}

fn record<'a>(subject: &'a str, id: u32, expiration: i32, body: &'a [u8]) -> Record<'a> {
    Record {
        subject,
        id: MessageId::new(id).expect("an id"),
        published_at: UnixMicros::from_micros(BASE_MICROS + i64::from(id % 1_000)),
        expiration: Expiration::from_wire(expiration).expect("not negative"),
        idempotency_key: None,
        traceparent: None,
        body,
    }
}

fn at(micros: i64, record: Record<'_>) -> Record<'_> {
    Record { published_at: UnixMicros::from_micros(micros), ..record }
}

fn line(sequence: u64, record: &Record<'_>) -> Value {
    let mut line = record_line(record);
    line["sequence"] = sequence.into();
    line
}

fn record_line(record: &Record<'_>) -> Value {
    let mut line = json!({
        "subject": record.subject,
        "id": record.id.get(),
        "published_at_us": record.published_at.as_micros(),
        "expiration_seconds": record.expiration.seconds(),
        "body_base64": STANDARD.encode(record.body),
    });
    for (name, text) in [("idempotency_key", record.idempotency_key), ("traceparent", record.traceparent)] {
        if let Some(text) = text {
            line[name] = text.into();
        }
    }
    line
}

fn content(fs: &SimFileSystem, path: &Path) -> Vec<u8> {
    let file = fs.open(path).expect("the file is there");
    let mut bytes = vec![0; file.len().expect("has a length") as usize];
    assert_eq!(file.read_at(&mut bytes, 0).expect("readable"), bytes.len());
    bytes
}

fn corner_cases(longest_subject: &str) -> Vec<Record<'_>> {
    // The start of a frame, and a whole header of zeros behind it.
    const LIKE_A_FRAME: &[u8] = b"\xD7WF\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    vec![
        record("orders.eu", 1, 60, b"hello"),
        record("orders.eu", 2, 0, b""),
        at(-1, record("größe 日本 🦀", 1, i32::MAX, b"\0\xff\n\"\\")),
        at(i64::MIN, record(longest_subject, i32::MAX as u32, 0, b"x")),
        at(i64::MAX, record("'; drop table--", 1, 1, LIKE_A_FRAME)),
        at(0, record("a", 1, 0, &[0; 64])),
    ]
}

/// Records that version 1 cannot say.
fn keyed_cases(longest_key: &str) -> Vec<Record<'_>> {
    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let plain = |id, body| record("orders.eu", id, 60, body);
    vec![
        Record { idempotency_key: Some("order 17"), ..plain(1, b"hello") },
        Record { traceparent: Some(TRACEPARENT), ..plain(2, b"") },
        Record { idempotency_key: Some("größe 🦀"), traceparent: Some(TRACEPARENT), ..plain(3, b"\0\xff") },
        Record { idempotency_key: Some(longest_key), ..record("a", 1, 0, b"") },
        Record { traceparent: Some("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-later"), ..plain(4, b"x") },
    ]
}

fn marks_cases(longest: &str) -> Vec<Vec<(&str, u32)>> {
    let same_twice = vec![("a", 7), ("größe 日本 🦀", 1), ("a", 6)];
    vec![vec![("orders.eu", 1)], same_twice, vec![(longest, 0x7FFF_FFFF), ("'; drop table--", 300)]]
}

fn keys_cases() -> Vec<Vec<KeyEntry>> {
    // Their bytes in an order that shows it if it is changed.
    let hash = |first: u8| std::array::from_fn(|at| first + at as u8);
    let key = |first, micros, id| KeyEntry {
        name: hash(first),
        body: hash(first + 0x10),
        published_at: UnixMicros::from_micros(micros),
        id: MessageId::new(id).expect("an id"),
    };
    let alike = KeyEntry { name: [0xFF; 16], body: [0; 16], ..key(0, 0, 0x7FFF_FFFF) };
    vec![
        vec![key(0x80, BASE_MICROS, 1)],
        vec![alike, key(0, i64::MIN, 2), key(0x20, i64::MAX, 0x0102_0304), key(0x40, -1, 4)],
    ]
}

fn longest_subject() -> String {
    "é".repeat(127) + "x"
}

/// Starts at 1: a segment closed by the next, one cut by a restart, and an open one with zeros behind its end.
fn fresh() -> Golden {
    let mut golden = Golden::new(1);
    let subject = longest_subject();
    let records = corner_cases(&subject);
    golden.append(&records[..1]);
    golden.append(&records[1..3]);
    golden.append(&records[3..4]);
    golden.append(&records[4..]);
    golden.fill(3, 65);
    assert_eq!(golden.opened.log.segments().len(), 2);
    let mut golden = golden.restart();
    golden.fill(1, 90);
    golden
}

/// Trimmed at the start; the later segments are in files that were used before, with old frames behind their ends.
fn reused() -> Golden {
    let mut golden = Golden::new(2);
    golden.fill(11, 65);
    // Two files for the next two segments, which have longer frames; then one that stays a spare.
    golden.trim(2);
    golden.fill(5, 90);
    let trimmed = golden.trim(1);
    golden.records.retain(|line| line["sequence"].as_u64() > Some(trimmed));
    golden
}

/// As `reused`, and the last frame is on the disk up to its middle only; the rest is what was there before.
fn torn() -> (BTreeMap<String, Vec<u8>>, Vec<Value>) {
    let mut golden = reused();
    let before = golden.files();
    let records = golden.records.clone();
    golden.fill(1, 90);
    let mut after = golden.files();
    assert!(before.keys().eq(after.keys()), "the frame goes into the same segment");
    let name = newest(&after);
    let (old, new) = (&before[&name], after.get_mut(&name).expect("it is there"));
    let changed: Vec<_> = (0..old.len()).filter(|at| old[*at] != new[*at]).collect();
    let middle = usize::midpoint(changed[0], changed[changed.len() - 1]);
    new[middle..].copy_from_slice(&old[middle..]);
    (after, records)
}

/// As a repair leaves it: markers where records were.
fn repaired() -> Golden {
    let mut golden = Golden::new(3);
    golden.append(&[record("orders.eu", 1, 60, b"kept")]);
    golden.append_lost(2);
    golden.append(&[record("orders.eu", 4, 60, b"kept, too")]);
    golden.append_lost(1);
    golden
}

/// Records of both versions in one frame and in frames of their own.
fn keyed() -> Golden {
    let mut golden = Golden::new(4);
    let key = longest_subject();
    let keyed = keyed_cases(&key);
    golden.append(&[keyed[0], record("a", 1, 60, b"plain"), keyed[1]]);
    golden.append(&keyed[2..3]);
    golden.append(&[record("a", 2, 0, b"plain, too")]);
    golden.append(&keyed[3..]);
    golden
}

fn newest(files: &BTreeMap<String, Vec<u8>>) -> String {
    files.keys().rfind(|name| name.ends_with(".wal")).expect("there is a segment").clone()
}

/// One line a segment: what its header says, its frames, and where they end.
fn segment_lines(files: &BTreeMap<String, Vec<u8>>) -> Vec<Value> {
    let segments = files.iter().filter(|(name, _)| name.ends_with(".wal"));
    segments.map(|(name, bytes)| segment_line(name, bytes)).collect()
}

fn segment_line(name: &str, bytes: &[u8]) -> Value {
    let block = bytes.first_chunk().expect("a segment begins with a header");
    let header = SegmentHeader::decode(block).expect("a header of this version");
    let salted = Salted::new(&header.salt);
    let mut offset = SEGMENT_HEADER_BYTES as usize;
    let mut frames = Vec::new();
    while let Some(frame) = salted.header(&bytes[offset..]) {
        let end = offset + frame.frame_bytes();
        if !salted.payload_matches(&frame, &bytes[offset + 32..end]) {
            break;
        }
        let first = frame.first.get();
        frames.push(json!({"offset": offset, "bytes": end - offset, "first": first, "records": frame.records}));
        offset = end;
    }
    json!({
        "file": name,
        "bytes": bytes.len(),
        "version": 1,
        "node_id": header.node_id,
        "log_id": header.log_id.to_string(),
        "epoch": header.epoch,
        "salt": LogId::from_bytes(header.salt).to_string(),
        "first": header.first.get(),
        "previous_first": header.previous_first.get(),
        "created_at_us": header.created_at.as_micros(),
        "flags": u32::from(header.reused),
        "frames": frames,
        "end": offset,
    })
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn lines(values: &[Value]) -> Vec<u8> {
    values.iter().map(|value| value.to_string() + "\n").collect::<String>().into_bytes()
}

/// Compares with the golden file, or writes it.
fn golden(path: &Path, bytes: &[u8]) {
    let path = data().join(path);
    if std::env::var_os("WALCAST_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("in a folder")).expect("can be made");
        fs::write(&path, bytes).expect("can be written");
    }
    let expected = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let differ = (0..expected.len().max(bytes.len())).find(|at| expected.get(*at) != bytes.get(*at));
    assert_eq!(differ, None, "{} is no longer what is written, from this byte on", path.display());
}

fn golden_log(name: &str, files: &BTreeMap<String, Vec<u8>>, records: &[Value]) {
    let dir = Path::new("log-v1");
    for (file, bytes) in files {
        golden(&dir.join(name).join(file), bytes);
    }
    let found = fs::read_dir(data().join(dir).join(name)).expect("the folder is there");
    assert_eq!(found.count(), files.len(), "no other file is in the golden log {name}");
    golden(&dir.join(format!("{name}.records.jsonl")), &lines(records));
    golden(&dir.join(format!("{name}.segments.jsonl")), &lines(&segment_lines(files)));
}

#[test]
fn golden_log_fresh_is_what_is_written() {
    let fresh = fresh();
    let files = fresh.files();
    assert_eq!(files.len(), 3, "{:?}", files.keys());
    let newest = &files[&newest(&files)];
    assert!(newest.ends_with(&[0; 512]), "zeros follow the end");
    golden_log("fresh", &files, &fresh.records);
}

#[test]
fn golden_log_reused_is_what_is_written() {
    let reused = reused();
    let files = reused.files();
    assert!(files.keys().any(|name| name.ends_with(".used")), "one trimmed file waits for its use");
    let lines = segment_lines(&files);
    assert!(lines.iter().all(|line| line["flags"] == 1) && lines.len() == 2, "both are in files that were used before");
    let old_frames = |line: &Value| {
        let end = line["end"].as_u64().expect("a number") as usize;
        files[line["file"].as_str().expect("a name")][end..].windows(4).filter(|bytes| *bytes == b"\xD7WF\n").count()
    };
    assert!(old_frames(&lines[1]) > 0, "old frames follow the end");
    golden_log("reused", &files, &reused.records);
}

#[test]
fn golden_log_torn_is_what_a_crash_leaves() {
    let (files, records) = torn();
    golden_log("torn", &files, &records);
}

#[test]
fn golden_log_repaired_is_what_is_written() {
    let repaired = repaired();
    golden_log("repaired", &repaired.files(), &repaired.records);
    let line = json!({"lost": true, "record_base64": STANDARD.encode(record::LOST)});
    golden(Path::new("record-v0.jsonl"), &lines(&[line]));
}

#[test]
fn golden_log_keyed_is_what_is_written() {
    let keyed = keyed();
    golden_log("keyed", &keyed.files(), &keyed.records);
}

#[test]
fn golden_records_are_what_is_written() {
    let longest = longest_subject();
    for (version, records) in [(1, corner_cases(&longest)), (2, keyed_cases(&longest))] {
        let encoded = |record: &Record<'_>| {
            let mut bytes = Vec::new();
            record::encode(record, &mut bytes).expect("the record fits");
            assert_eq!(bytes[0], version);
            let mut line = record_line(record);
            line["record_base64"] = STANDARD.encode(&bytes).into();
            line
        };
        let record_lines: Vec<_> = records.iter().map(encoded).collect();
        golden(Path::new(&format!("record-v{version}.jsonl")), &lines(&record_lines));
    }
}

#[test]
fn golden_records_of_what_was_taken_over_are_what_is_written() {
    let longest = longest_subject();
    let written = |version, encode: &dyn Fn(&mut Vec<u8>) -> Result<(), record::RecordError>, mut line: Value| {
        let mut bytes = Vec::new();
        encode(&mut bytes).expect("it fits");
        assert_eq!(bytes[0], version);
        line["record_base64"] = STANDARD.encode(&bytes).into();
        line
    };
    let marks = marks_cases(&longest).into_iter().map(|marks| {
        let shown: Vec<_> = marks.iter().map(|(subject, id)| json!({"subject": subject, "id": id})).collect();
        let id = |id: u32| MessageId::new(id).expect("an id");
        let marks = || marks.iter().map(|(subject, last)| (*subject, id(*last)));
        written(3, &|buffer| record::encode_marks(marks(), buffer), json!({"marks": shown}))
    });
    golden(Path::new("record-v3.jsonl"), &lines(&marks.collect::<Vec<_>>()));
    let keys = keys_cases().into_iter().map(|keys| {
        let hex = |hash: [u8; 16]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let shown = keys.iter().map(|key| {
            json!({
                "name_hash": hex(key.name),
                "body_hash": hex(key.body),
                "published_at_us": key.published_at.as_micros(),
                "id": key.id.get(),
            })
        });
        let line = json!({"keys": shown.collect::<Vec<_>>()});
        written(4, &|buffer| record::encode_keys(keys.iter().copied(), buffer), line)
    });
    golden(Path::new("record-v4.jsonl"), &lines(&keys.collect::<Vec<_>>()));
}
