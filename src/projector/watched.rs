//! A store whose answers are watched, whoever asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::members::Membership;
use super::store::{ApplyError, Foreign, Row, Store, StoreBatch, StoreError, StoredMessage};
use crate::event::{MessageId, Projected, Subject, UnixMicros};

/// Whether a store answered the last call that needed an answer of it; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Contact(Arc<Last>);

#[derive(Debug, Default)]
struct Last {
    away: AtomicBool,
    /// What it said, or was said of it, when it was first away.
    trouble: Mutex<String>,
}

impl Contact {
    /// What the store said when a call first found it unavailable; None once one is answered.
    pub fn trouble(&self) -> Option<String> {
        self.0.away.load(Ordering::Relaxed).then(|| self.0.trouble.lock().clone())
    }

    /// An error that is not of contact is an answer, too.
    fn note(&self, unavailable: Option<&dyn fmt::Display>) {
        let Some(error) = unavailable else { return self.0.away.store(false, Ordering::Relaxed) };
        let mut trouble = self.0.trouble.lock();
        if !self.0.away.swap(true, Ordering::Relaxed) {
            *trouble = error.to_string();
        }
    }

    fn of<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        self.note(outcome.as_ref().err().filter(|error| error.retryable()).map(|error| error as &dyn fmt::Display));
        outcome
    }

    /// Success says nothing: where there is nothing to do, nobody was asked.
    fn of_failure(&self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        if outcome.as_ref().is_err_and(StoreError::retryable) { self.of(outcome) } else { outcome }
    }

    fn of_batch(&self, outcome: Result<(), ApplyError>) -> Result<(), ApplyError> {
        self.note(outcome.as_ref().err().filter(|error| error.retryable()).map(|error| error as &dyn fmt::Display));
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
        let contact = Contact::default();
        (Arc::new(Self { inner, contact: contact.clone() }), contact)
    }
}

#[async_trait]
impl Store for WatchedStore {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn database(&self) -> Option<String> {
        self.inner.database()
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
        self.contact.of_batch(self.inner.apply(batch).await)
    }

    async fn rewrite(&self, rows: &Arc<Vec<Row>>) -> Result<(), ApplyError> {
        self.contact.of_batch(self.inner.rewrite(rows).await)
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
        self.contact.of_failure(self.inner.note_lacking(subjects).await)
    }

    async fn follow_layout(&self, membership: Membership) -> Result<(), StoreError> {
        self.inner.follow_layout(membership).await
    }

    async fn expire(&self, now: UnixMicros) -> Result<(), StoreError> {
        self.contact.of_failure(self.inner.expire(now).await)
    }
}
