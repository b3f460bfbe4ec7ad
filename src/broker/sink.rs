//! Where durable messages go: into the index and the hot tail, then to the fan-out.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::delivery::{Delivery, Live};
use crate::event::{Projected, Sequence};
use crate::fetch::{HotMessage, HotTail};
use crate::index::{Appended, Index};
use crate::ingest::{DurableBatch, DurableSink};
use crate::projector::ProjectionSink;
use crate::wal::Place;

/// Connects ingest with Fetch and delivery, which do not know each other.
#[derive(Debug, Clone)]
pub struct Sink {
    /// Where the log has them.
    pub index: Index,
    /// Fetch's memory.
    pub hot: Arc<HotTail>,
    /// The fan-out.
    pub delivery: Delivery,
    /// Tells housekeeping how far the store is.
    pub projected: watch::Sender<Projected>,
}

#[async_trait]
impl DurableSink for Sink {
    fn taken_over(&self, sequence: Sequence, place: Place) {
        self.index.append_taken_over(sequence, &place);
    }

    fn before_acks(&self, batch: &DurableBatch) {
        // The index first: what the hot tail evicts for these is looked for there.
        self.index.append(batch.messages.iter().map(|message| Appended {
            subject: message.subject.as_str(),
            id: message.id,
            sequence: message.sequence,
            place: message.place,
        }));
        self.hot.insert(batch.messages.iter().filter_map(|message| {
            let expires_at = message.expires_at?;
            Some(HotMessage { key: (message.key, message.id), expires_at, encoded: message.encoded.clone() })
        }));
    }

    fn is_awaited(&self) -> bool {
        self.delivery.has_subscribers()
    }

    async fn after_acks(&self, batch: DurableBatch) {
        let published_at = batch.published_at;
        let frame = batch.messages.into_iter().map(|message| Live {
            subject: message.subject,
            id: message.id,
            encoded: message.encoded,
            trace: message.trace,
        });
        self.delivery.deliver(frame.collect(), published_at).await;
    }
}

impl ProjectionSink for Sink {
    fn projected(&self, projected: Projected) {
        self.projected.send_replace(projected);
    }
}
