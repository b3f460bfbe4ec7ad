//! The history of a subject, one message after the other: the log by its index, then the store and what it did not take.
//!
//! The log holds the newest messages of every subject without a hole, and what it no longer holds the store has: nothing
//! is trimmed before it is projected. So a message that the log does not have when it is asked is older than everything the
//! log has, and is in the store or nowhere. There is one hole: what another node logged while it had the subject, and had in
//! the store when it gave it back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::outage::Outage;
use super::service::response;
use crate::delivery::{Ask, Chunk, FromLog, History, HistoryError};
use crate::event::record::Record;
use crate::event::{EncodedMessage, MessageId, Subject, UnixMicros, clock};
use crate::index::{Amount, Index, RunRead};
use crate::ingest::SubjectTable;
use crate::projector::{DeadLetters, Store, StoreError, StoredMessage};
use crate::telemetry::traces::Current;

/// How long readers wait for the index of the log: after a crash one or two segments are indexed, 0.2 s each. When all
/// files of the index are lost, clients are told to come back.
const INDEX_WAIT: Duration = Duration::from_secs(30);

/// Before the next look, so that an index which says that it is complete and does not answer is not asked in a loop.
const INDEX_PAUSE: Duration = Duration::from_millis(10);

/// How long readers wait for a store that is away: a database starts again or fails over meanwhile.
const STORE_WAIT: Duration = Duration::from_secs(30);
/// Between two questions to a store that is away.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Reads history; a clone is the same.
#[derive(Debug, Clone)]
pub struct SubjectHistory {
    subjects: Arc<SubjectTable>,
    index: Index,
    store: Arc<dyn Store>,
    letters: DeadLetters,
    not_indexed: Arc<Outage>,
    store_away: Arc<Outage>,
}

/// What the log answered.
enum Answer {
    Read(FromLog),
    NotIndexed,
}

impl SubjectHistory {
    /// Reads the log, then the store, then what the store did not take.
    pub fn new(subjects: Arc<SubjectTable>, index: Index, store: Arc<dyn Store>, letters: DeadLetters) -> Self {
        let (not_indexed, store_away) = (Arc::new(Outage::new(INDEX_WAIT)), Arc::new(Outage::new(STORE_WAIT)));
        Self { subjects, index, store, letters, not_indexed, store_away }
    }

    /// One read of the log, on a thread that may block.
    async fn look(&self, ask: &Ask) -> Result<Answer, HistoryError> {
        let (index, ask) = (self.index.clone(), ask.clone());
        let read = tokio::task::spawn_blocking(Current::here().on_thread(move || look(&index, &ask))).await;
        read.map_err(|panicked| HistoryError::Log(panicked.to_string()))?
    }

    /// What the store has of the ids above [`Ask::after`], in order; asked again while it is away.
    async fn ask_store(&self, ask: &Ask) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        loop {
            let (subject, after) = (&*ask.subject, ask.after);
            let error = match self.store.after(subject, after, ask.messages_max, ask.bytes_max, clock::now()).await {
                Ok(stored) => {
                    self.store_away.is_over();
                    return Ok(stored);
                }
                Err(error) => error,
            };
            if !error.retryable() || self.store_away.left().is_none() {
                return Err(error);
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }

    /// The messages above `after` and up to `through` that the store did not take.
    async fn letters(
        &self,
        subject: &Arc<Subject>,
        after: u32,
        through: u32,
    ) -> Result<Vec<(MessageId, StoredMessage)>, HistoryError> {
        let ids = self.letters.ids_of(subject, after, through);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (letters, subject, now) = (self.letters.clone(), Arc::clone(subject), clock::now());
        let found = tokio::task::spawn_blocking(Current::here().on_thread(move || {
            let find = |id| letters.find(&subject, id, now).map(|found| found.map(|message| (id, message)));
            ids.into_iter().filter_map(|id| find(id).transpose()).collect::<Result<Vec<_>, _>>()
        }));
        let found = found.await.map_err(|panicked| HistoryError::Log(panicked.to_string()))?;
        found.map_err(|error| HistoryError::Log(error.to_string()))
    }
}

#[async_trait]
impl History for SubjectHistory {
    fn last_id(&self, subject: &Subject) -> u32 {
        self.subjects.high_water_mark(subject.as_str()).map_or(0, |(_, id)| id.get())
    }

    async fn read_log(&self, ask: &Ask) -> Result<FromLog, HistoryError> {
        loop {
            match self.look(ask).await? {
                Answer::Read(read) => {
                    self.not_indexed.is_over();
                    return Ok(read);
                }
                Answer::NotIndexed => {
                    let left = self.not_indexed.left().ok_or(HistoryError::NotIndexed)?;
                    // Whether it is complete by then or not: the next look tells.
                    drop(tokio::time::timeout(left, self.index.complete()).await);
                    tokio::time::sleep(INDEX_PAUSE).await;
                }
            }
        }
    }

    async fn read_store(&self, ask: &Ask, before: u32) -> Result<Chunk, HistoryError> {
        let last = ask.through.min(before - 1);
        let mut stored = match self.store.keeps_history() {
            true => self.ask_store(ask).await.map_err(|error| HistoryError::Store(error.to_string()))?,
            false => Vec::new(),
        };
        // The store may have what the log has, too. Only a row beyond, or no row at all, says that nothing is left before.
        let all = stored.last().is_none_or(|(id, _)| id.get() > last);
        stored.retain(|(id, _)| id.get() <= last);
        let through = if all { last } else { stored.last().map_or(last, |(id, _)| id.get()) };
        stored.extend(self.letters(&ask.subject, ask.after, through).await?);
        stored.sort_unstable_by_key(|(id, _)| *id);
        // A letter that somebody has just written into the store is in both.
        stored.dedup_by_key(|(id, _)| *id);
        let messages = stored.iter().map(|(id, message)| (*id, response(&ask.subject, *id, message))).collect();
        Ok(Chunk { messages, through })
    }
}

fn look(index: &Index, ask: &Ask) -> Result<Answer, HistoryError> {
    let now = clock::now();
    let mut chunk = Chunk::default();
    let mut run = Run::default();
    let amount = Amount { messages: ask.messages_max, bytes: ask.bytes_max };
    let read = index.read_after(&ask.subject, (ask.after, ask.through), amount, |record| {
        run.goes_on(record.id.get());
        if ask.expired_too || !is_expired(record, now) {
            chunk.messages.push((record.id, EncodedMessage::new(record)));
        }
    });
    match read.map_err(|error| HistoryError::Log(error.to_string()))? {
        RunRead::Unknown => return Ok(Answer::NotIndexed),
        RunRead::Messages(0) => return Ok(Answer::Read(FromLog::NothingBefore(ask.through.saturating_add(1)))),
        RunRead::Messages(_) => {}
    }
    if let Some(missing) = run.missing
        && index.taken_over_records() > 0
    {
        // Another node had the subject meanwhile: the store may have what this log has not.
        chunk.messages.retain(|(id, _)| id.get() < missing);
        run.last = missing - 1;
    } else if let Some(missing) = run.missing
        && index.lost_records() == 0
    {
        let subject = ask.subject.as_str();
        tracing::error!(id = missing, "the log has messages before and after this one, and not this one");
        tracing::debug!(subject, id = missing, "the subject of the message that the log does not have");
        return Err(HistoryError::Log(format!("message {missing} is missing in the middle of the log")));
    }
    if run.first > ask.after + 1 {
        return Ok(Answer::Read(FromLog::NothingBefore(run.first)));
    }
    chunk.through = run.last;
    Ok(Answer::Read(FromLog::Chunk(chunk)))
}

/// The ids that the log has, which are dense unless records were lost, or another node had the subject meanwhile.
#[derive(Debug, Default)]
struct Run {
    first: u32,
    last: u32,
    missing: Option<u32>,
}

impl Run {
    fn goes_on(&mut self, id: u32) {
        if self.first == 0 {
            self.first = id;
        } else if id != self.last + 1 {
            self.missing = self.missing.or(Some(self.last + 1));
        }
        self.last = id;
    }
}

/// What is fire and forget does not expire: it is there while the log has it.
fn is_expired(record: &Record<'_>, now: UnixMicros) -> bool {
    let Record { expiration, published_at, .. } = *record;
    !expiration.is_fire_and_forget() && expiration.expires_at(published_at) <= now
}

#[cfg(test)]
mod tests;
