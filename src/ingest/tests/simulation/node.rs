//! One life of a node: the real log, committer, releaser and ids over a simulated disk, all on one thread.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::oracle::Seen;
use crate::event::record;
use crate::event::{MessageId, Projected, Sequence, clock};
use crate::ingest::publisher::Queued;
use crate::ingest::{
    CheckpointError, CheckpointTrigger, Checkpointer, Committer, CommitterMetrics, Config, DurableBatch, DurableSink,
    Keys, Publish, PublishBatch, PublishError, Publisher, SubjectTable, Window, WindowConfig, restore_keys,
};
use crate::wal::sim::{Random, SimFileSystem};
use crate::wal::{self, FileSystem as _, Log, OpenError, OpenErrorKind, Options, Preparation};

pub const LOG_DIR: &str = "/data/log";
const IDS_DIR: &str = "/data/ids";
pub const FRAME_BYTES: usize = 4 * 1024;
pub const SEGMENT_BYTES: u64 = 12 * 1024;
/// Frames that may wait for the releaser; the committer would block beyond its bound, and nobody else runs here.
const FRAMES_WAITING_MAX: usize = 15;

/// Why a node does not start.
#[derive(Debug)]
pub enum StartError {
    /// The log or the ids refuse what they found.
    Refused(String),
    /// The disk failed.
    Disk(String),
}

/// What became of a publish.
#[derive(Debug)]
pub struct Outcome {
    /// Its number.
    pub number: usize,
    pub answer: Result<MessageId, PublishError>,
}

type Answer = Pin<Box<dyn Future<Output = Result<MessageId, PublishError>>>>;

pub struct Node {
    publisher: Publisher,
    /// None once the log has failed.
    committer: Option<Committer<Sink>>,
    carried: Option<Queued>,
    releaser: Pin<Box<dyn Future<Output = ()>>>,
    sink: Arc<Sink>,
    pub subjects: Arc<SubjectTable>,
    keys: Keys,
    pub log: Log,
    checkpointer: Checkpointer,
    /// Up to where the ids are safe without the log.
    pub checkpointed: Sequence,
    waiting: Vec<(usize, Answer)>,
}

/// Takes down what would be delivered.
#[derive(Debug)]
struct Sink {
    seen: Mutex<Vec<Seen>>,
}

#[async_trait]
impl DurableSink for Sink {
    fn taken_over(&self, _sequence: Sequence, _place: crate::wal::Place) {}

    fn before_acks(&self, batch: &DurableBatch) {
        for message in &batch.messages {
            assert!(message.sequence <= batch.durable.sequence(), "delivered before it is durable");
            let (subject, id) = (message.subject.as_str().to_owned(), message.id.get());
            self.seen.lock().push(Seen { sequence: message.sequence.get(), subject, id, body: None });
        }
    }

    fn is_awaited(&self) -> bool {
        true
    }

    async fn after_acks(&self, _batch: DurableBatch) {}
}

pub fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        max_bytes: 24 * SEGMENT_BYTES,
        keep_bytes: 2 * SEGMENT_BYTES,
        keep_for: std::time::Duration::MAX,
        frame_bytes_max: FRAME_BYTES,
        verify_for: std::time::Duration::MAX,
        preparation: Preparation::Inline,
        ..Options::new(LOG_DIR)
    }
}

impl Node {
    /// Opens log and ids in the order and with the checks of the broker.
    pub fn start(fs: &SimFileSystem, metrics: &CommitterMetrics) -> Result<Self, StartError> {
        let files = Arc::new(fs.clone());
        let ids = Path::new(IDS_DIR);
        for dir in [Path::new(LOG_DIR), ids] {
            files.create_dir_all(dir).map_err(|error| StartError::Disk(error.to_string()))?;
        }
        let subjects = Arc::new(SubjectTable::new(1_000));
        let durable_at_least = Checkpointer::durable_at_least(&*files, ids)?;
        let opened = wal::open(files.clone(), Options { durable_at_least, ..options() })?;
        let log = opened.log;
        let checkpoint = Checkpointer::restore(&*files, ids, &subjects)?;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.belongs_to(log.log_id(), ids)?;
        }
        let checkpointed = checkpoint.map_or(Sequence::ZERO, |checkpoint| checkpoint.taken_at);
        if checkpointed < log.trimmed().sequence() {
            return Err(StartError::Refused("the log is trimmed beyond the checkpoint of the ids".to_owned()));
        }
        let keys = replay(&files, &log, &subjects, checkpointed)?;
        subjects.set_marked_through(log.durable());

        let config = Config {
            in_flight_bytes: 64 * 1024 * 1024,
            in_flight_publishes: 4_096,
            admission_wait: std::time::Duration::ZERO,
            frame_bytes_max: FRAME_BYTES,
        };
        let (wake, _woken) = flume::bounded(1);
        let trigger = CheckpointTrigger { wake, every_bytes: Arc::new(AtomicU64::new(u64::MAX)), since_bytes: 0 };
        let (durable, _) = watch::channel(log.durable());
        let sink = Arc::new(Sink { seen: Mutex::default() });
        let (publisher, committer, releaser) = Committer::new(
            &config,
            opened.writer,
            (Arc::clone(&subjects), keys.clone()),
            durable,
            trigger,
            Arc::clone(&sink),
            metrics.clone(),
        );
        Ok(Self {
            checkpointer: Checkpointer::new(files, ids.to_owned(), log.log_id()),
            releaser: Box::pin(releaser.run()),
            publisher,
            committer: Some(committer),
            carried: None,
            sink,
            subjects,
            keys,
            log,
            checkpointed,
            waiting: Vec::new(),
        })
    }

    /// Queues a publish.
    pub fn publish(&mut self, number: usize, publish: Publish) {
        let publisher = self.publisher.clone();
        let answer: Answer = Box::pin(async move { publisher.publish(publish).await });
        self.waiting.push((number, answer));
        let (_, answer) = self.waiting.last_mut().expect("just pushed");
        if let Poll::Ready(answer) = poll(answer) {
            // Answered at once: the log has failed.
            self.waiting.last_mut().expect("just pushed").1 = Box::pin(std::future::ready(answer));
        }
    }

    /// Queues publishes as batches of a stream: as few as hold them.
    pub fn publish_batches(&mut self, publishes: Vec<(usize, Publish)>) {
        let (mut batch, mut numbers) = (PublishBatch::default(), Vec::new());
        for (number, publish) in publishes {
            if let Err(publish) = self.publisher.add(&mut batch, publish, FRAME_BYTES) {
                self.publish_batch(std::mem::take(&mut numbers), std::mem::take(&mut batch));
                self.publisher.add(&mut batch, publish, FRAME_BYTES).expect("the first one fits");
            }
            numbers.push(number);
        }
        self.publish_batch(numbers, batch);
    }

    fn publish_batch(&mut self, numbers: Vec<usize>, batch: PublishBatch) {
        let publisher = self.publisher.clone();
        let answers = async move {
            let room = publisher.room(batch.charge()).await;
            let outcomes = publisher.publish_batch(batch, room)?.await?;
            Ok::<Vec<_>, PublishError>(outcomes.into_iter().collect())
        };
        let mut answers = answers.boxed_local().shared();
        // Queued at once, as a publish is.
        drop(Pin::new(&mut answers).poll(&mut Context::from_waker(Waker::noop())));
        for (at, number) in numbers.into_iter().enumerate() {
            let answers = answers.clone();
            self.waiting.push((number, Box::pin(async move { answers.await?[at].clone() })));
        }
    }

    /// Commits what is queued; the releaser runs in between as chance has it.
    pub fn commit(&mut self, random: &mut Random) {
        let mut waiting_frames = 0;
        while let Some(committer) = &mut self.committer
            && (self.publisher.queued() > 0 || self.carried.is_some())
        {
            if committer.turn(&mut self.carried).is_err() {
                self.committer = None;
                self.carried = None;
            }
            waiting_frames += 1;
            if waiting_frames == FRAMES_WAITING_MAX || random.roll(3) == 0 {
                self.release_acks();
                waiting_frames = 0;
            }
        }
        self.release_acks();
    }

    fn release_acks(&mut self) {
        // Once the committer is gone the releaser ends, and must not be polled again.
        if poll(&mut self.releaser).is_ready() {
            self.releaser = Box::pin(std::future::pending());
        }
    }

    /// What was answered and what was delivered since the last time.
    pub fn outcomes(&mut self) -> (Vec<Outcome>, Vec<Seen>) {
        let mut outcomes = Vec::new();
        self.waiting.retain_mut(|(number, answer)| match poll(answer) {
            Poll::Ready(answer) => {
                outcomes.push(Outcome { number: *number, answer });
                false
            }
            Poll::Pending => true,
        });
        (outcomes, std::mem::take(&mut *self.sink.seen.lock()))
    }

    /// Writes the checkpoint of the ids.
    pub fn checkpoint(&mut self) -> Result<(), String> {
        let taken = self
            .checkpointer
            .take(&self.subjects, &self.keys, Projected::default())
            .map_err(|error| error.to_string())?;
        self.checkpointed = taken.taken_at;
        Ok(())
    }

    pub fn has_failed(&self) -> bool {
        self.committer.is_none() || self.log.is_failed()
    }

    pub fn waits(&self) -> usize {
        self.waiting.len()
    }

    pub fn bytes_in_flight(&self) -> usize {
        self.publisher.admission().in_flight()
    }
}

fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T>>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Raises the marks and fills the window, as the broker does.
fn replay(
    files: &SimFileSystem,
    log: &Log,
    subjects: &SubjectTable,
    checkpointed: Sequence,
) -> Result<Keys, StartError> {
    let now = clock::now();
    let mut window = Window::new(WindowConfig { keep_for: std::time::Duration::MAX, keys_max: 10_000 });
    let found = restore_keys(files, Path::new(IDS_DIR), &mut window, now)?;
    if found.is_some_and(|found| found.taken_at < checkpointed) {
        return Err(StartError::Refused("the keys are behind the marks".to_owned()));
    }
    let keyed = found.map_or(checkpointed, |found| found.taken_at);
    let disk = |error: &dyn std::fmt::Display| StartError::Disk(error.to_string());
    let mut reader = log.reader(checkpointed).map_err(|error| disk(&error))?;
    while let Some(frame) = reader.next().map_err(|error| disk(&error))? {
        for (sequence, bytes) in frame.iter() {
            let Ok(record::Logged::Message(record)) = record::decode(&bytes) else { continue };
            subjects.restore(record.subject, record.id).expect("there are few subjects");
            if sequence > keyed {
                window.replay(sequence, &record, now);
            }
        }
    }
    Ok(Keys::new(window))
}

/// Everything after `after` that a reader of the log gets.
pub fn read(log: &Log, after: Sequence) -> Result<Vec<Seen>, String> {
    let mut reader = log.reader(after).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    while let Some(frame) = reader.next().map_err(|error| error.to_string())? {
        for (sequence, bytes) in frame.iter() {
            let logged = record::decode(&bytes).map_err(|error| format!("record {sequence}: {error}"))?;
            let record::Logged::Message(record) = logged else {
                return Err(format!("record {sequence} is no message: nobody repaired the log or moved slots"));
            };
            let body = Some(record.body.to_vec());
            all.push(Seen { sequence: sequence.get(), subject: record.subject.to_owned(), id: record.id.get(), body });
        }
    }
    Ok(all)
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error.kind() {
            OpenErrorKind::Io => Self::Disk(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<CheckpointError> for StartError {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Io { .. } => Self::Disk(error.to_string()),
            other => Self::Refused(other.to_string()),
        }
    }
}
