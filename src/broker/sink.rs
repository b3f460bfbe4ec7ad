//! Where durable messages go: into the hot tail, then to the fan-out.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::delivery::{Delivery, Live};
use crate::event::Projected;
use crate::fetch::{HotMessage, HotTail};
use crate::ingest::{Admission, DurableBatch, DurableSink};
use crate::projector::ProjectionSink;

/// Connects ingest with Fetch and delivery, which do not know each other.
#[derive(Debug, Clone)]
pub struct Sink {
    /// Fetch's memory.
    pub hot: Arc<HotTail>,
    /// The fan-out.
    pub delivery: Delivery,
    /// Gets bytes back.
    pub admission: Admission,
    /// Tells housekeeping how far the store is.
    pub projected: watch::Sender<Projected>,
}

#[async_trait]
impl DurableSink for Sink {
    fn before_acks(&self, batch: &DurableBatch) {
        let projected_already = self.hot.insert(batch.messages.iter().filter_map(|message| {
            let expires_at = message.expires_at?;
            Some(HotMessage {
                sequence: message.sequence,
                key: (message.key, message.id),
                expires_at,
                encoded: message.encoded.clone(),
                charge: message.charge,
            })
        }));
        self.admission.give_back(projected_already);
    }

    async fn after_acks(&self, batch: DurableBatch) {
        if !self.delivery.has_subscribers() {
            return;
        }
        let frame = batch.messages.into_iter().map(|message| Live {
            sequence: message.sequence,
            subject: message.subject,
            id: message.id,
            encoded: message.encoded,
        });
        self.delivery.deliver(frame.collect()).await;
    }
}

impl ProjectionSink for Sink {
    /// What the store has now may leave memory, and makes room for new publishes.
    fn projected(&self, projected: Projected) {
        self.admission.give_back(self.hot.projected(projected));
        self.projected.send_replace(projected);
    }
}
