//! The long log, written as the broker writes it: frames, ids, index and checkpoint, only without clients.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use walcast::event::record::{self, Record};
use walcast::event::{Expiration, Projected, Sequence, Subject, clock};
use walcast::index::{Appended, Index};
use walcast::ingest::{Checkpointer, Keys, SubjectTable, Window, WindowConfig};
use walcast::wal::{self, Batch, DiskFileSystem, FileSystem, Options};

use crate::{Args, Failure};

/// Records of a frame: what gathers under a heavy load.
const FRAME_RECORDS: u64 = 512;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// A week: nothing expires while this runs.
const EXPIRES_SECONDS: i32 = 7 * 24 * 3600;

/// What is in the log.
pub struct Made {
    /// Messages; number `n` from 0 is on subject `n` modulo the number of subjects.
    pub messages: u64,
}

/// The name of a subject.
pub fn subject(number: u64) -> String {
    format!("backlog.{number}")
}

/// The body of a message: its number, and bytes that follow from it.
pub fn body(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut body = number.to_le_bytes().to_vec();
    while body.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend_from_slice(&state.to_le_bytes());
    }
    body.truncate(bytes.max(8));
    body
}

/// Makes the log in `dir` unless one of the same shape is there.
pub fn make(args: &Args, dir: &Path) -> Result<Made, Failure> {
    let messages = (args.gib * GIB / (args.body_bytes + 56) as f64) as u64 / FRAME_RECORDS * FRAME_RECORDS;
    let note = format!("{messages} {} {}", args.subjects, args.body_bytes);
    let note_path = dir.join("made-by-the-backlog-benchmark");
    if std::fs::read_to_string(&note_path).is_ok_and(|found| found == note) {
        return Ok(Made { messages });
    }
    eprintln!("writing {messages} messages, {} GiB ...", args.gib);
    let started = Instant::now();
    let files: Arc<dyn FileSystem> = Arc::new(DiskFileSystem);
    let (ids_dir, index_dir) = (dir.join("ids"), dir.join("index"));
    files.create_dir_all(&ids_dir)?;
    files.create_dir_all(&index_dir)?;
    let options = Options { max_bytes: u64::MAX, keep_bytes: u64::MAX, ..Options::new(dir.join("log")) };
    let mut batch = Batch::new(options.frame_bytes_max);
    let wal::Opened { mut writer, log, .. } = wal::open(Arc::clone(&files), options)?;
    let (index, indexer) = Index::open(Arc::clone(&files), index_dir, log.clone())?;
    let indexing = std::thread::spawn(move || indexer.run());
    let table = SubjectTable::new(args.subjects);
    let names: Vec<Subject> =
        (0..args.subjects as u64).map(|number| Subject::new(subject(number))).collect::<Result<_, _>>()?;
    let expiration = Expiration::from_wire(EXPIRES_SECONDS).ok_or("an expiration")?;
    for first in (0..messages).step_by(FRAME_RECORDS as usize) {
        batch.clear();
        writer.ensure_room(FRAME_RECORDS as usize * (args.body_bytes + 128))?;
        let frame = writer.next_frame();
        let (published_at, sequence) = (clock::now(), writer.next_sequence());
        let mut appended = Vec::with_capacity(FRAME_RECORDS as usize);
        for number in first..first + FRAME_RECORDS {
            let name = &names[(number % args.subjects as u64) as usize];
            let (key, id) = table.issue(name)?;
            table.mark_durable(key, id);
            let body = body(number, args.body_bytes);
            let record = Record {
                subject: name.as_str(),
                id,
                published_at,
                expiration,
                idempotency_key: None,
                traceparent: None,
                body: &body,
            };
            let offset = batch.push(|buffer| record::encode(&record, buffer))?;
            let (subject, place) = (name.as_str(), frame.of(offset, record::crc(&record)));
            appended.push(Appended { subject, id, sequence: sequence.plus(number - first), place });
        }
        writer.append(&batch)?;
        index.append(appended.into_iter());
    }
    table.set_marked_through(log.durable());
    let keys = Keys::new(Window::new(WindowConfig { keep_for: Duration::ZERO, keys_max: 1 }));
    Checkpointer::new(files, ids_dir, log.log_id()).take(&table, &keys, Projected(Sequence::ZERO))?;
    index.stop();
    indexing.join().map_err(|_| "the indexer panicked")??;
    drop(writer);
    std::fs::write(note_path, note)?;
    eprintln!("... in {:.0} s", started.elapsed().as_secs_f64());
    Ok(Made { messages })
}
