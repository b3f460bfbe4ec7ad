//! Publisher, committer and releaser together, over a real log.

mod batches;
mod keys;
mod simulation;
mod taking_over;
mod traced;
mod window;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::event::{Durable, Expiration, MessageId, Sequence, Subject};
use crate::telemetry::{Metrics, Traces};
use crate::wal::{
    self, DiskFileSystem, DiskSpace, FileEntry, FileLock, FileSystem, LockError, Log, LogFile, Opened, Options,
    Preparation,
};

/// A disk whose syncs can be made to fail, and whose writes are counted.
#[derive(Debug, Clone, Default)]
struct Faulty {
    sync_fails: Arc<AtomicBool>,
    syncs: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct FaultyFile(Arc<dyn LogFile>, Faulty);

impl LogFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.syncs.fetch_add(1, Ordering::SeqCst);
        if self.1.sync_fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("an injected EIO"));
        }
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}

impl Faulty {
    fn wrap(&self, file: Arc<dyn LogFile>) -> Arc<dyn LogFile> {
        Arc::new(FaultyFile(file, self.clone()))
    }
}

impl FileSystem for Faulty {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        DiskFileSystem.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        DiskFileSystem.list(dir)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        DiskFileSystem.open(path).map(|file| self.wrap(file))
    }
    fn open_for_writing(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        DiskFileSystem.open_for_writing(path).map(|file| self.wrap(file))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        DiskFileSystem.create(path).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskFileSystem.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        DiskFileSystem.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        DiskFileSystem.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>, LockError> {
        DiskFileSystem.lock(path)
    }
    fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        DiskFileSystem.space(dir)
    }
}

/// Takes down what it is given.
#[derive(Debug, Default)]
struct Recorder {
    before: Mutex<Vec<(u64, u32, Durable)>>,
    after: Mutex<Vec<u64>>,
    taken_over: Mutex<Vec<u64>>,
}

#[async_trait]
impl DurableSink for Recorder {
    fn taken_over(&self, sequence: Sequence, _place: wal::Place) {
        self.taken_over.lock().push(sequence.get());
    }

    fn before_acks(&self, batch: &DurableBatch) {
        let seen = batch.messages.iter().map(|message| (message.sequence.get(), message.id.get(), batch.durable));
        self.before.lock().extend(seen);
    }

    fn is_awaited(&self) -> bool {
        true
    }

    async fn after_acks(&self, batch: DurableBatch) {
        self.after.lock().extend(batch.messages.iter().map(|message| message.sequence.get()));
    }
}

struct Rig {
    _directory: tempfile::TempDir,
    publisher: Publisher,
    subjects: Arc<SubjectTable>,
    keys: Keys,
    log: Log,
    recorder: Arc<Recorder>,
    disk: Faulty,
    committer: std::thread::JoinHandle<Result<(), CommitterError>>,
    releaser: tokio::task::JoinHandle<()>,
}

const FRAME_BYTES: usize = 16 * 1024;

fn rig(max_bytes: u64) -> Rig {
    rig_with(max_bytes, Traces::off())
}

fn rig_with(max_bytes: u64, traces: Traces) -> Rig {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Faulty::default();
    let options = Options {
        segment_bytes: 64 * 1024,
        max_bytes,
        keep_bytes: 0,
        frame_bytes_max: FRAME_BYTES,
        preparation: Preparation::Inline,
        ..Options::new(directory.path())
    };
    let Opened { writer, log, .. } = wal::open(Arc::new(disk.clone()), options).expect("a fresh log");
    let config = Config {
        in_flight_bytes: 1024 * 1024,
        in_flight_publishes: 1_024,
        admission_wait: Duration::from_millis(20),
        frame_bytes_max: FRAME_BYTES,
    };
    let subjects = Arc::new(SubjectTable::new(1_000));
    let keys = Keys::new(Window::new(WindowConfig { keep_for: Duration::from_secs(600), keys_max: 1_000 }));
    let metrics = Metrics::new("test");
    let (wake, _woken) = flume::bounded(1);
    let trigger = CheckpointTrigger { wake, every_bytes: Arc::new(AtomicU64::new(u64::MAX)), since_bytes: 0 };
    let (durable, _) = watch::channel(log.durable());
    let observed = CommitterMetrics { ingest: metrics.ingest, wal: metrics.wal, traces };
    let recorder = Arc::new(Recorder::default());
    let (publisher, committer, releaser) = Committer::new(
        &config,
        writer,
        (Arc::clone(&subjects), keys.clone()),
        durable,
        trigger,
        Arc::clone(&recorder),
        observed,
    );
    Rig {
        _directory: directory,
        publisher,
        subjects,
        keys,
        log,
        recorder,
        disk,
        committer: std::thread::spawn(|| committer.run()),
        #[expect(clippy::disallowed_methods, reason = "the rig joins it")]
        releaser: tokio::spawn(releaser.run()),
    }
}

fn publish(subject: &str, body: &[u8], seconds: i32) -> Publish {
    Publish {
        subject: Subject::new(subject.to_owned()).expect("a subject"),
        body: Bytes::copy_from_slice(body),
        expiration: Expiration::from_wire(seconds).expect("not negative"),
        key: None,
        traceparent: None,
        trace: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_dense_per_subject_and_acks_are_durable() {
    let rig = rig(1024 * 1024);
    let calls = (0..300).map(|n| {
        let publisher = rig.publisher.clone();
        async move { (n % 3, publisher.publish(publish(["a", "b", "c"][n % 3], b"body", 0)).await.expect("an ack")) }
    });
    let mut acks = futures_util::future::join_all(calls).await;
    assert!(rig.log.durable().sequence() >= Sequence::new(300), "durable before the ack");
    acks.sort_unstable();
    let ids: Vec<u32> = acks.iter().map(|(_, id)| id.get()).collect();
    let dense: Vec<u32> = (0..3).flat_map(|_| 1..=100).collect();
    assert_eq!(ids, dense);
    assert_eq!(rig.subjects.high_water_mark("b").map(|(_, id)| id.get()), Some(100));
    assert_eq!(rig.publisher.admission().in_flight(), 0, "nothing is held once it is durable");

    rig.publisher.stop().await;
    assert!(rig.committer.join().expect("no panic").is_ok());
    rig.releaser.await.expect("no panic");
    let before = std::mem::take(&mut *rig.recorder.before.lock());
    assert!(before.iter().zip(1..).all(|((sequence, _, _), expected)| *sequence == expected), "in log order");
    assert!(before.iter().all(|(sequence, _, durable)| *sequence <= durable.sequence().get()));
    assert_eq!(rig.recorder.after.lock().len(), 300);
    let refused = rig.publisher.publish(publish("a", b"late", 0)).await;
    assert_eq!(refused, Err(PublishError::ShuttingDown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_message_gives_its_room_back_when_it_is_durable_whatever_the_store_does() {
    let rig = rig(1024 * 1024);
    for _ in 0..100 {
        rig.publisher.publish(publish("a", &[7; 1_000], 60)).await.expect("an ack");
        assert_eq!(rig.publisher.admission().in_flight(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_without_taking_an_id_and_goes_on_when_there_is_room() {
    let rig = rig(128 * 1024);
    let body = [1; 8_000];
    let mut last = None;
    let refused = loop {
        match rig.publisher.publish(publish("a", &body, 0)).await {
            Ok(id) => last = Some(id),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PublishError::NoRoom(_)), "{refused:?}");
    assert_eq!(rig.publisher.admission().in_flight(), 0);
    rig.log.release(rig.log.durable().sequence()).expect("trimmed");
    let next = rig.publisher.publish(publish("a", &body, 0)).await.expect("room again");
    assert_eq!(Some(next.get() - 1), last.map(MessageId::get));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_after_the_first_failed_sync_and_no_sync_is_retried() {
    let rig = rig(1024 * 1024);
    rig.publisher.publish(publish("a", b"fine", 60)).await.expect("an ack");
    rig.disk.sync_fails.store(true, Ordering::SeqCst);
    let syncs = rig.disk.syncs.load(Ordering::SeqCst);
    let failed = rig.publisher.publish(publish("a", b"lost", 60)).await;
    assert_eq!(failed, Err(PublishError::LogFailed));
    // Even though the disk would work again.
    rig.disk.sync_fails.store(false, Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(rig.publisher.publish(publish("a", b"later", 60)).await, Err(PublishError::LogFailed));
    }
    assert!(matches!(rig.committer.join().expect("no panic"), Err(CommitterError::Log(_))));
    assert_eq!(rig.disk.syncs.load(Ordering::SeqCst), syncs + 1);
    assert!(rig.log.is_failed());
    assert_eq!(rig.subjects.high_water_mark("a").map(|(_, id)| id.get()), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_committer_that_has_failed() {
    for _ in 0..20 {
        let rig = rig(1024 * 1024);
        rig.disk.sync_fails.store(true, Ordering::SeqCst);
        let calls =
            (0..64).map(|_| {
                let publisher = rig.publisher.clone();
                async move {
                    (publisher.publish(publish("a", b"x", 0)).await, publisher.publish(publish("a", b"x", 0)).await)
                }
            });
        let all = tokio::time::timeout(Duration::from_secs(30), futures_util::future::join_all(calls)).await;
        for answers in all.expect("every publish is answered") {
            assert_eq!(answers, (Err(PublishError::LogFailed), Err(PublishError::LogFailed)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_finds_no_room_in_memory_is_refused_in_time() {
    let rig = rig(1024 * 1024);
    let held = rig.publisher.admission().admit(1024 * 1024).await.expect("room");
    let refused = rig.publisher.publish(publish("a", b"x", 0)).await;
    assert!(matches!(refused, Err(PublishError::Admission(_))), "{refused:?}");
    drop(held);
    assert_eq!(rig.publisher.publish(publish("a", b"x", 0)).await.expect("room").get(), 1, "it took no id");
}
