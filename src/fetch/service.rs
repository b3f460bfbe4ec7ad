//! The decision which of the cases of the contract a (subject, id) is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::HotTail;
use crate::event::record::{self, Logged, Record, RecordError};
use crate::event::{EncodedMessage, MessageId, Subject, UnixMicros, clock};
use crate::index::{Index, IndexError, Lookup};
use crate::ingest::SubjectTable;
use crate::projector::{DeadLetterError, DeadLetters, Foreign, Store, StoreError, StoredMessage};
use crate::telemetry::metrics::{FetchMetrics, Source};
use crate::telemetry::traces::Current;

/// Reads of log and local store at once: a disk has no use for more, and each holds up to one body.
const FILE_READS_MAX: usize = 16;

/// How long a Fetch waits for the index of the log: a segment of 64 MiB is indexed in 0.2 s, and after a crash one or
/// two of them are.
const INDEX_WAIT: Duration = Duration::from_secs(2);

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No message with this id was ever acknowledged on the subject.
    #[error("no message with this id was ever published on the subject")]
    NeverPublished,
    /// The id was issued; its message has expired, or was fire and forget.
    #[error("the message has expired")]
    Expired,
    /// The message may be in a part of the log that is not indexed yet.
    #[error("the log is being indexed and may have the message")]
    NotIndexed,
    /// The log cannot be read.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The log holds what this build does not understand.
    #[error("the log holds a record that cannot be read: {0}")]
    Record(#[from] RecordError),
    /// A message that the store did not take cannot be read.
    #[error(transparent)]
    DeadLetter(#[from] DeadLetterError),
    /// The read of the log ended without an answer.
    #[error("the read of the log ended: {0}")]
    ReadEnded(String),
    /// The store is needed and cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a message was found.
enum Found {
    /// The record.
    InLog(Bytes),
    /// The response made of the row.
    InStore(EncodedMessage),
    /// In neither, for certain.
    Nowhere,
    /// Not in the store, and the log is not indexed as far as it would have to be.
    Unknown,
}

/// What the files of this process have.
struct InFiles {
    in_log: Result<Lookup, IndexError>,
    /// How long it took, and what it found; None if it was not asked: the log has the message, or the store is not in this process.
    in_store: Option<(Duration, Result<Option<StoredMessage>, StoreError>)>,
}

/// Answers fetches; a clone is the same.
#[derive(Debug, Clone)]
pub struct Fetch {
    subjects: Arc<SubjectTable>,
    hot: Arc<HotTail>,
    index: Index,
    store: Arc<dyn Store>,
    letters: DeadLetters,
    file_reads: Arc<Semaphore>,
    metrics: FetchMetrics,
}

impl Fetch {
    /// Fetches from the hot tail, then from the log, then from the store, then from what the store did not take.
    pub fn new(
        subjects: Arc<SubjectTable>,
        hot: Arc<HotTail>,
        index: Index,
        store: Arc<dyn Store>,
        letters: DeadLetters,
        metrics: FetchMetrics,
    ) -> Self {
        Self { subjects, hot, index, store, letters, file_reads: Arc::new(Semaphore::new(FILE_READS_MAX)), metrics }
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
        // The mark rises after index and hot tail are filled, and what leaves the log is in the store: a message that
        // was kept is in one of the three, looked at in this order.
        if let Some((encoded, expires_at)) = self.hot.get(&(key, id)) {
            if now < expires_at {
                self.metrics.answered(Source::Hot);
                return Ok(encoded);
            }
            return Err(self.expired());
        }
        self.fetch_from_files(subject, (id, last), now).await
    }

    /// The message `id` of a subject of another node, which does not answer, as far as a store that both share is certain of it.
    /// None: only the owner can tell.
    pub async fn of_another(&self, subject: &Subject, id: MessageId) -> Option<Result<EncodedMessage, FetchError>> {
        let started = Instant::now();
        let read = self.store.fetch_foreign(subject, id, clock::now()).await;
        self.metrics.store_read(started.elapsed(), read.is_ok());
        match read {
            Ok(Foreign::Found(stored)) => {
                self.metrics.answered(Source::Store);
                Some(Ok(response(subject, id, &stored)))
            }
            Ok(Foreign::Gone) => Some(Err(self.expired())),
            // That the owner does not answer is what the caller is told.
            Ok(Foreign::Unknown) | Err(_) => None,
        }
    }

    /// The message from the log or from the store; waits for the index if it is in neither.
    async fn fetch_from_files(
        &self,
        subject: &Subject,
        (id, last): (MessageId, MessageId),
        now: UnixMicros,
    ) -> Result<EncodedMessage, FetchError> {
        let mut found = self.look_in_files(subject, (id, last), now).await;
        if matches!(found, Ok(Found::Unknown)) {
            // In vain if the log cannot be read or written to: then the broker is about to end, or its disk is full.
            drop(tokio::time::timeout(INDEX_WAIT, self.index.complete()).await);
            // Both again: what was in neither may have moved from the log to the store meanwhile.
            found = self.look_in_files(subject, (id, last), now).await;
        }
        match found? {
            Found::InLog(bytes) => self.answer(&bytes, now),
            Found::InStore(encoded) => {
                self.metrics.answered(Source::Store);
                Ok(encoded)
            }
            Found::Nowhere => Err(self.expired()),
            Found::Unknown => Err(FetchError::NotIndexed),
        }
    }

    /// The log first, because what leaves it is in the store by then. A log that cannot be read is no reason not to ask the
    /// store.
    async fn look_in_files(
        &self,
        subject: &Subject,
        (id, last): (MessageId, MessageId),
        now: UnixMicros,
    ) -> Result<Found, FetchError> {
        let (in_log, in_store) = match self.read_files(subject, (id, last), now).await {
            Ok(InFiles { in_log, in_store }) => (in_log.map_err(FetchError::from), in_store),
            Err(not_read) => (Err(not_read), None),
        };
        if let Ok(Lookup::Found(bytes)) = in_log {
            return Ok(Found::InLog(bytes));
        }
        let stored = match in_store {
            Some((took, read)) => {
                self.metrics.store_read(took, read.is_ok());
                read?
            }
            None if self.store.keeps_history() => self.read_store(subject, id, now).await?,
            None => None,
        };
        if let Some(stored) = stored {
            return Ok(Found::InStore(response(subject, id, &stored)));
        }
        if let Some(stored) = self.find_letter(subject, id, now).await? {
            return Ok(Found::InStore(response(subject, id, &stored)));
        }
        Ok(if in_log? == Lookup::Absent { Found::Nowhere } else { Found::Unknown })
    }

    /// Looks in the log, and if the message is not there in a store of this process: one trip to a thread that may block, which
    /// costs more than both reads do when their files are in memory.
    async fn read_files(
        &self,
        subject: &Subject,
        (id, last): (MessageId, MessageId),
        now: UnixMicros,
    ) -> Result<InFiles, FetchError> {
        let ended = |error: &dyn std::fmt::Display| FetchError::ReadEnded(error.to_string());
        let permit = tokio::time::timeout(INDEX_WAIT, Arc::clone(&self.file_reads).acquire_owned());
        let permit = permit.await.map_err(|_| ended(&"others take too long"))?.map_err(|closed| ended(&closed))?;
        let (index, store, subject) = (self.index.clone(), Arc::clone(&self.store), subject.clone());
        let read = tokio::task::spawn_blocking(Current::here().on_thread(move || {
            let _permit = permit;
            let in_log = index.message(&subject, id, last);
            let in_store = match &in_log {
                Ok(Lookup::Found(_)) => None,
                _ => {
                    let started = Instant::now();
                    store.fetch_here(&subject, id, now).map(|read| (started.elapsed(), read))
                }
            };
            InFiles { in_log, in_store }
        }));
        read.await.map_err(|panicked| ended(&panicked))
    }

    /// Asks a store across a network.
    async fn read_store(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        let started = Instant::now();
        let read = self.store.fetch(subject, id, now).await;
        self.metrics.store_read(started.elapsed(), read.is_ok());
        read
    }

    /// A message that the store did not take.
    async fn find_letter(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, FetchError> {
        if self.letters.count() == 0 {
            return Ok(None);
        }
        let (letters, subject) = (self.letters.clone(), subject.clone());
        let find = Current::here().on_thread(move || letters.find(&subject, id, now));
        let found = tokio::task::spawn_blocking(find).await;
        Ok(found.map_err(|panicked| FetchError::ReadEnded(panicked.to_string()))??)
    }

    fn answer(&self, bytes: &Bytes, now: UnixMicros) -> Result<EncodedMessage, FetchError> {
        let Logged::Message(record) = record::decode(bytes)? else { return Err(self.expired()) };
        if record.expiration.is_fire_and_forget() || record.expiration.expires_at(record.published_at) <= now {
            return Err(self.expired());
        }
        self.metrics.answered(Source::Log);
        Ok(EncodedMessage::new(&record))
    }

    fn expired(&self) -> FetchError {
        self.metrics.answered(Source::Expired);
        FetchError::Expired
    }
}

pub(super) fn response(subject: &Subject, id: MessageId, stored: &StoredMessage) -> EncodedMessage {
    let StoredMessage { published_at, expiration, body } = stored;
    let (published_at, expiration) = (*published_at, *expiration);
    // The rows of a store have no field for these two.
    let (idempotency_key, traceparent) = (None, None);
    EncodedMessage::new(&Record {
        subject: subject.as_str(),
        id,
        published_at,
        expiration,
        idempotency_key,
        traceparent,
        body,
    })
}
