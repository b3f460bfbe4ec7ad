//! The log of one subject, written as the broker writes it: frames, ids, index and checkpoint, only without clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use walcast::event::record::{self, Record};
use walcast::event::{Expiration, Projected, Sequence, Subject, clock};
use walcast::index::{Appended, Index};
use walcast::ingest::{Checkpointer, Keys, SubjectTable, Window, WindowConfig};
use walcast::wal::{self, Batch, DiskFileSystem, FileSystem, Options};

/// The subject.
pub const SUBJECT: &str = "caught.up";

/// Records of a frame: what gathers under a heavy load.
const FRAME_RECORDS: usize = 512;
/// A week: nothing expires while this runs.
const EXPIRES_SECONDS: i32 = 7 * 24 * 3600;

/// Makes a data directory with as many messages.
pub fn make(dir: &Path, messages: usize, body_bytes: usize, segment_bytes: u64) -> PathBuf {
    let files: Arc<dyn FileSystem> = Arc::new(DiskFileSystem);
    let (ids_dir, index_dir) = (dir.join("ids"), dir.join("index"));
    files.create_dir_all(&ids_dir).unwrap();
    files.create_dir_all(&index_dir).unwrap();
    let frame_bytes_max = 512 * 1024;
    let options = Options {
        max_bytes: u64::MAX,
        keep_bytes: u64::MAX,
        segment_bytes,
        frame_bytes_max,
        ..Options::new(dir.join("log"))
    };
    let mut batch = Batch::new(frame_bytes_max);
    let wal::Opened { mut writer, log, .. } = wal::open(Arc::clone(&files), options).unwrap();
    let (index, indexer) = Index::open(Arc::clone(&files), index_dir, log.clone()).unwrap();
    let indexing = std::thread::spawn(move || indexer.run());
    let table = SubjectTable::new(1);
    let subject = Subject::new(SUBJECT.to_owned()).unwrap();
    let expiration = Expiration::from_wire(EXPIRES_SECONDS).unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut body = vec![0; body_bytes];
    for first in (0..messages).step_by(FRAME_RECORDS) {
        batch.clear();
        writer.ensure_room(FRAME_RECORDS * (body_bytes + 128)).unwrap();
        let (frame, sequence, published_at) = (writer.next_frame(), writer.next_sequence(), clock::now());
        let mut appended = Vec::new();
        for number in first..messages.min(first + FRAME_RECORDS) {
            let (key, id) = table.issue(&subject).unwrap();
            table.mark_durable(key, id);
            random.fill_bytes(&mut body);
            let record = Record {
                subject: SUBJECT,
                id,
                published_at,
                expiration,
                idempotency_key: None,
                traceparent: None,
                body: &body,
            };
            let offset = batch.push(|buffer| record::encode(&record, buffer)).unwrap();
            let place = frame.of(offset, record::crc(&record));
            appended.push(Appended { subject: SUBJECT, id, sequence: sequence.plus((number - first) as u64), place });
        }
        writer.append(&batch).unwrap();
        index.append(appended.into_iter());
    }
    table.set_marked_through(log.durable());
    let keys = Keys::new(Window::new(WindowConfig { keep_for: Duration::ZERO, keys_max: 1 }));
    Checkpointer::new(files, ids_dir, log.log_id()).take(&table, &keys, Projected(Sequence::ZERO)).unwrap();
    index.stop();
    indexing.join().unwrap().unwrap();
    dir.to_owned()
}
