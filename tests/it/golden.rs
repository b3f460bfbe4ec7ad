//! The golden logs and records of `tests/data/`, read by today's code: what older builds wrote stays readable, and what
//! newer builds write is refused by name. `src/wal/tests/golden.rs` shows that today's code writes the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use walcast::event::record::{self, KeyEntry, Logged, Record, TakenOver};
use walcast::event::{MessageId, Sequence};
use walcast::wal::{DiskFileSystem, OpenError, Options, Preparation, VerifyError, inspect};

/// A golden log with what its manifests say.
pub const LOGS: [&str; 5] = ["fresh", "reused", "torn", "repaired", "keyed"];

const HEADER_BYTES: usize = 4096;

pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

pub fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the manifest is there");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
}

pub fn manifest(log: &str, kind: &str) -> Vec<Value> {
    json_lines(&data().join(format!("log-v1/{log}.{kind}.jsonl")))
}

fn message(bytes: &[u8]) -> Record<'_> {
    match record::decode(bytes).expect("a record of a known version") {
        Logged::Message(record) => record,
        other => panic!("a message was here: {other:?}"),
    }
}

/// A line of the manifest without the sequence.
fn line(bytes: &[u8]) -> Value {
    if bytes == record::LOST { json!({"lost": true}) } else { fields(&message(bytes)) }
}

fn fields(record: &Record<'_>) -> Value {
    let mut fields = json!({
        "subject": record.subject,
        "id": record.id.get(),
        "published_at_us": record.published_at.as_micros(),
        "expiration_seconds": record.expiration.seconds(),
        "body_base64": STANDARD.encode(record.body),
    });
    for (name, text) in [("idempotency_key", record.idempotency_key), ("traceparent", record.traceparent)] {
        if let Some(text) = text {
            fields[name] = text.into();
        }
    }
    fields
}

/// A copy of a golden log to change.
struct Copy(TempDir);

impl Copy {
    fn of(log: &str) -> Self {
        let copy = Self(tempfile::tempdir().expect("a folder"));
        for entry in fs::read_dir(data().join("log-v1").join(log)).expect("the golden log is there") {
            let entry = entry.expect("readable");
            fs::copy(entry.path(), copy.0.path().join(entry.file_name())).expect("can be copied");
        }
        copy
    }

    fn file(&self, first: u64) -> PathBuf {
        self.0.path().join(format!("{first:020}.wal"))
    }

    fn change(&self, first: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file(first)).expect("the segment is there");
        change(&mut bytes);
        fs::write(self.file(first), bytes).expect("can be written");
    }

    /// Every record, or why not.
    fn read(&self) -> Result<Vec<Value>, VerifyError> {
        read(self.0.path()).map(|(records, _)| records)
    }

    /// The last sequence, or what the damage says.
    fn last(&self) -> Result<u64, String> {
        let records = self.read().map_err(|error| error.to_string())?;
        Ok(records.last().and_then(|record| record["sequence"].as_u64()).unwrap_or(0))
    }

    fn refusal(&self) -> String {
        self.read().expect_err("this cannot be read").to_string()
    }
}

/// Every record of the log with its sequence, and the bytes of a torn write. Every byte is checked before.
fn read(dir: &Path) -> Result<(Vec<Value>, u64), VerifyError> {
    let inspection = inspect(Arc::new(DiskFileSystem), dir)?;
    let verified = inspection.verify(&mut |_| ())?;
    let mut scanner = inspection.scanner(Sequence::ZERO);
    let mut records = Vec::new();
    while let Some(frame) = scanner.next()? {
        for (sequence, bytes) in frame.iter() {
            let mut line = line(&bytes);
            line["sequence"] = sequence.get().into();
            records.push(line);
        }
    }
    assert_eq!(verified.records, records.len() as u64);
    Ok((records, verified.torn_bytes))
}

#[test]
fn golden_logs_are_read_to_the_letter() {
    for (log, torn_bytes) in LOGS.into_iter().zip([0, 0, 294, 0, 0]) {
        let dir = data().join("log-v1").join(log);
        let (records, torn) = read(&dir).expect("the golden log is sound");
        assert_eq!(records, manifest(log, "records"), "{log}");
        assert_eq!(torn, torn_bytes, "{log}");
        let inspection = inspect(Arc::new(DiskFileSystem), &dir).expect("sound");
        let names: Vec<_> = inspection.segments().iter().map(|segment| segment.path.clone()).collect();
        let expected = manifest(log, "segments");
        let expected = expected.iter().map(|line| dir.join(line["file"].as_str().expect("a name")));
        assert_eq!(names, expected.collect::<Vec<_>>(), "{log}");
    }
}

#[test]
fn golden_logs_are_opened_and_written_on() {
    for log in LOGS {
        let copy = Copy::of(log);
        let options = Options {
            segment_bytes: 5 * 1024,
            max_bytes: 100 * 1024,
            frame_bytes_max: 960,
            preparation: Preparation::Inline,
            ..Options::new(copy.0.path())
        };
        let opened = walcast::wal::open(Arc::new(DiskFileSystem), options).expect("opens");
        let expected = manifest(log, "records");
        let last = expected.last().expect("there are records")["sequence"].as_u64();
        assert_eq!(Some(opened.recovery.durable.sequence().get()), last, "{log}");
        assert_eq!(opened.recovery.torn_tail.is_some(), log == "torn");
        drop(opened);
        assert_eq!(copy.read().expect("sound"), expected, "{log}");
    }
}

#[test]
fn golden_records_are_read_to_the_letter_and_written_the_same() {
    let [plain, keyed] = [1, 2].map(|version| json_lines(&data().join(format!("record-v{version}.jsonl"))));
    assert_eq!((plain.len(), keyed.len()), (6, 5));
    for mut line in plain.into_iter().chain(keyed) {
        let bytes = line.as_object_mut().expect("an object").remove("record_base64").expect("the bytes");
        let bytes = STANDARD.decode(bytes.as_str().expect("a text")).expect("base64");
        let record = message(&bytes);
        assert_eq!(fields(&record), line);
        let mut again = Vec::new();
        record::encode(&record, &mut again).expect("fits");
        assert_eq!(again, bytes, "{line}");
    }
}

#[test]
fn the_golden_lost_record_is_read_as_lost() {
    let lines = json_lines(&data().join("record-v0.jsonl"));
    assert_eq!(lines, [json!({"lost": true, "record_base64": STANDARD.encode(record::LOST)})]);
    assert_eq!(record::decode(record::LOST), Ok(Logged::Lost));
    assert!(record::decode(&[0, 0]).is_err(), "nothing follows the version");
}

#[test]
fn golden_records_of_what_was_taken_over_are_read_to_the_letter_and_written_the_same() {
    let [marks, keys] = [3, 4].map(|version| json_lines(&data().join(format!("record-v{version}.jsonl"))));
    assert_eq!((marks.len(), keys.len()), (3, 2));
    for mut line in marks.into_iter().chain(keys) {
        let bytes = line.as_object_mut().expect("an object").remove("record_base64").expect("the bytes");
        let bytes = STANDARD.decode(bytes.as_str().expect("a text")).expect("base64");
        let mut again = Vec::new();
        let Ok(Logged::TakenOver(taken_over)) = record::decode(&bytes) else { panic!("{line}") };
        let found = match taken_over {
            TakenOver::Marks(marks) => {
                record::encode_marks(marks.iter(), &mut again).expect("fits");
                let mark = |(subject, id): (&str, MessageId)| json!({"subject": subject, "id": id.get()});
                json!({"marks": marks.iter().map(mark).collect::<Vec<_>>()})
            }
            TakenOver::Keys(keys) => {
                record::encode_keys(keys.iter(), &mut again).expect("fits");
                json!({"keys": keys.iter().map(key_fields).collect::<Vec<_>>()})
            }
        };
        assert_eq!(found, line);
        assert_eq!(again, bytes, "{line}");
    }
}

fn key_fields(key: KeyEntry) -> Value {
    let hex = |hash: [u8; 16]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!({
        "name_hash": hex(key.name),
        "body_hash": hex(key.body),
        "published_at_us": key.published_at.as_micros(),
        "id": key.id.get(),
    })
}

#[test]
fn a_newer_segment_version_is_refused_by_name() {
    let says = "the segment has format version 2, this walcast knows up to 1; use a newer walcast";
    for segment in manifest("fresh", "segments") {
        let first = segment["first"].as_u64().expect("a number");
        let copy = Copy::of("fresh");
        copy.change(first, |bytes| {
            bytes[8] = 2;
            let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
            bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        });
        let refusal = copy.refusal();
        assert!(refusal.contains(says) && refusal.contains(&format!("{first:020}.wal")), "{refusal}");
        let before = fs::read(copy.file(first)).expect("there");
        let opened = walcast::wal::open(Arc::new(DiskFileSystem), Options::new(copy.0.path()));
        let error = opened.expect_err("it does not open");
        assert!(matches!(&error, OpenError::Damaged(_)) && error.to_string().contains(says), "{error}");
        assert_eq!(fs::read(copy.file(first)).expect("still there"), before);
    }
}

#[test]
fn a_newer_record_version_is_refused_by_name() {
    let copy = Copy::of("fresh");
    // The first record of the first frame: its version is behind the frame's header and the record's length.
    copy.change(1, |bytes| {
        bytes[HEADER_BYTES + 36] = 5;
        seal_again(bytes, HEADER_BYTES);
    });
    let inspection = inspect(Arc::new(DiskFileSystem), copy.0.path()).expect("the frames are sound");
    inspection.verify(&mut |_| ()).expect("records are opaque bytes to the log");
    let frame = inspection.scanner(Sequence::ZERO).next().expect("sound").expect("there is one");
    let (_, bytes) = frame.iter().next().expect("a record");
    let error = record::decode(&bytes).expect_err("a newer record");
    assert_eq!(error.to_string(), "the record has version 5, this walcast knows up to 4; use a newer walcast");
}

/// Computes the checksums of the frame at `offset` anew.
fn seal_again(segment: &mut [u8], offset: usize) {
    let seed = crc32c::crc32c(&segment[40..56]);
    let number = |at| u32::from_le_bytes(segment[at..at + 4].try_into().expect("four bytes")) as usize;
    let payload = offset + 32..offset + 32 + number(offset + 8);
    let crc = crc32c::crc32c_append(seed, &segment[payload]);
    segment[offset + 24..offset + 28].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &segment[offset..offset + 28]);
    segment[offset + 28..offset + 32].copy_from_slice(&crc.to_le_bytes());
}

/// The cases at the end of `docs/log-format.md`.
#[test]
fn changed_golden_logs_are_what_the_document_says() {
    for (first, end) in [(1, 5105), (9, 4584)] {
        for cut in [0, 4095, 4096, 4200, end - 1] {
            let copy = Copy::of("fresh");
            copy.change(first, |bytes| bytes.truncate(cut));
            copy.refusal();
        }
    }
    for (cut, last) in [(4096, 28), (4389, 28), (4390, 30), (4683, 30), (4684, 32), (5000, 32)] {
        let copy = Copy::of("reused");
        copy.change(29, |bytes| bytes.truncate(cut));
        assert_eq!(copy.last(), Ok(last), "cut at {cut}");
    }
    let copy = Copy::of("fresh");
    fs::remove_file(copy.file(9)).expect("can be removed");
    assert!(copy.refusal().contains("is missing"));
    let copy = Copy::of("fresh");
    fs::remove_file(copy.file(1)).expect("can be removed");
    assert_eq!(copy.read().expect("it begins later"), manifest("fresh", "records")[8..]);
    fs::copy(copy.file(9), copy.file(11)).expect("can be copied");
    assert!(copy.refusal().contains("copy"));
    let copy = Copy::of("reused");
    fs::copy(Copy::of("fresh").file(13), copy.file(13)).expect("can be copied");
    assert!(copy.refusal().contains("belongs to log"));
    let copy = Copy::of("fresh");
    copy.change(13, |bytes| bytes.resize(bytes.len() + 700, 0));
    assert_eq!(copy.last(), Ok(14));
}

#[test]
fn a_flipped_bit_in_a_golden_log_is_damage_or_a_torn_end() {
    for log in LOGS {
        let segments = manifest(log, "segments");
        let newest = segments.len() - 1;
        for (index, segment) in segments.iter().enumerate() {
            let number = |value: &Value| value.as_u64().expect("a number") as usize;
            let end = number(&segment["end"]);
            let last_frame =
                number(&segment["frames"].as_array().and_then(|frames| frames.last()).expect("a frame")["offset"]);
            // The header of a frame that is torn proves that the one before it was durable.
            let torn_from = if index == newest && log != "torn" { last_frame } else { end };
            let first = segment["first"].as_u64().expect("a number");
            let copy = Copy::of(log);
            // A part of the bytes, another bit each time: `wal` has a test of all bits, this one is of the golden files.
            for at in (0..100).step_by(3).chain((100..4092).step_by(131)).chain((4092..end).step_by(5)) {
                let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1 << (at % 8);
                copy.change(first, flip);
                match copy.last() {
                    Err(damage) => {
                        assert!(at < torn_from && damage.contains("is damaged"), "{log} {first} {at}: {damage}")
                    }
                    Ok(last) => {
                        let frames = segment["frames"].as_array().expect("frames");
                        let kept = frames.last().expect("a frame")["first"].as_u64().expect("a number") - 1;
                        assert!(at >= torn_from && last == kept, "{log} {first} {at}: ends at {last}");
                    }
                }
                copy.change(first, flip);
            }
        }
    }
}
