//! The golden checkpoint of ids in `tests/data/ids-v1`: read by today's code, which writes the same but for the order of
//! subjects, and laid out as `docs/log-format.md` says.
//!
//! `WALCAST_WRITE_GOLDEN=1 cargo test --test it golden_ids` writes the file of a new version; released ones never change.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use walcast::event::{Durable, MessageId, Projected, Sequence};
use walcast::ingest::{CheckpointError, Checkpointer, Keys, SubjectTable, Window, WindowConfig};
use walcast::wal::{DiskFileSystem, LogId};

use super::golden::data;

const FILE_NAME: &str = "high-water-marks";
const LOG: LogId = LogId::from_bytes(*b"\x00log id\xff 1234567");
const TAKEN_AT: u64 = 0x0102_0304_0506;
const PROJECTED: u64 = 77;

/// In the order of their names.
fn marks() -> Vec<(String, u32)> {
    vec![("a".to_owned(), 1), ("größe 日本".to_owned(), i32::MAX as u32), ("é".repeat(127) + "x", 300)]
}

/// Takes a checkpoint of the marks and returns its bytes.
fn taken() -> Vec<u8> {
    let table = SubjectTable::new(10);
    for (name, id) in marks() {
        table.restore(&name, MessageId::new(id).expect("an id")).expect("there is room");
    }
    table.set_marked_through(Durable(Sequence::new(TAKEN_AT)));
    let dir = tempfile::tempdir().expect("a folder");
    let checkpointer = Checkpointer::new(Arc::new(DiskFileSystem), dir.path().to_owned(), LOG);
    let keys = Keys::new(Window::new(WindowConfig { keep_for: Duration::MAX, keys_max: 10 }));
    checkpointer.take(&table, &keys, Projected(Sequence::new(PROJECTED))).expect("can be written");
    fs::read(dir.path().join(FILE_NAME)).expect("it is there")
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

fn golden() -> Vec<u8> {
    let path = data().join("ids-v1").join(FILE_NAME);
    if std::env::var_os("WALCAST_WRITE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("in a folder")).expect("can be made");
        fs::write(&path, taken()).expect("can be written");
    }
    fs::read(path).expect("the golden checkpoint is there")
}

#[test]
fn a_golden_checkpoint_is_read_and_is_what_is_written() {
    let golden = golden();
    assert_eq!(decoded(&golden), marks());
    assert_eq!(decoded(&taken()), marks());

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
fn a_newer_checkpoint_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut newer = golden();
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
