//! Which slots get no ids here now: one list for all who close and open some.

use tokio::sync::Mutex;

use crate::cluster::{SlotSet, slot_of};
use crate::event::Durable;
use crate::ingest::{Closed, PublishError, Publisher};

/// The committer's list of closed slots.
#[derive(Debug)]
pub(super) struct Gate {
    publisher: Publisher,
    closed: Mutex<SlotSet>,
}

impl Gate {
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher, closed: Mutex::default() }
    }

    /// No more ids for these slots. What got one before is durable at the position that is returned.
    pub async fn close(&self, slots: &SlotSet) -> Result<Durable, PublishError> {
        self.change(|closed| closed.union(slots)).await
    }

    /// Ids for these slots again.
    pub async fn open(&self, slots: &SlotSet) -> Result<(), PublishError> {
        self.change(|closed| closed.minus(slots)).await.map(drop)
    }

    async fn change(&self, change: impl FnOnce(&SlotSet) -> SlotSet) -> Result<Durable, PublishError> {
        let mut closed = self.closed.lock().await;
        let next = change(&closed);
        let is_closed =
            (!next.is_empty()).then(|| Closed::new(move |subject| next.contains(slot_of(subject.as_bytes()))));
        let durable = self.publisher.close(is_closed).await?;
        *closed = next;
        Ok(durable)
    }
}
