//! One subscriber's stream: live from its subject's ring, or from history while it is behind.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt as _, Stream};
use tokio::sync::oneshot;

use super::hand_over::{HandOver, Range, Step};
use super::history::{Ask, History, HistoryError};
use super::readers::{Orders, Reply};
use super::registry::{Registry, Topic};
use super::ring::{Place, Taken};
use crate::event::EncodedMessage;
use crate::telemetry::metrics::{DeliveryMetrics, StreamEnded};

/// Messages and bytes that are taken from the ring at once: what the transport gathers into one write
/// (tonic: 32 KiB), so that the ring's lock is taken once per write.
const CHUNK_MESSAGES: usize = 64;
const CHUNK_BYTES: usize = 32 * 1024;

/// Messages of a chunk of history: small ones fill 256 KiB with as many.
const HISTORY_CHUNK_MESSAGES: usize = 1_024;

/// Bytes of a chunk of history, unless one message is larger: at more, reading is no faster.
const HISTORY_CHUNK_BYTES: usize = 256 * 1024;

/// The smallest chunk, when many are behind: what is taken from a ring at once, too.
const HISTORY_CHUNK_BYTES_MIN: usize = CHUNK_BYTES;

/// Bytes of the chunks of all that are behind, while there are no more than a thousand of them: each has up to two.
const HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// A message that was published after the subscription is neither in the log nor in the store any more.
    #[error(
        "the messages after {last_delivered} are gone, the subscriber was too far behind; the first that can be had is {first_available}"
    )]
    Gone {
        /// Everything up to this id was delivered, or was published before the subscription.
        last_delivered: u32,
        /// The first id after it that can be had, or the next that will be published.
        first_available: u32,
    },
    /// What comes next cannot be read.
    #[error("the messages after {last_delivered} cannot be read: {error}")]
    History {
        /// Everything up to this id was delivered, or was published before the subscription.
        last_delivered: u32,
        /// Why not.
        error: HistoryError,
    },
    /// Another node has the subject now.
    #[error(
        "the subject has moved to another node after message {last_delivered}; subscribe again, after_id goes on behind it"
    )]
    Moved {
        /// Everything up to this id was delivered, or was published before the subscription.
        last_delivered: u32,
    },
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    ShuttingDown,
}

/// What all subscriptions use.
#[derive(Debug)]
pub(super) struct Shared {
    pub registry: Registry,
    pub history: Arc<dyn History>,
    pub orders: Orders,
    pub metrics: DeliveryMetrics,
    /// Subscriptions that are behind.
    pub behind: AtomicUsize,
}

/// Every message of a subject from a point on, in id order, each once. Dropped, it is forgotten at once.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    place: Place,
    /// Taken, and not yet asked for.
    chunk: VecDeque<EncodedMessage>,
    mode: Mode,
    /// The last durable id of the subject when it subscribed.
    subscribed_at: u32,
}

#[derive(Debug)]
enum Mode {
    Live,
    Behind(Box<Behind>),
    Ended,
}

/// A subscriber that reads history.
#[derive(Debug)]
struct Behind {
    hand_over: HandOver,
    /// What was ordered and has not come.
    ordered: Option<oneshot::Receiver<Reply>>,
}

type Item = Result<EncodedMessage, StreamEnd>;

impl Subscription {
    /// Of a subscriber that has joined, and goes live at its place.
    pub(super) fn live(shared: Arc<Shared>, topic: Arc<Topic>, place: Place, subscribed_at: u32) -> Self {
        shared.metrics.active_subscribers.inc();
        Self { shared, topic, place, chunk: VecDeque::new(), mode: Mode::Live, subscribed_at }
    }

    /// Of one that has joined, and reads history first.
    pub(super) fn behind(
        shared: Arc<Shared>,
        topic: Arc<Topic>,
        place: Place,
        hand_over: HandOver,
        subscribed_at: u32,
    ) -> Self {
        let mut subscription = Self::live(shared, topic, place, subscribed_at);
        subscription.leave_live(hand_over);
        subscription
    }

    /// The last durable id of the subject when it subscribed; 0 if there was none. What has a higher one is delivered.
    pub fn subscribed_at(&self) -> u32 {
        self.subscribed_at
    }

    fn leave_live(&mut self, hand_over: HandOver) {
        self.shared.registry.with_ring(&self.topic, |ring| {
            ring.park(self.place);
            ring.settle(self.place, hand_over.settled());
        });
        self.shared.behind.fetch_add(1, Ordering::Relaxed);
        self.shared.metrics.behind.inc();
        self.mode = Mode::Behind(Box::new(Behind { hand_over, ordered: None }));
    }

    /// Leaves the mode for another.
    fn change(&mut self, mode: Mode) {
        if matches!(std::mem::replace(&mut self.mode, mode), Mode::Behind(_)) {
            self.shared.behind.fetch_sub(1, Ordering::Relaxed);
            self.shared.metrics.behind.dec();
        }
    }

    fn end(&mut self, end: StreamEnd) -> Poll<Option<Item>> {
        self.shared.metrics.ended(match end {
            StreamEnd::Gone { .. } => StreamEnded::MessagesGone,
            StreamEnd::History { .. } => StreamEnded::HistoryUnreadable,
            StreamEnd::Moved { .. } => StreamEnded::Moved,
            StreamEnd::ShuttingDown => StreamEnded::ShuttingDown,
        });
        self.change(Mode::Ended);
        Poll::Ready(Some(Err(end)))
    }

    /// Takes what the ring has. Ready when something was taken, or the mode or the stream's end has changed.
    fn poll_live(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        let (place, chunk) = (self.place, &mut self.chunk);
        let taken = self
            .shared
            .registry
            .with_ring(&self.topic, |ring| ring.take(place, CHUNK_MESSAGES, CHUNK_BYTES, context.waker(), chunk));
        match taken {
            Taken::Some => self.shared.metrics.deliveries.inc_by(self.chunk.len() as u64),
            Taken::Lagged(settled) => {
                self.shared.metrics.fallbacks.inc();
                let last = self.shared.history.last_id(&self.topic.subject);
                self.leave_live(HandOver::fall_back(settled, last));
            }
            Taken::Missing { settled, found } => {
                let error = format!("message {found} was to be delivered after {settled}");
                return Poll::Ready(Err(self.contradiction(settled, error)));
            }
            // Asked after the waker was left: a close that is not seen here wakes it.
            Taken::Nothing if self.shared.registry.is_closed() => return Poll::Ready(Err(StreamEnd::ShuttingDown)),
            Taken::Nothing if self.topic.has_moved() => {
                let last_delivered = self.shared.registry.with_ring(&self.topic, |ring| ring.settled(self.place));
                return Poll::Ready(Err(StreamEnd::Moved { last_delivered }));
            }
            Taken::Nothing => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }

    /// Goes on with history. Ready when something was read, or the subscriber is live, or the stream's end has come.
    fn poll_behind(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        loop {
            let Mode::Behind(behind) = &mut self.mode else { return Poll::Ready(Ok(())) };
            let last_delivered = behind.hand_over.settled();
            if let Some(ordered) = &mut behind.ordered {
                let reply = ready!(ordered.poll_unpin(context));
                behind.ordered = None;
                match reply {
                    // The readers give up what they have when the broker shuts down.
                    Err(_closed) => return Poll::Ready(Err(StreamEnd::ShuttingDown)),
                    Ok(Err(error)) => return Poll::Ready(Err(StreamEnd::History { last_delivered, error })),
                    Ok(Ok(chunk)) => self.take(last_delivered, chunk)?,
                }
                if !self.chunk.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if self.shared.registry.is_closed() {
                return Poll::Ready(Err(StreamEnd::ShuttingDown));
            }
            match behind.hand_over.step() {
                Step::Read(range) => self.order(range),
                Step::Hold => self.hold(),
                Step::Join => self.join(),
                Step::Gone { first_available } => {
                    return Poll::Ready(Err(StreamEnd::Gone { last_delivered, first_available }));
                }
            }
        }
    }

    /// Takes a chunk of history, and orders the next one while this one is read.
    fn take(&mut self, last_delivered: u32, chunk: super::history::Chunk) -> Result<(), StreamEnd> {
        let Mode::Behind(behind) = &mut self.mode else { return Ok(()) };
        let (mut bytes, messages) = (0, &mut self.chunk);
        let taken = behind.hand_over.take(chunk, |message| {
            bytes += message.len();
            messages.push_back(message);
        });
        if taken.is_err() {
            let error = format!("what was read after {last_delivered} is not what was asked for");
            return Err(self.contradiction(last_delivered, error));
        }
        let settled = behind.hand_over.settled();
        self.shared.registry.with_ring(&self.topic, |ring| ring.settle(self.place, settled));
        let metrics = &self.shared.metrics;
        metrics.deliveries.inc_by(self.chunk.len() as u64);
        metrics.catch_up_messages.inc_by(self.chunk.len() as u64);
        metrics.catch_up_bytes.inc_by(bytes as u64);
        // Among many a second chunk each is memory that makes nothing faster.
        if let Step::Read(range) = behind.hand_over.step()
            && history_chunk_bytes(&self.shared) == HISTORY_CHUNK_BYTES
        {
            self.order(range);
        }
        Ok(())
    }

    fn order(&mut self, range: Range) {
        let Mode::Behind(behind) = &mut self.mode else { return };
        behind.ordered = Some(self.shared.orders.leave(Ask {
            subject: Arc::clone(&self.topic.subject),
            after: range.after,
            through: range.through,
            expired_too: range.owed,
            messages_max: HISTORY_CHUNK_MESSAGES,
            bytes_max: history_chunk_bytes(&self.shared),
        }));
    }

    fn hold(&mut self) {
        let Mode::Behind(behind) = &mut self.mode else { return };
        let Shared { registry, history, .. } = &*self.shared;
        registry.with_ring(&self.topic, |ring| ring.hold(self.place));
        // In this order: see `hand_over`.
        if !behind.hand_over.held(history.last_id(&self.topic.subject)) {
            registry.with_ring(&self.topic, |ring| ring.park(self.place));
        }
    }

    fn join(&mut self) {
        let Mode::Behind(behind) = &mut self.mode else { return };
        let Shared { registry, history, metrics, .. } = &*self.shared;
        let (place, settled) = (self.place, behind.hand_over.settled());
        let live = registry.with_ring(&self.topic, |ring| {
            let live = ring.go_live(place, settled);
            if !live {
                ring.park(place);
            }
            live
        });
        if live {
            metrics.rejoins.inc();
            self.change(Mode::Live);
        } else {
            behind.hand_over.overflowed(history.last_id(&self.topic.subject));
        }
    }

    /// Something that the proof in `hand_over` says cannot be: a fault of the broker, told as loudly as it can be.
    fn contradiction(&self, last_delivered: u32, error: String) -> StreamEnd {
        tracing::error!(%error, "a subscription cannot go on");
        tracing::debug!(subject = self.topic.subject.as_str(), %error, "the subject of a subscription that cannot go on");
        StreamEnd::History { last_delivered, error: HistoryError::Log(error) }
    }
}

/// Bytes of one chunk: the more are behind, the fewer each.
fn history_chunk_bytes(shared: &Shared) -> usize {
    let behind = shared.behind.load(Ordering::Relaxed).max(1);
    (HISTORY_BYTES / 2 / behind).clamp(HISTORY_CHUNK_BYTES_MIN, HISTORY_CHUNK_BYTES)
}

impl Stream for Subscription {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(message) = this.chunk.pop_front() {
                return Poll::Ready(Some(Ok(message)));
            }
            let progress = match this.mode {
                Mode::Live => this.poll_live(context),
                Mode::Behind(_) => this.poll_behind(context),
                Mode::Ended => return Poll::Ready(None),
            };
            if let Err(end) = ready!(progress) {
                return this.end(end);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.change(Mode::Ended);
        self.shared.registry.leave(&self.topic, self.place);
        self.shared.metrics.active_subscribers.dec();
    }
}
