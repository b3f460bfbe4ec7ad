use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::event::record::{self, KeyEntry, LOST, Record};
use crate::event::{Durable, Expiration, MessageId, Projected, Subject, UnixMicros, clock};
use crate::ingest::Fingerprint;
use crate::wal::{Batch, Options};

const FRAME_BYTES_MAX: usize = 64 * 1024;

/// A log of these records.
fn log_of(directory: &TempDir, records: &[Vec<u8>]) -> Log {
    let options =
        Options { segment_bytes: 256 * 1024, frame_bytes_max: FRAME_BYTES_MAX, ..Options::new(directory.path()) };
    let mut opened = wal::open(Arc::new(DiskFileSystem), options).expect("opens");
    let mut batch = Batch::new(FRAME_BYTES_MAX);
    for record in records {
        let put = |buffer: &mut Vec<u8>| {
            buffer.extend_from_slice(record);
            Ok::<(), std::convert::Infallible>(())
        };
        batch.push(put).expect("fits");
    }
    opened.writer.ensure_room(FRAME_BYTES_MAX).expect("room");
    opened.writer.append(&batch).expect("appended");
    opened.log
}

fn id(number: u32) -> MessageId {
    MessageId::new(number).expect("an id")
}

fn encoded<E: std::fmt::Debug>(encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes).expect("fits");
    bytes
}

fn keyed(subject: &str, number: u32, idempotency_key: Option<&str>, published_at: UnixMicros) -> Vec<u8> {
    let expiration = Expiration::FIRE_AND_FORGET;
    let (id, traceparent) = (id(number), None);
    let record = Record { subject, id, published_at, expiration, idempotency_key, traceparent, body: b"" };
    encoded(|buffer| record::encode(&record, buffer))
}

fn message(subject: &str, number: u32) -> Vec<u8> {
    keyed(subject, number, None, UnixMicros::from_micros(1))
}

fn lost() -> Vec<u8> {
    LOST.to_vec()
}

fn marks(marks: &[(&str, u32)]) -> Vec<u8> {
    encoded(|buffer| record::encode_marks(marks.iter().map(|(subject, number)| (*subject, id(*number))), buffer))
}

/// Keys of messages without body, each with the id that is its place here.
fn keys(keys: &[(&str, UnixMicros)]) -> Vec<u8> {
    let entries = (1..).zip(keys).map(|(number, (key, published_at))| {
        let Fingerprint { name, body } = Fingerprint::new("a", key, b"");
        KeyEntry { name, body, published_at: *published_at, id: id(number) }
    });
    encoded(|buffer| record::encode_keys(entries, buffer))
}

/// Replays a log behind the marks at `marked`, without a checkpoint of keys.
fn replayed(log: &Log, subjects: &SubjectTable, marked: u64) -> Keys {
    replayed_with(TempDir::new().expect("made").path(), log, subjects, marked)
}

/// The same with the checkpoint of keys in `directory`, if there is one.
fn replayed_with(directory: &Path, log: &Log, subjects: &SubjectTable, marked: u64) -> Keys {
    let window = Window::new(WindowConfig { keep_for: Duration::from_secs(60), keys_max: 10 });
    let place: (&dyn FileSystem, &Path) = (&DiskFileSystem, directory);
    let gives_ids = |subject: &[u8]| !subject.starts_with(b"copy");
    replay::replay(place, log, subjects, Sequence::new(marked), window, gives_ids).expect("read").keys
}

fn next_id(subjects: &SubjectTable, subject: &str) -> u32 {
    subjects.issue(&Subject::new(subject.to_owned()).expect("valid")).expect("room").1.get()
}

#[test]
fn ids_that_lost_records_may_have_had_are_not_given_again() {
    let directory = TempDir::new().expect("made");
    let log = log_of(
        &directory,
        &[message("a", 4), message("b", 1), lost(), lost(), message("a", 6), lost(), message("b", 2)],
    );
    let subjects = SubjectTable::new(10);
    subjects.restore("checkpointed", MessageId::new(9).expect("an id")).expect("room");
    replayed(&log, &subjects, 0);
    assert_eq!(next_id(&subjects, "b"), 3, "its last record is behind every lost one");
    // At least 7, 10: any of the lost records may have been theirs.
    assert_eq!((next_id(&subjects, "a"), next_id(&subjects, "checkpointed")), (10, 13));
}

#[test]
fn records_lost_before_the_checkpoint_cost_no_ids() {
    let directory = TempDir::new().expect("made");
    let log = log_of(&directory, &[lost(), lost(), message("a", 4)]);
    let subjects = SubjectTable::new(10);
    subjects.restore("b", MessageId::new(9).expect("an id")).expect("room");
    replayed(&log, &subjects, 2);
    assert_eq!((next_id(&subjects, "a"), next_id(&subjects, "b")), (5, 10));
}

/// What a start knows.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// Every subject's last id.
    lasts: Vec<(String, u32)>,
    /// The keys in order: sequence, id and hash of the name.
    keys: Vec<(u64, u32, [u8; 16])>,
}

fn known(subjects: &SubjectTable, keys: &Keys) -> Known {
    let mut lasts = Vec::new();
    let seen: Result<(), std::convert::Infallible> = subjects.for_each(|subject, id| {
        lasts.push((String::from_utf8(subject.to_vec()).expect("UTF-8"), id.get()));
        Ok(())
    });
    seen.expect("it cannot fail");
    lasts.sort();
    let snapshot = keys.snapshot();
    let keys = snapshot.entries().map(|entry| (entry.sequence.get(), entry.id.get(), entry.print.name));
    Known { lasts, keys: keys.collect() }
}

fn hash(key: &str) -> [u8; 16] {
    Fingerprint::new("a", key, b"").name
}

/// A log in which slots were taken over: two records of each kind among messages.
fn log_with_what_was_taken_over(directory: &TempDir, now: UnixMicros) -> Log {
    let long_ago = UnixMicros::from_micros(now.as_micros() - 61_000_000);
    log_of(
        directory,
        &[
            keyed("a", 1, Some("own"), now),
            marks(&[("a", 7), ("b", 9)]),
            keys(&[("one", now), ("expired", long_ago), ("three", now)]),
            message("a", 8),
            marks(&[("b", 3), ("c", 5), ("c", 4)]),
            keys(&[("four", now)]),
            keyed("a", 9, Some("later"), now),
        ],
    )
}

#[test]
fn marks_and_keys_that_were_taken_over_are_known_after_a_start() {
    let directory = TempDir::new().expect("made");
    let log = log_with_what_was_taken_over(&directory, clock::now());
    let subjects = SubjectTable::new(10);
    let keys = replayed(&log, &subjects, 0);
    let Known { lasts, keys } = known(&subjects, &keys);
    assert_eq!(lasts, [("a".to_owned(), 9), ("b".to_owned(), 9), ("c".to_owned(), 5)]);
    let expected = [(1, 1, "own"), (3, 1, "one"), (3, 3, "three"), (6, 1, "four"), (7, 9, "later")];
    assert_eq!(keys, expected.map(|(sequence, id, key)| (sequence, id, hash(key))));
    assert_eq!(["a", "b", "c"].map(|subject| next_id(&subjects, subject)), [10, 10, 6]);
}

/// A process may end behind any checkpoint: what the next one knows is the same.
#[test]
fn a_checkpoint_after_any_of_these_records_changes_nothing() {
    let directory = TempDir::new().expect("made");
    let log = log_with_what_was_taken_over(&directory, clock::now());
    let subjects = SubjectTable::new(10);
    let keys = replayed(&log, &subjects, 0);
    let expected = known(&subjects, &keys);
    for taken_at in 1..=7 {
        let checkpoint = TempDir::new().expect("made");
        let checkpointer = Checkpointer::new(Arc::new(DiskFileSystem), checkpoint.path().to_owned(), log.log_id());
        subjects.set_marked_through(Durable(Sequence::new(taken_at)));
        checkpointer.take(&subjects, &keys, Projected::default()).expect("written");
        let restored = SubjectTable::new(10);
        let found = Checkpointer::restore(&DiskFileSystem, checkpoint.path(), &restored).expect("valid");
        assert_eq!(found.map(|found| found.taken_at.get()), Some(taken_at));
        let restored_keys = replayed_with(checkpoint.path(), &log, &restored, taken_at);
        assert_eq!(known(&restored, &restored_keys), expected, "taken at {taken_at}");
    }
}

#[test]
fn ids_of_another_node_s_subject_are_not_passed_over() {
    let directory = TempDir::new().expect("made");
    let log = log_of(&directory, &[message("a", 4), message("copy", 7), lost()]);
    let subjects = SubjectTable::new(10);
    replayed(&log, &subjects, 0);
    assert_eq!((next_id(&subjects, "a"), next_id(&subjects, "copy")), (6, 8), "8 may still come from its owner");
}

#[test]
fn a_mark_that_was_taken_over_behind_lost_records_is_the_owner_s_word() {
    let directory = TempDir::new().expect("made");
    let log = log_of(&directory, &[message("a", 1), message("b", 1), lost(), marks(&[("a", 7)])]);
    let subjects = SubjectTable::new(10);
    replayed(&log, &subjects, 0);
    assert_eq!((next_id(&subjects, "a"), next_id(&subjects, "b")), (8, 3));
}
