//! The committer: one thread that numbers, encodes and appends what is queued, a frame at a time.
//!
//! While one fdatasync runs the next frame gathers in the queue: no timers, one publisher alone waits for
//! one fdatasync, a thousand share one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use flume::{Receiver, Sender, TryRecvError};
use tokio::sync::{Semaphore, watch};

use super::ack::UnreleasedAcks;
use super::frame::{Frame, refuse_new};
use super::publisher::{Command, Queue, Queued};
use super::release::{Committed, CommittedMessage, DurableSink, Release};
use super::repeats::Repeats;
use super::take_over::{Closed, Closing, TakingOver};
use super::traced::TracedFrame;
use super::{
    Admission, Config, FRAME_RECORDS_MAX, IdsExhausted, Keys, PublishError, Publisher, Releaser, SubjectTable,
};
use crate::event::record;
use crate::event::{Durable, clock};
use crate::telemetry;
use crate::telemetry::metrics::{IngestMetrics, WalMetrics};
use crate::telemetry::traces::Traces;
use crate::wal::{AppendError, Batch, LogFailed, PushError, RoomError, Writer};

/// A frame of so many records, with none behind it, is answered by the committer itself: at some microseconds each that is sooner
/// done than another thread is woken.
const LONE_RECORDS_MAX: usize = 4;

/// Why the committer ended other than by an orderly stop.
#[derive(Debug, thiserror::Error)]
pub enum CommitterError {
    /// The log failed. Nothing is acknowledged any more; a restart recovers.
    #[error("append to the log: {0}")]
    Log(#[from] AppendError),
    /// The log failed while it made room.
    #[error("make room in the log: {0}")]
    Room(#[from] LogFailed),
    /// A valid publish did not fit its record: a mistake in the limits.
    #[error("encode a record: {0}")]
    Encode(#[from] PushError<record::RecordError>),
    /// What another node hands over found no place, though there was room: a mistake in counting.
    #[error("take over the subjects of another node: {0}")]
    Subjects(#[from] IdsExhausted),
}

/// The committer thread's state.
#[derive(Debug)]
pub struct Committer<S> {
    queue: Receiver<Command>,
    ended: Arc<AtomicBool>,
    slots: Arc<Semaphore>,
    pub(super) release: Release<S>,
    pub(super) durable: watch::Sender<Durable>,
    pub(super) writer: Writer,
    pub(super) batch: Batch,
    pub(super) subjects: Arc<SubjectTable>,
    pub(super) keys: Keys,
    admission: Admission,
    pub(super) metrics: CommitterMetrics,
    frame_bytes_max: usize,
    checkpoint: CheckpointTrigger,
    /// Subjects that get no ids.
    closed: Option<Closed>,
}

/// Tells the checkpointer when the log has grown by enough.
#[derive(Debug)]
pub struct CheckpointTrigger {
    /// Wakes the checkpointer; one wake-up in the channel is enough.
    pub wake: Sender<()>,
    /// Bytes of log after which a checkpoint is due; whoever takes it may change them.
    pub every_bytes: Arc<AtomicU64>,
    /// Bytes since the last one.
    pub since_bytes: u64,
}

/// What the committer observes.
#[derive(Debug, Clone)]
pub struct CommitterMetrics {
    /// Batches.
    pub ingest: IngestMetrics,
    /// fdatasync.
    pub wal: WalMetrics,
    /// Frames with messages that are traced.
    pub traces: Traces,
}

/// What the queue gave: publishes for one frame, then another word.
struct Gathered {
    queued: Vec<Queued>,
    then: Option<Then>,
}

/// What the committer is told beside publishes.
enum Then {
    Close(Closing),
    TakeOver(TakingOver),
    Stop,
}

impl Gathered {
    fn only(then: Then) -> Self {
        Self { queued: Vec::new(), then: Some(then) }
    }
}

/// A frame that is ready to be written.
struct Encoded {
    messages: Vec<CommittedMessage>,
    acks: UnreleasedAcks,
    /// Whether one of the messages is traced.
    traced: bool,
}

impl<S: DurableSink> Committer<S> {
    /// Connects publisher, committer and releaser. `durable` is where the committed position is published, `sink` where durable
    /// messages go.
    pub fn new(
        config: &Config,
        writer: Writer,
        (subjects, keys): (Arc<SubjectTable>, Keys),
        durable: watch::Sender<Durable>,
        checkpoint: CheckpointTrigger,
        sink: Arc<S>,
        metrics: CommitterMetrics,
    ) -> (Publisher, Self, Releaser<S>) {
        let queue = Queue::new(config.in_flight_publishes);
        let admission = Admission::new(config.in_flight_bytes, config.admission_wait);
        let publisher = Publisher::new(queue.clone(), admission.clone(), config);
        let (release, releaser) = Release::new(Arc::clone(&subjects), admission.clone(), sink);
        metrics.wal.appended.set(writer.appended().get().cast_signed());
        let batch = Batch::new(config.frame_bytes_max);
        let committer = Self {
            queue: queue.receiver,
            ended: queue.ended,
            slots: queue.slots,
            release,
            durable,
            writer,
            batch,
            subjects,
            keys,
            admission,
            metrics,
            frame_bytes_max: config.frame_bytes_max,
            checkpoint,
            closed: None,
        };
        (publisher, committer, releaser)
    }

    /// Runs until it is told to stop and everything queued is durable. For a thread of its own.
    ///
    /// # Errors
    /// [`CommitterError`] when the log failed; what was queued is answered with an error.
    pub fn run(mut self) -> Result<(), CommitterError> {
        let mut carried = None;
        while self.turn(&mut carried)? {}
        Ok(())
    }

    /// Waits for the first publish and commits one frame. False after an orderly stop.
    pub(super) fn turn(&mut self, carried: &mut Option<Queued>) -> Result<bool, CommitterError> {
        let gathered = self.gather(carried);
        if self.take(gathered, carried.is_some())? {
            return Ok(true);
        }
        // What is still queued after the word to stop.
        while carried.is_some() || !self.queue.is_empty() {
            let gathered = self.gather(carried);
            self.take(gathered, carried.is_some())?;
        }
        Ok(false)
    }

    /// Does what the queue gave; false if it is to stop.
    fn take(&mut self, Gathered { queued, then }: Gathered, more: bool) -> Result<bool, CommitterError> {
        if !queued.is_empty() {
            self.commit(queued, more)?;
        }
        match then {
            None => {}
            Some(Then::Close(closing)) => self.close(closing),
            Some(Then::TakeOver(taking_over)) => self.take_over(taking_over)?,
            Some(Then::Stop) => return Ok(false),
        }
        Ok(true)
    }

    /// From the next publish on, some subjects get no ids.
    fn close(&mut self, Closing { closed, heard }: Closing) {
        self.closed = closed;
        // Who asked may have gone.
        let _gone = heard.send(*self.durable.borrow());
    }

    /// Waits for the first publish and takes what else is there, up to one frame or another word.
    fn gather(&mut self, carried: &mut Option<Queued>) -> Gathered {
        let first = match carried.take() {
            Some(queued) => queued,
            None => match self.queue.recv() {
                Ok(Command::Publish(queued)) => queued,
                Ok(Command::Close(closing)) => return Gathered::only(Then::Close(closing)),
                Ok(Command::TakeOver(taking_over)) => return Gathered::only(Then::TakeOver(taking_over)),
                Ok(Command::Stop) | Err(_) => return Gathered::only(Then::Stop),
            },
        };
        let (mut bytes, mut records) = (first.frame_bytes(), first.len());
        let mut queued = Vec::with_capacity(self.queue.len().min(FRAME_RECORDS_MAX) + 1);
        queued.push(first);
        let mut then = None;
        while records < FRAME_RECORDS_MAX {
            match self.queue.try_recv() {
                Ok(Command::Publish(next)) => {
                    bytes += next.frame_bytes();
                    records += next.len();
                    if bytes > self.frame_bytes_max || records > FRAME_RECORDS_MAX {
                        *carried = Some(next);
                        break;
                    }
                    queued.push(next);
                    continue;
                }
                Ok(Command::Close(closing)) => then = Some(Then::Close(closing)),
                Ok(Command::TakeOver(taking_over)) => then = Some(Then::TakeOver(taking_over)),
                Ok(Command::Stop) => then = Some(Then::Stop),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
            break;
        }
        Gathered { queued, then }
    }

    /// Makes one frame durable and answers its publishers, or has the releaser answer them; `more` was gathered for the next.
    fn commit(&mut self, mut queued: Vec<Queued>, more: bool) -> Result<(), CommitterError> {
        let taken = telemetry::now();
        self.slots.add_permits(queued.len());
        let bytes: usize = queued.iter().map(Queued::frame_bytes).sum();
        match self.writer.ensure_room(bytes) {
            Ok(()) => {}
            Err(RoomError::Failed(failed)) => {
                TracedFrame::failed_early(&self.metrics.traces, &mut queued, taken);
                drop(refuse_new(queued, None, &self.admission, &PublishError::LogFailed));
                return Err(CommitterError::Room(failed));
            }
            Err(passing) => {
                self.refuse_new(queued, &PublishError::NoRoom(passing.to_string()));
                return Ok(());
            }
        }
        let (frame, oldest) = (self.writer.next_frame(), queued.first().map(Queued::since));
        let Encoded { mut messages, acks, traced } = self.encode(queued)?;
        if messages.is_empty() {
            self.release_repeated(acks);
            return Ok(());
        }
        let appended = self.writer.next_sequence().plus(u64::from(self.batch.records())).previous();
        self.metrics.wal.appended.set(appended.get().cast_signed());
        let durable = match self.writer.append(&self.batch) {
            Ok(durable) => durable,
            Err(failed) => {
                TracedFrame::failed(&self.metrics.traces, traced, &mut messages, taken);
                acks.refuse(&PublishError::LogFailed);
                return Err(CommitterError::Log(failed));
            }
        };
        self.observe(oldest.unwrap_or(taken), taken, &messages);
        let about = (&self.writer, self.batch.bytes());
        let traced = TracedFrame::committed(&self.metrics.traces, traced, &mut messages, taken, about);
        self.durable.send_replace(durable);
        let committed = Committed { durable, frame, messages, live: true, taken_over: None, acks };
        let lone = committed.messages.len() <= LONE_RECORDS_MAX && !more && self.queue.is_empty();
        if lone {
            self.release.at_once(committed);
        } else {
            self.release.hand_over(committed);
        }
        if let Some(traced) = traced {
            traced.tell();
        }
        Ok(())
    }

    /// Answers those of these publishes that repeat a durable record, and refuses the others.
    fn refuse_new(&self, queued: Vec<Queued>, error: &PublishError) {
        let repeats = Repeats::among(&queued, &self.keys, clock::now(), &self.metrics.ingest);
        let acks = refuse_new(queued, repeats.as_ref(), &self.admission, error);
        drop(repeats);
        self.release_repeated(acks);
    }

    /// Hands answers that need no further frame to the releaser, behind those of all frames before.
    fn release_repeated(&self, acks: UnreleasedAcks) {
        if !acks.is_empty() {
            let (durable, frame) = (*self.durable.borrow(), self.writer.next_frame());
            self.release.at_once(Committed {
                durable,
                frame,
                messages: Vec::new(),
                live: true,
                taken_over: None,
                acks,
            });
        }
    }

    /// Gives out ids and fills the batch; there is room for it. What repeats an earlier record gets neither.
    fn encode(&mut self, queued: Vec<Queued>) -> Result<Encoded, CommitterError> {
        self.batch.clear();
        let published_at = clock::now();
        let mut frame = Frame {
            repeats: Repeats::among(&queued, &self.keys, published_at, &self.metrics.ingest),
            messages: Vec::with_capacity(queued.iter().map(Queued::len).sum()),
            acks: UnreleasedAcks::with_capacity(queued.len()),
            first: self.writer.next_sequence(),
            batch: &mut self.batch,
            subjects: &self.subjects,
            admission: &self.admission,
            closed: self.closed.as_ref(),
            published_at,
            traced: false,
        };
        for queued in queued {
            frame.add(queued)?;
        }
        let Frame { messages, acks, traced, .. } = frame;
        Ok(Encoded { messages, acks, traced })
    }

    /// A frame has become durable. Once a frame, not once a message.
    fn observe(&mut self, oldest: Instant, taken: Instant, messages: &[CommittedMessage]) {
        let wal = &self.metrics.wal;
        self.metrics.ingest.queue_wait.observe(taken.duration_since(oldest).as_secs_f64());
        wal.commit_duration.observe(telemetry::since(taken).as_secs_f64());
        if let Some(sync) = self.writer.last_sync() {
            wal.fsync_duration.observe(sync.end.duration_since(sync.start).as_secs_f64());
        }
        if let Some(last) = messages.last() {
            wal.durable_timestamp.set(last.published_at.as_seconds_f64());
        }
        self.metrics.ingest.batch_records.observe(f64::from(self.batch.records()));
        self.metrics.ingest.batch_bytes.observe(self.batch.bytes() as f64);
        self.has_grown();
    }

    /// Wakes the checkpointer when the log has grown by enough.
    pub(super) fn has_grown(&mut self) {
        self.checkpoint.since_bytes += self.batch.bytes() as u64;
        if self.checkpoint.since_bytes >= self.checkpoint.every_bytes.load(Ordering::Relaxed) {
            self.checkpoint.since_bytes = 0;
            // Full means that it is awake already.
            let _awake_already = self.checkpoint.wake.try_send(());
        }
    }
}

impl<S> Drop for Committer<S> {
    /// However it ends, nobody waits for it any longer: replies that are dropped say that it is gone.
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.queue.drain().for_each(drop);
    }
}
