use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::event::Expiration;
use crate::event::record;
use crate::wal::{self, Batch, DiskFileSystem, Options, Preparation};

const FRAME_BYTES: usize = 8 * 1024;
const SUBJECT: &str = "a";

fn id(number: u32) -> MessageId {
    MessageId::new(number).expect("an id")
}

/// The index of a log with messages of these ids, and where there is None a mark that was taken over.
fn indexed(folder: &Path, ids: &[Option<u32>]) -> Index {
    let options = Options {
        segment_bytes: 64 * 1024,
        max_bytes: 1024 * 1024,
        frame_bytes_max: FRAME_BYTES,
        preparation: Preparation::Inline,
        ..Options::new(folder.join("log"))
    };
    let files = Arc::new(DiskFileSystem);
    let mut opened = wal::open(files.clone(), options).expect("opens");
    let mut batch = Batch::new(FRAME_BYTES);
    for number in ids {
        let encode = |buffer: &mut Vec<u8>| match number {
            Some(number) => record::encode(
                &Record {
                    subject: SUBJECT,
                    id: id(*number),
                    published_at: clock::now(),
                    expiration: Expiration::FIRE_AND_FORGET,
                    idempotency_key: None,
                    traceparent: None,
                    body: b"",
                },
                buffer,
            ),
            None => record::encode_marks([(SUBJECT, id(1))], buffer),
        };
        batch.push(encode).expect("fits");
    }
    opened.writer.ensure_room(FRAME_BYTES).expect("room");
    opened.writer.append(&batch).expect("appended");
    let dir = folder.join("index");
    std::fs::create_dir_all(&dir).expect("writable");
    let (index, indexer) = Index::open(files, dir, opened.log).expect("opens");
    let reading = index.clone();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| indexer.run());
        while reading.gap_records() > 0 && !running.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        reading.stop();
        running.join().expect("no panic").expect("the log is sound");
    });
    index
}

/// What the log says of the ids behind `after`: those of the chunk and where it ends, or before which it has none.
fn asked(index: &Index, after: u32) -> Result<(Vec<u32>, u32), u32> {
    let subject = Arc::new(Subject::new(SUBJECT.to_owned()).expect("a subject"));
    let ask = Ask { subject, after, through: 100, expired_too: true, messages_max: 100, bytes_max: 1024 * 1024 };
    match look(index, &ask).expect("readable") {
        Answer::Read(FromLog::Chunk(chunk)) => {
            Ok((chunk.messages.iter().map(|(id, _)| id.get()).collect(), chunk.through))
        }
        Answer::Read(FromLog::NothingBefore(first)) => Err(first),
        Answer::NotIndexed => panic!("all is indexed"),
    }
}

#[test]
fn what_another_node_logged_meanwhile_is_asked_of_the_store() {
    let folder = TempDir::new().expect("made");
    let index = indexed(folder.path(), &[Some(3), Some(4), None, Some(8), Some(9), Some(12)]);
    assert_eq!(asked(&index, 0), Err(3), "the store is asked up to there");
    assert_eq!(asked(&index, 2), Ok((vec![3, 4], 4)));
    assert_eq!(asked(&index, 4), Err(8));
    assert_eq!(asked(&index, 5), Err(8));
    assert_eq!(asked(&index, 7), Ok((vec![8, 9], 9)));
    assert_eq!(asked(&index, 9), Err(12));
    assert_eq!(asked(&index, 12), Err(101), "the log has no more");
}

#[test]
fn a_hole_that_nothing_explains_is_an_error() {
    let folder = TempDir::new().expect("made");
    let index = indexed(folder.path(), &[Some(3), Some(4), Some(8)]);
    let subject = Arc::new(Subject::new(SUBJECT.to_owned()).expect("a subject"));
    let ask = Ask { subject, after: 2, through: 8, expired_too: true, messages_max: 100, bytes_max: 1024 * 1024 };
    let Err(HistoryError::Log(says)) = look(&index, &ask) else { panic!("it is not noticed") };
    assert_eq!(says, "message 5 is missing in the middle of the log");
}
