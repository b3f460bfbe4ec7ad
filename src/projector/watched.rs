//! A store whose answers are watched, whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::members::Membership;
use super::store::{ApplyError, Foreign, Row, Store, StoreBatch, StoreError, StoredMessage};
use crate::event::{MessageId, Projected, Subject, UnixMicros};

/// Whether a store answered the last call that needed an answer of it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Contact(Arc<AtomicBool>);

impl Contact {
    /// False after a call that found it unavailable, until one is answered.
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error that is not of contact is an answer, too.
    fn note(&self, unavailable: bool) {
        self.0.store(!unavailable, Ordering::Relaxed);
    }

    fn of<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        self.note(outcome.as_ref().is_err_and(StoreError::retryable));
        outcome
    }
}

/// Another store, watched: projection, Fetch and subscribers that catch up ask it, and each of them may be the only one.
#[derive(Debug)]
pub struct WatchedStore {
    inner: Arc<dyn Store>,
    contact: Contact,
}

impl WatchedStore {
    /// Watches `inner`, of which nothing bad is known yet.
    pub fn watch(inner: Arc<dyn Store>) -> (Arc<dyn Store>, Contact) {
        let contact = Contact(Arc::new(AtomicBool::new(true)));
        (Arc::new(Self { inner, contact: contact.clone() }), contact)
    }
}

#[async_trait]
impl Store for WatchedStore {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn keeps_history(&self) -> bool {
        self.inner.keeps_history()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.contact.of(self.inner.prepare().await)
    }

    async fn ask(&self) -> Result<(), StoreError> {
        self.contact.of(self.inner.ask().await)
    }

    async fn projected(&self) -> Result<Projected, StoreError> {
        self.contact.of(self.inner.projected().await)
    }

    async fn apply(&self, batch: &Arc<StoreBatch>) -> Result<(), ApplyError> {
        let applied = self.inner.apply(batch).await;
        self.contact.note(applied.as_ref().is_err_and(ApplyError::retryable));
        applied
    }

    async fn rewrite(&self, rows: &Arc<Vec<Row>>) -> Result<(), ApplyError> {
        let written = self.inner.rewrite(rows).await;
        self.contact.note(written.as_ref().is_err_and(ApplyError::retryable));
        written
    }

    async fn fetch(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        self.contact.of(self.inner.fetch(subject, id, now).await)
    }

    fn fetch_here(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Option<Result<Option<StoredMessage>, StoreError>> {
        self.inner.fetch_here(subject, id, now).map(|found| self.contact.of(found))
    }

    async fn after(
        &self,
        subject: &Subject,
        after: u32,
        messages_max: usize,
        bytes_max: usize,
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        self.contact.of(self.inner.after(subject, after, messages_max, bytes_max, now).await)
    }

    async fn high_water_mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        self.contact.of(self.inner.high_water_mark(subject).await)
    }

    async fn fetch_foreign(&self, subject: &Subject, id: MessageId, now: UnixMicros) -> Result<Foreign, StoreError> {
        self.contact.of(self.inner.fetch_foreign(subject, id, now).await)
    }

    async fn note_lacking(&self, subjects: &[(Subject, UnixMicros)]) -> Result<(), StoreError> {
        let noted = self.inner.note_lacking(subjects).await;
        // Success says nothing: where there is nothing to do, nobody was asked.
        if noted.as_ref().is_err_and(StoreError::retryable) {
            self.contact.note(true);
        }
        noted
    }

    async fn follow_layout(&self, membership: Membership) -> Result<(), StoreError> {
        self.inner.follow_layout(membership).await
    }

    async fn expire(&self, now: UnixMicros) -> Result<(), StoreError> {
        let expired = self.inner.expire(now).await;
        // Success says nothing: where there is nothing to do, nobody was asked.
        if expired.as_ref().is_err_and(StoreError::retryable) {
            self.contact.note(true);
        }
        expired
    }
}
