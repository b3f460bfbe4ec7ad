//! Publishes of one stream that are queued together and answered together: one place in the queue, one wake-up of the
//! committer and one of the stream for hundreds of messages.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::idempotency::Fingerprint;
use super::publisher::{Publisher, Queued};
use super::{Publish, PublishError};
use crate::event::limits::RECORD_OVERHEAD_BYTES;
use crate::event::{IdempotencyKey, MessageId};
use crate::telemetry;
use crate::wal::RECORD_PREFIX_BYTES;

/// Publishes in one batch at most: what a batch costs (a queue entry, a channel, two wake-ups: some 10 us) is then
/// 20 ns a message, and its answers are 2 KiB.
pub const BATCH_PUBLISHES_MAX: usize = 512;

/// What a publish takes of a frame at most.
pub(super) fn frame_bytes(publish: &Publish) -> usize {
    RECORD_PREFIX_BYTES + RECORD_OVERHEAD_BYTES + publish.text_bytes() + publish.body.len()
}

/// A publish of a batch.
#[derive(Debug)]
pub(super) struct Batched {
    pub publish: Publish,
    /// Of its key, if it has one.
    pub print: Option<Fingerprint>,
    /// Bytes of admission to give back.
    pub charge: u32,
}

/// Publishes in the order of their stream.
#[derive(Debug, Default)]
pub struct PublishBatch {
    pub(super) publishes: Vec<Batched>,
    /// Whether one of them has a key.
    has_key: bool,
    /// Whether one of them is traced.
    has_trace: bool,
    charge: u32,
    frame_bytes: usize,
}

impl PublishBatch {
    /// Publishes in it.
    pub fn len(&self) -> usize {
        self.publishes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.publishes.is_empty()
    }

    /// Bytes that it is charged while it is in flight.
    pub fn charge(&self) -> u32 {
        self.charge
    }

    /// Whether one of the publishes has an idempotency key.
    pub(super) fn has_key(&self) -> bool {
        self.has_key
    }

    /// Whether one of the publishes is traced.
    pub(super) fn has_trace(&self) -> bool {
        self.has_trace
    }

    /// What it takes of a frame at most.
    pub(super) fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }
}

/// What became of the publishes of a batch: an id each, or an error.
#[derive(Debug, Default)]
pub struct Outcomes {
    // Four bytes a publish: a client that does not read its answers holds these.
    ids: Vec<Option<MessageId>>,
    /// Those of the publishes without an id, in order.
    errors: Vec<PublishError>,
}

impl Outcomes {
    pub(super) fn with_capacity(publishes: usize) -> Self {
        Self { ids: Vec::with_capacity(publishes), errors: Vec::new() }
    }

    /// How many publishes have an id.
    pub fn published(&self) -> usize {
        self.ids.len() - self.errors.len()
    }

    /// Why the others have none.
    pub fn errors(&self) -> &[PublishError] {
        &self.errors
    }

    /// Whether no publish has an id.
    pub(super) fn all_refused(&self) -> bool {
        self.ids.len() == self.errors.len()
    }

    pub(super) fn push(&mut self, outcome: Result<MessageId, PublishError>) {
        self.ids.push(outcome.as_ref().ok().copied());
        self.errors.extend(outcome.err());
    }
}

impl IntoIterator for Outcomes {
    type Item = Result<MessageId, PublishError>;
    type IntoIter = IntoOutcomes;

    fn into_iter(self) -> IntoOutcomes {
        IntoOutcomes { ids: self.ids.into_iter(), errors: self.errors.into_iter() }
    }
}

/// The outcomes of a batch, in the order of its publishes.
#[derive(Debug)]
pub struct IntoOutcomes {
    ids: std::vec::IntoIter<Option<MessageId>>,
    errors: std::vec::IntoIter<PublishError>,
}

impl Iterator for IntoOutcomes {
    type Item = Result<MessageId, PublishError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.ids.next()? {
            Some(id) => Some(Ok(id)),
            None => self.errors.next().map(Err),
        }
    }
}

/// What a batch is answered; an error is that of every publish in it.
pub(super) type BatchAnswer = oneshot::Receiver<Result<Outcomes, PublishError>>;

/// Where the answer of a batch goes; its share of what streams may have in flight comes back with it.
#[derive(Debug)]
pub(super) struct BatchReply {
    sender: oneshot::Sender<Result<Outcomes, PublishError>>,
    share: OwnedSemaphorePermit,
}

impl BatchReply {
    /// Answers. A stream that has gone is no error.
    pub fn send(self, answer: Result<Outcomes, PublishError>) {
        // Whoever is answered finds its room free.
        drop(self.share);
        drop(self.sender.send(answer));
    }

    #[cfg(test)]
    pub fn for_test() -> (Self, BatchAnswer) {
        let share = std::sync::Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().expect("one");
        let (sender, answer) = oneshot::channel();
        (Self { sender, share }, answer)
    }
}

/// A batch in the queue.
#[derive(Debug)]
pub(super) struct QueuedBatch {
    pub batch: PublishBatch,
    pub reply: BatchReply,
    /// When it was queued.
    pub since: Instant,
}

/// Room for one batch; dropped, it is given back.
#[derive(Debug)]
pub struct BatchRoom {
    share: OwnedSemaphorePermit,
    admitted: OwnedSemaphorePermit,
    slot: OwnedSemaphorePermit,
}

/// A batch that is queued: its answer comes when its last message is durable.
#[derive(Debug)]
pub struct QueuedAnswer {
    answer: BatchAnswer,
    publisher: Publisher,
}

impl Future for QueuedAnswer {
    /// An error is that of every publish in it.
    type Output = Result<Outcomes, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(context)
            .map(|answer| answer.unwrap_or_else(|_dropped| Err(self.publisher.gone())))
    }
}

impl Publisher {
    /// Adds a publish to a batch of at most [`BATCH_PUBLISHES_MAX`] publishes and `bytes_max` bytes of a frame; the first one
    /// always fits.
    ///
    /// # Errors
    /// The publish itself, if the batch is full.
    pub fn add(&self, batch: &mut PublishBatch, publish: Publish, bytes_max: usize) -> Result<(), Publish> {
        let inner = self.inner();
        let bytes = batch.frame_bytes + frame_bytes(&publish);
        let charge = inner.admission.charge(publish.text_bytes(), publish.body.len());
        let charged = batch.charge.saturating_add(charge);
        let full = batch.len() >= BATCH_PUBLISHES_MAX
            || bytes > bytes_max.min(inner.frame_bytes_max)
            || charged as usize > inner.admission.bytes_max();
        if full && !batch.is_empty() {
            return Err(publish);
        }
        batch.frame_bytes = bytes;
        batch.charge = charged;
        // At once: a stream takes turns between its requests only. The largest body that can be allowed takes 40 ms on a
        // processor without instructions for SHA-256, the default 2.5 ms.
        let of_key = |key: &IdempotencyKey| Fingerprint::new(publish.subject.as_str(), key.as_str(), &publish.body);
        let print = publish.key.as_ref().map(of_key);
        batch.has_key |= print.is_some();
        batch.has_trace |= publish.trace.is_some();
        batch.publishes.push(Batched { publish, print, charge });
        Ok(())
    }

    /// Room for a batch of this charge, if there is some now. Without it a stream is not read, and HTTP/2 lets its client wait:
    /// all streams together stay within their share, so that calls of their own find room.
    pub fn try_room(&self, charge: u32) -> Option<BatchRoom> {
        let inner = self.inner();
        let share = inner.streams.clone().try_acquire_many_owned(charge.min(inner.streams_max)).ok()?;
        let admitted = inner.admission.try_admit_owned(charge)?;
        let slot = inner.slots.clone().try_acquire_owned().ok()?;
        Some(BatchRoom { share, admitted, slot })
    }

    /// Waits for room for a batch of this charge.
    #[cfg(test)]
    pub(super) fn room(&self, charge: u32) -> impl Future<Output = BatchRoom> + Send + use<> {
        let publisher = self.clone();
        std::future::poll_fn(move |context| match publisher.try_room(charge) {
            Some(room) => Poll::Ready(room),
            None => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        })
    }

    /// Queues a batch; `room` was taken for it. If the answer is dropped, the messages may or may not be published.
    ///
    /// # Errors
    /// [`PublishError::LogFailed`], [`PublishError::ShuttingDown`]: nothing of it is published.
    pub fn publish_batch(&self, mut batch: PublishBatch, room: BatchRoom) -> Result<QueuedAnswer, PublishError> {
        if self.has_ended() {
            return Err(self.gone());
        }
        let BatchRoom { share, admitted, slot } = room;
        let since = telemetry::now();
        if batch.has_trace {
            batch.publishes.iter_mut().for_each(|batched| batched.publish.traced_as_queued(since));
        }
        let (sender, answer) = oneshot::channel();
        let reply = BatchReply { sender, share };
        self.enqueue(Queued::Batch(QueuedBatch { batch, reply, since }))?;
        slot.forget();
        admitted.forget();
        Ok(QueuedAnswer { answer, publisher: self.clone() })
    }

    /// Bytes of batches of streams that are in flight now.
    pub fn stream_bytes(&self) -> usize {
        let inner = self.inner();
        (inner.streams_max as usize).saturating_sub(inner.streams.available_permits())
    }
}
