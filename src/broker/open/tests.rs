use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::event::record::{self, LOST, Record};
use crate::event::{Expiration, MessageId, Subject, UnixMicros};
use crate::wal::{Batch, Options};

const FRAME_BYTES_MAX: usize = 64 * 1024;

/// A log of these records; None is a lost one.
fn log_of(directory: &TempDir, records: &[Option<(&str, u32)>]) -> Log {
    let options =
        Options { segment_bytes: 256 * 1024, frame_bytes_max: FRAME_BYTES_MAX, ..Options::new(directory.path()) };
    let mut opened = wal::open(Arc::new(DiskFileSystem), options).expect("opens");
    let mut batch = Batch::new(FRAME_BYTES_MAX);
    for record in records {
        let encode = |buffer: &mut Vec<u8>| match record {
            Some((subject, id)) => record::encode(
                &Record {
                    subject,
                    id: MessageId::new(*id).expect("an id"),
                    published_at: UnixMicros::from_micros(1),
                    expiration: Expiration::FIRE_AND_FORGET,
                    idempotency_key: None,
                    traceparent: None,
                    body: b"",
                },
                buffer,
            ),
            None => {
                buffer.extend_from_slice(LOST);
                Ok(())
            }
        };
        batch.push(encode).expect("fits");
    }
    opened.writer.ensure_room(FRAME_BYTES_MAX).expect("room");
    opened.writer.append(&batch).expect("appended");
    opened.log
}

/// Replays a log behind the marks at `marked`, without a checkpoint of keys.
fn replayed(log: &Log, subjects: &SubjectTable, marked: u64) -> Keys {
    let directory = TempDir::new().expect("made");
    let window = Window::new(WindowConfig { keep_for: Duration::from_secs(60), keys_max: 10 });
    let place: (&dyn FileSystem, &Path) = (&DiskFileSystem, directory.path());
    replay::replay(place, log, subjects, Sequence::new(marked), window).expect("read").keys
}

fn next_id(subjects: &SubjectTable, subject: &str) -> u32 {
    subjects.issue(&Subject::new(subject.to_owned()).expect("valid")).expect("room").1.get()
}

#[test]
fn ids_that_lost_records_may_have_had_are_not_given_again() {
    let directory = TempDir::new().expect("made");
    let log = log_of(&directory, &[Some(("a", 4)), Some(("b", 1)), None, None, Some(("a", 6)), None, Some(("b", 2))]);
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
    let log = log_of(&directory, &[None, None, Some(("a", 4))]);
    let subjects = SubjectTable::new(10);
    subjects.restore("b", MessageId::new(9).expect("an id")).expect("room");
    replayed(&log, &subjects, 2);
    assert_eq!((next_id(&subjects, "a"), next_id(&subjects, "b")), (5, 10));
}
