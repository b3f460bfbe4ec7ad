//! The handle that publishes go through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flume::{Receiver, Sender, TrySendError};
use tokio::sync::{Semaphore, oneshot};

use super::ack::Reply;
use super::batch::{QueuedBatch, frame_bytes};
use super::idempotency::Fingerprint;
use super::take_over::{Closing, TakingOver};
use super::{Admission, AdmissionError, Config, IdsExhausted};
use crate::event::record::Record;
use crate::event::{Expiration, IdempotencyKey, MessageId, Subject, Traceparent, UnixMicros};
use crate::telemetry;
use crate::telemetry::traces::PublishTrace;

/// A publish whose parts are valid.
#[derive(Debug)]
pub struct Publish {
    /// Where to.
    pub subject: Subject,
    /// What, at most `limits.body_bytes`.
    pub body: Bytes,
    /// How long Fetch finds it.
    pub expiration: Expiration,
    /// What makes a retry known as one.
    pub key: Option<IdempotencyKey>,
    /// The publisher's place in a trace.
    pub traceparent: Option<Traceparent>,
    /// If it is traced.
    pub trace: Option<Box<PublishTrace>>,
}

impl Publish {
    /// The record of it.
    pub(super) fn record(&self, id: MessageId, published_at: UnixMicros) -> Record<'_> {
        Record {
            subject: self.subject.as_str(),
            id,
            published_at,
            expiration: self.expiration,
            idempotency_key: self.key.as_ref().map(IdempotencyKey::as_str),
            traceparent: self.traceparent.as_ref().map(Traceparent::as_str),
            body: &self.body,
        }
    }

    /// It is queued since then, for its trace.
    pub(super) fn traced_as_queued(&mut self, since: Instant) {
        if let Some(trace) = &mut self.trace {
            trace.queued(since);
        }
    }

    /// Bytes of everything in it but its body.
    pub(super) fn text_bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.as_str().len());
        let traceparent = self.traceparent.as_ref().map_or(0, |traceparent| traceparent.as_str().len());
        self.subject.as_str().len() + key + traceparent
    }
}

/// A publish of its own in the queue.
#[derive(Debug)]
pub(super) struct QueuedOne {
    pub publish: Publish,
    /// Of its key, if it has one.
    pub print: Option<Fingerprint>,
    /// Bytes of admission to give back.
    pub charge: u32,
    pub reply: Reply,
    /// When it was queued.
    pub since: Instant,
}

/// What takes one place in the queue.
#[derive(Debug)]
pub(super) enum Queued {
    One(QueuedOne),
    Batch(QueuedBatch),
}

impl Queued {
    /// Publishes in it.
    pub fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Batch(QueuedBatch { batch, .. }) => batch.len(),
        }
    }

    /// When it was queued: of two the earlier is in front.
    pub fn since(&self) -> Instant {
        match self {
            Self::One(one) => one.since,
            Self::Batch(batch) => batch.since,
        }
    }

    /// Whether one of them has an idempotency key.
    pub fn has_key(&self) -> bool {
        match self {
            Self::One(one) => one.print.is_some(),
            Self::Batch(QueuedBatch { batch, .. }) => batch.has_key(),
        }
    }

    /// Whether one of them is traced.
    pub fn has_trace(&self) -> bool {
        match self {
            Self::One(one) => one.publish.trace.is_some(),
            Self::Batch(QueuedBatch { batch, .. }) => batch.has_trace(),
        }
    }

    /// Tells those that are traced.
    pub fn for_each_trace(&mut self, mut tell: impl FnMut(&mut PublishTrace)) {
        match self {
            Self::One(one) => one.publish.trace.as_deref_mut().into_iter().for_each(tell),
            Self::Batch(QueuedBatch { batch, .. }) => {
                let traces = batch.publishes.iter_mut().filter_map(|batched| batched.publish.trace.as_deref_mut());
                traces.for_each(&mut tell);
            }
        }
    }

    /// What it takes of a frame at most.
    pub fn frame_bytes(&self) -> usize {
        match self {
            Self::One(one) => frame_bytes(&one.publish),
            Self::Batch(QueuedBatch { batch, .. }) => batch.frame_bytes(),
        }
    }
}

/// The queue between publishers and committer.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    pub sender: Sender<Command>,
    pub receiver: Receiver<Command>,
    pub ended: Arc<AtomicBool>,
    /// One for each publish that may be queued, taken before it is sent: a send that waited could be
    /// taken by the committer and dropped by its caller at once.
    pub slots: Arc<Semaphore>,
}

impl Queue {
    pub fn new(publishes_max: usize) -> Self {
        // One more for the word to stop.
        let (sender, receiver) = flume::bounded(publishes_max + 1);
        let slots = Arc::new(Semaphore::new(publishes_max));
        Self { sender, receiver, ended: Arc::new(AtomicBool::new(false)), slots }
    }
}

/// What the committer takes from the queue.
#[derive(Debug)]
pub(super) enum Command {
    Publish(Queued),
    /// Give no more ids to some subjects.
    Close(Closing),
    /// Write what another node hands over.
    TakeOver(TakingOver),
    /// Finish what is queued, then end.
    Stop,
}

/// Why a publish was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too many bytes in flight; nothing was taken.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// Too many publishes wait; nothing was taken.
    #[error("{max} publishes are waiting for the log (limits.in_flight_publishes)")]
    QueueFull {
        /// The limit.
        max: usize,
    },
    /// The log has no room; nothing was taken.
    #[error("{0}")]
    NoRoom(String),
    /// No id is left; nothing was taken.
    #[error(transparent)]
    IdsExhausted(#[from] IdsExhausted),
    /// The key stands for another message of the subject; nothing was taken.
    #[error("the idempotency key was used for message {id} of the subject, whose body is another one")]
    KeyTaken {
        /// The message that was published with the key.
        id: MessageId,
    },
    /// Its slot is being given to another node, or was. Nothing was taken.
    #[error("the slot of the subject is moving to another node")]
    Moving,
    /// The log has failed. Whether the message is in it is unknown until the broker restarts.
    #[error("the log has failed")]
    LogFailed,
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    ShuttingDown,
}

/// Streams together may have this part of `limits.in_flight_bytes` in flight: with the default 32 MiB, enough for eight full
/// frames. A call of its own waits behind no more than that, and always finds room of its own.
const STREAMS_SHARE: usize = 8;

/// Publishes go through this; a clone is the same door.
#[derive(Debug, Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub queue: Sender<Command>,
    /// The committer's end, for what is queued when there is no committer any more.
    pub unread: Receiver<Command>,
    /// Set by the committer when it has ended, before it drops what is queued.
    pub ended: Arc<AtomicBool>,
    pub slots: Arc<Semaphore>,
    pub admission: Admission,
    /// Bytes that all streams together may have in flight, of those that are admitted.
    pub streams: Arc<Semaphore>,
    pub streams_max: u32,
    pub queue_max: usize,
    pub frame_bytes_max: usize,
    wait_max: Duration,
    stopped: AtomicBool,
}

impl Publisher {
    pub(super) fn new(queue: Queue, admission: Admission, config: &Config) -> Self {
        let Queue { sender: queue, receiver: unread, ended, slots } = queue;
        let streams_max = (admission.bytes_max() / STREAMS_SHARE) as u32;
        Self {
            inner: Arc::new(Inner {
                queue,
                unread,
                ended,
                slots,
                streams: Arc::new(Semaphore::new(streams_max as usize)),
                streams_max,
                admission,
                queue_max: config.in_flight_publishes,
                frame_bytes_max: config.frame_bytes_max,
                wait_max: config.admission_wait,
                stopped: AtomicBool::new(false),
            }),
        }
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Nothing is taken any more.
    pub(super) fn has_ended(&self) -> bool {
        self.inner.stopped.load(Ordering::Acquire) || self.inner.ended.load(Ordering::SeqCst)
    }

    pub(super) fn committer_has_ended(&self) -> bool {
        self.inner.ended.load(Ordering::SeqCst)
    }

    /// Publishes, and answers when the message is durable; a retry, known by its key, when the first is. Dropped before that,
    /// the message may or may not be published.
    ///
    /// # Errors
    /// [`PublishError`]. Except for [`PublishError::LogFailed`] nothing was published and no id was taken.
    pub async fn publish(&self, mut publish: Publish) -> Result<MessageId, PublishError> {
        let inner = &*self.inner;
        if self.has_ended() {
            return Err(self.gone());
        }
        let charge = inner.admission.charge(publish.text_bytes(), publish.body.len());
        let admitted = inner.admission.admit(charge).await?;
        // Here and not on the committer's thread: only those who use keys pay, and side by side. Admitted before: bodies
        // that are being hashed are memory as well.
        let print = match &publish.key {
            Some(key) => Some(Fingerprint::of_publish(publish.subject.as_str(), key.as_str(), &publish.body).await),
            None => None,
        };
        let slot = match inner.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_none) => tokio::time::timeout(inner.wait_max, inner.slots.acquire())
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(PublishError::QueueFull { max: inner.queue_max })?,
        };
        // From here to the answer nothing waits, so a publish is either queued with its room or not at all.
        let (reply, answer) = oneshot::channel();
        // 20 ns of some 14 us that a publish takes; whether it is the oldest of its frame is not known here.
        let since = telemetry::now();
        publish.traced_as_queued(since);
        self.enqueue(Queued::One(QueuedOne { publish, print, charge, reply, since }))?;
        slot.forget();
        admitted.keep();
        answer.await.unwrap_or_else(|_dropped| Err(self.gone()))
    }

    /// Queues what has a slot and its bytes of admission, which are the committer's to give back from then on.
    pub(super) fn enqueue(&self, queued: Queued) -> Result<(), PublishError> {
        let inner = &*self.inner;
        match inner.queue.try_send(Command::Publish(queued)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(PublishError::QueueFull { max: inner.queue_max }),
            Err(TrySendError::Disconnected(_)) => return Err(self.gone()),
        }
        // Queued after the committer's last look, it would wait for ever. In this order one of the two sees
        // the other: the committer sets `ended` and then empties the queue.
        if self.committer_has_ended() {
            inner.unread.drain().for_each(drop);
        }
        Ok(())
    }

    /// Refuses new publishes and lets the committer end once what is queued is durable.
    pub async fn stop(&self) {
        if !self.inner.stopped.swap(true, Ordering::AcqRel) {
            // A committer that has ended already needs no telling.
            drop(self.inner.queue.send_async(Command::Stop).await);
        }
    }

    /// Publishes that wait for the committer.
    pub fn queued(&self) -> usize {
        self.inner.queue.len()
    }

    /// The byte permits.
    pub fn admission(&self) -> &Admission {
        &self.inner.admission
    }

    /// The committer has ended: by an orderly stop, or because the log failed.
    pub(super) fn gone(&self) -> PublishError {
        if self.inner.stopped.load(Ordering::Acquire) { PublishError::ShuttingDown } else { PublishError::LogFailed }
    }
}
