//! The golden checkpoints of ids and idempotency keys in `tests/data/ids-v1`: read by today's code, which writes the same but
//! for the order of subjects, and laid out as `docs/log-format.md` says.
//!
//! `WALCAST_WRITE_GOLDEN=1 cargo test --test it golden_ids` writes the file of a new version; released ones never change.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use walcast::event::record::{self, Logged};
use walcast::event::{Durable, MessageId, Projected, Sequence, UnixMicros};
use walcast::ingest::{
    CheckpointError, Checkpointer, Fingerprint, Keys, SubjectTable, Window, WindowConfig, restore_keys,
};
use walcast::wal::{DiskFileSystem, LogId};

use super::golden::{data, json_lines};

const FILE_NAME: &str = "high-water-marks";
const KEYS_FILE_NAME: &str = "idempotency-keys";
const LOG: LogId = LogId::from_bytes(*b"\x00log id\xff 1234567");
const TAKEN_AT: u64 = 0x0102_0304_0506;
const PROJECTED: u64 = 77;

/// In the order of their names.
fn marks() -> Vec<(String, u32)> {
    vec![("a".to_owned(), 1), ("größe 日本".to_owned(), i32::MAX as u32), ("é".repeat(127) + "x", 300)]
}

/// Takes a checkpoint of the marks and keys and returns the bytes of one of its files.
fn taken(file: &str) -> Vec<u8> {
    let table = SubjectTable::new(10);
    for (name, id) in marks() {
        table.restore(&name, MessageId::new(id).expect("an id")).expect("there is room");
    }
    table.set_marked_through(Durable(Sequence::new(TAKEN_AT)));
    let dir = tempfile::tempdir().expect("a folder");
    let checkpointer = Checkpointer::new(Arc::new(DiskFileSystem), dir.path().to_owned(), LOG);
    checkpointer.take(&table, &Keys::new(keys()), Projected(Sequence::new(PROJECTED))).expect("can be written");
    fs::read(dir.path().join(file)).expect("it is there")
}

fn window() -> Window {
    Window::new(WindowConfig { keep_for: Duration::MAX, keys_max: 10 })
}

/// The keys of the golden records of version 2, the last of them at `TAKEN_AT`, and one behind it.
fn keys() -> Window {
    let records = keyed_records();
    let first = TAKEN_AT + 1 - records.len() as u64;
    let mut window = window();
    for (sequence, bytes) in (first..).zip(records.iter().chain(&records[..1])) {
        let Ok(Logged::Message(record)) = record::decode(bytes) else { panic!("not a message") };
        window.replay(Sequence::new(sequence), &record, UnixMicros::default());
    }
    window
}

fn keyed_records() -> Vec<Vec<u8>> {
    let lines = json_lines(&data().join("record-v2.jsonl"));
    let bytes = |line: &Value| STANDARD.decode(line["record_base64"].as_str().expect("a text")).expect("base64");
    lines.iter().map(bytes).collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The marks in a file, in the order of their names; everything else is checked to be as the document's table says.
fn decoded(file: &[u8]) -> Vec<(String, u32)> {
    let mut rest = file;
    let mut take = |count| {
        let (taken, after) = rest.split_at(count);
        rest = after;
        taken
    };
    assert_eq!(take(8), b"WALCAIDS");
    assert_eq!(number(take(4)), 1, "version");
    assert_eq!(take(16), LOG.as_bytes());
    assert_eq!(number(take(8)), TAKEN_AT);
    assert_eq!(number(take(8)), PROJECTED);
    let mut found = Vec::new();
    loop {
        let length = number(take(1)) as usize;
        if length == 0 {
            break;
        }
        let name = String::from_utf8(take(length).to_vec()).expect("UTF-8");
        found.push((name, number(take(4)) as u32));
    }
    assert_eq!(number(take(8)), found.len() as u64);
    assert_eq!(number(take(4)), u64::from(crc32c::crc32c(&file[..file.len() - 4])));
    assert!(rest.is_empty());
    found.sort();
    found
}

fn golden(file: &str) -> Vec<u8> {
    let path = data().join("ids-v1").join(file);
    if std::env::var_os("WALCAST_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("in a folder")).expect("can be made");
        fs::write(&path, taken(file)).expect("can be written");
    }
    fs::read(path).expect("the golden checkpoint is there")
}

#[test]
fn a_golden_checkpoint_is_read_and_is_what_is_written() {
    let golden = golden(FILE_NAME);
    assert_eq!(decoded(&golden), marks());
    assert_eq!(decoded(&taken(FILE_NAME)), marks());

    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join(FILE_NAME), &golden).expect("can be written");
    let table = SubjectTable::new(10);
    let restored = Checkpointer::restore(&DiskFileSystem, dir.path(), &table).expect("valid").expect("it is there");
    assert_eq!((restored.log_id, restored.taken_at.get()), (LOG, TAKEN_AT));
    assert_eq!((restored.projected.sequence().get(), restored.subjects), (PROJECTED, 3));
    for (name, id) in marks() {
        assert_eq!(table.high_water_mark(&name).map(|(_, last)| last.get()), Some(id), "{name}");
    }
}

#[test]
fn golden_keys_are_read_and_are_what_is_written() {
    let golden = golden(KEYS_FILE_NAME);
    assert_eq!(taken(KEYS_FILE_NAME), golden);
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join(KEYS_FILE_NAME), &golden).expect("can be written");
    let mut restored = window();
    let found = restore_keys(&DiskFileSystem, dir.path(), &mut restored, UnixMicros::default());
    let found = found.expect("valid").expect("it is there");
    assert_eq!((found.log_id, found.taken_at.get(), found.keys), (LOG, TAKEN_AT, 3));
    // Two of the five records have no key. What the table of the document says of the others is in the file.
    let mut rest = &golden[44..];
    for (sequence, bytes) in (TAKEN_AT - 4..).zip(keyed_records()) {
        let Ok(Logged::Message(record)) = record::decode(&bytes) else { panic!("not a message") };
        let Some(print) = Fingerprint::of(&record) else { continue };
        let (entry, after) = rest.split_at(52);
        rest = after;
        assert_eq!((&entry[..16], &entry[16..32]), (&print.name[..], &print.body[..]));
        assert_eq!(number(&entry[32..40]), sequence);
        assert_eq!(number(&entry[40..48]) as i64, record.published_at.as_micros());
        assert_eq!(number(&entry[48..]), u64::from(record.id.get()));
        assert!(restored.look_up(&print, UnixMicros::default()).is_some_and(|known| known.same_body));
    }
    assert_eq!(rest.len(), 4);
}

#[test]
fn a_newer_checkpoint_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut newer = golden(FILE_NAME);
    newer[8] = 2;
    let crc_at = newer.len() - 4;
    let crc = crc32c::crc32c(&newer[..crc_at]);
    newer[crc_at..].copy_from_slice(&crc.to_le_bytes());
    fs::write(dir.path().join(FILE_NAME), &newer).expect("can be written");
    let error = Checkpointer::restore(&DiskFileSystem, dir.path(), &SubjectTable::new(10));
    let error = error.expect_err("it is newer");
    assert!(matches!(error, CheckpointError::NewerVersion { version: 2, .. }), "{error}");
    assert!(error.to_string().contains("has format version 2, this walcast knows 1; use a newer walcast"), "{error}");
}
