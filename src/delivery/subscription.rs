//! One subscriber's stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::registry::{Registry, Topic};
use super::ring::{Place, Taken};
use crate::event::{EncodedMessage, MessageId};
use crate::telemetry::metrics::DeliveryMetrics;

/// Messages and bytes that are taken from the ring at once: what the transport gathers into one write
/// (tonic: 32 KiB), so that the ring's lock is taken once per write.
const CHUNK_MESSAGES: usize = 64;
const CHUNK_BYTES: usize = 32 * 1024;

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// The subscriber read more slowly than the subject's messages came, beyond its bound.
    #[error("the subscriber fell too far behind")]
    Lagged {
        /// The last id that was handed to its stream; None if there was none.
        last_delivered: Option<MessageId>,
    },
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    ShuttingDown,
}

/// Every message of a subject since the subscription, in id order, each once. Dropped, it is forgotten at once.
#[derive(Debug)]
pub struct Subscription {
    registry: Arc<Registry>,
    topic: Arc<Topic>,
    place: Place,
    chunk: VecDeque<EncodedMessage>,
    ended: bool,
    metrics: DeliveryMetrics,
}

impl Subscription {
    pub(super) fn new(registry: Arc<Registry>, topic: Arc<Topic>, place: Place, metrics: DeliveryMetrics) -> Self {
        metrics.active_subscribers.inc();
        Self { registry, topic, place, chunk: VecDeque::new(), ended: false, metrics }
    }

    fn end(&mut self, end: StreamEnd) -> Poll<Option<Result<EncodedMessage, StreamEnd>>> {
        self.ended = true;
        Poll::Ready(Some(Err(end)))
    }
}

impl Stream for Subscription {
    type Item = Result<EncodedMessage, StreamEnd>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(message) = this.chunk.pop_front() {
            return Poll::Ready(Some(Ok(message)));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let (place, chunk) = (this.place, &mut this.chunk);
        let taken = this
            .registry
            .with_ring(&this.topic, |ring| ring.take(place, CHUNK_MESSAGES, CHUNK_BYTES, context.waker(), chunk));
        match taken {
            Taken::Some => {
                this.metrics.deliveries.inc_by(this.chunk.len() as u64);
                Poll::Ready(this.chunk.pop_front().map(Ok))
            }
            Taken::Lagged(last_delivered) => {
                this.metrics.slow_ends.inc();
                this.end(StreamEnd::Lagged { last_delivered })
            }
            // Asked after the waker was left: a close that is not seen here wakes it.
            Taken::Nothing if this.registry.is_closed() => this.end(StreamEnd::ShuttingDown),
            Taken::Nothing => Poll::Pending,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.registry.leave(&self.topic, self.place);
        self.metrics.active_subscribers.dec();
    }
}
