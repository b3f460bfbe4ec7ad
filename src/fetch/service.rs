//! The decision which of the cases of the contract a (subject, id) is.

use std::sync::Arc;

use tokio::sync::watch;

use super::HotTail;
use crate::event::record::Record;
use crate::event::{EncodedMessage, MessageId, Projected, Sequence, Subject, clock};
use crate::ingest::SubjectTable;
use crate::projector::{Store, StoreError};
use crate::telemetry::metrics::{FetchMetrics, Source};

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No message with this id was ever acknowledged on the subject.
    #[error("no message with this id was ever published on the subject")]
    NeverPublished,
    /// The id was issued; its message has expired, or was fire and forget.
    #[error("the message has expired")]
    Expired,
    /// The store is far behind and may not have the message yet.
    #[error("the store is behind and may not have the message yet")]
    NotProjected,
    /// The store is needed and cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What neither memory nor the store may have yet: after a start with a store that was far behind.
#[derive(Debug, Clone)]
pub struct Lacking {
    /// Messages up to here were not put into memory; [`Sequence::ZERO`] if all were.
    pub through: Sequence,
    /// Where the store is.
    pub projected: watch::Receiver<Projected>,
}

impl Lacking {
    /// Whether a message that is nowhere may still be on its way to the store.
    fn anything(&self) -> bool {
        self.projected.borrow().sequence() < self.through
    }
}

/// Answers fetches; a clone is the same.
#[derive(Debug, Clone)]
pub struct Fetch {
    subjects: Arc<SubjectTable>,
    hot: Arc<HotTail>,
    store: Arc<dyn Store>,
    lacking: Lacking,
    metrics: FetchMetrics,
}

impl Fetch {
    /// Fetches from the hot tail, then from the store.
    pub fn new(
        subjects: Arc<SubjectTable>,
        hot: Arc<HotTail>,
        store: Arc<dyn Store>,
        lacking: Lacking,
        metrics: FetchMetrics,
    ) -> Self {
        Self { subjects, hot, store, lacking, metrics }
    }

    /// The message `id` of `subject`.
    ///
    /// # Errors
    /// [`FetchError`] tells the cases of the contract apart.
    pub async fn fetch(&self, subject: &Subject, id: MessageId) -> Result<EncodedMessage, FetchError> {
        let never_published = || {
            self.metrics.answered(Source::NeverPublished);
            FetchError::NeverPublished
        };
        let (key, last) = self.subjects.high_water_mark(subject.as_str()).ok_or_else(never_published)?;
        if id > last {
            return Err(never_published());
        }
        let now = clock::now();
        // The mark rises after the hot tail is filled, and what leaves the hot tail is in the store: a
        // message that was kept is in one of the two, looked at in this order.
        if let Some((encoded, expires_at)) = self.hot.get(&(key, id)) {
            if now < expires_at {
                self.metrics.answered(Source::Hot);
                return Ok(encoded);
            }
            return Err(self.expired());
        }
        if !self.store.keeps_history() {
            return Err(self.expired());
        }
        // Asked before the store is: what it projects meanwhile is no doubt.
        let lacking = self.lacking.anything();
        let Some(stored) = self.store.fetch(subject, id, now).await? else {
            return Err(if lacking { FetchError::NotProjected } else { self.expired() });
        };
        self.metrics.answered(Source::Store);
        Ok(EncodedMessage::new(&Record {
            subject: subject.as_str(),
            id,
            published_at: stored.published_at,
            expiration: stored.expiration,
            body: &stored.body,
        }))
    }

    fn expired(&self) -> FetchError {
        self.metrics.answered(Source::Expired);
        FetchError::Expired
    }
}
