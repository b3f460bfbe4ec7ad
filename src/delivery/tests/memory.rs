//! A history in memory.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::delivery::{Ask, Chunk, FromLog, History, HistoryError};
use crate::event::{EncodedMessage, MessageId, Subject};

#[derive(Debug, Default)]
struct Messages {
    last: u32,
    log: BTreeMap<u32, EncodedMessage>,
    store: BTreeMap<u32, EncodedMessage>,
}

/// Messages of some subjects, in the order in which they became durable.
#[derive(Debug, Default)]
pub struct Memory {
    subjects: Mutex<HashMap<String, Messages>>,
    failure: Mutex<Option<HistoryError>>,
    /// Messages of a chunk at most, where not 0.
    pub chunk_max: Mutex<usize>,
}

impl Memory {
    pub fn append(&self, subject: &str, id: MessageId, message: EncodedMessage) {
        let mut subjects = self.subjects.lock();
        let messages = subjects.entry(subject.to_owned()).or_default();
        messages.last = id.get();
        messages.log.insert(id.get(), message);
    }

    /// Moves what the log has up to `through` into the store, or loses it: what `keeps` says.
    pub fn trim(&self, subject: &str, through: u32, keeps: impl Fn(u32) -> bool) {
        let mut subjects = self.subjects.lock();
        let messages = subjects.entry(subject.to_owned()).or_default();
        let newer = messages.log.split_off(&(through + 1));
        let older = std::mem::replace(&mut messages.log, newer);
        messages.store.extend(older.into_iter().filter(|(id, _)| keeps(*id)));
    }

    /// Loses everything up to `through`.
    pub fn forget(&self, subject: &str, through: u32) {
        self.trim(subject, through, |_| false);
        let mut subjects = self.subjects.lock();
        let messages = subjects.entry(subject.to_owned()).or_default();
        messages.store = messages.store.split_off(&(through + 1));
    }

    pub fn has(&self, subject: &str, id: u32) -> bool {
        let subjects = self.subjects.lock();
        subjects.get(subject).is_some_and(|messages| messages.log.contains_key(&id) || messages.store.contains_key(&id))
    }

    pub fn fail(&self, failure: Option<HistoryError>) {
        *self.failure.lock() = failure;
    }

    fn read<T>(&self, ask: &Ask, read: impl FnOnce(&Messages, usize) -> T) -> Result<T, HistoryError> {
        if let Some(failure) = &*self.failure.lock() {
            return Err(failure.clone());
        }
        assert!(ask.after < ask.through, "{ask:?}");
        let count = match *self.chunk_max.lock() {
            0 => ask.messages_max,
            max => max.min(ask.messages_max),
        };
        let subjects = self.subjects.lock();
        Ok(read(subjects.get(ask.subject.as_str()).expect("something was published"), count))
    }
}

/// Up to `count` of these between two ids, and up to where nothing else is.
fn chunk(messages: &BTreeMap<u32, EncodedMessage>, (after, through): (u32, u32), count: usize) -> Chunk {
    let found = messages.range(after + 1..=through).take(count + 1);
    let mut found: Vec<_> = found.map(|(id, message)| (MessageId::new(*id).expect("an id"), message.clone())).collect();
    let more = found.len() > count;
    found.truncate(count);
    let through = if more { found.last().map_or(through, |(id, _)| id.get()) } else { through };
    Chunk { messages: found, through }
}

#[async_trait]
impl History for Memory {
    fn last_id(&self, subject: &Subject) -> u32 {
        self.subjects.lock().get(subject.as_str()).map_or(0, |messages| messages.last)
    }

    async fn read_log(&self, ask: &Ask) -> Result<FromLog, HistoryError> {
        self.read(ask, |messages, count| {
            let first = messages.log.range(ask.after + 1..=ask.through).next();
            match first.map_or(ask.through + 1, |(id, _)| *id) {
                first if first > ask.after + 1 => FromLog::NothingBefore(first),
                _ => FromLog::Chunk(chunk(&messages.log, (ask.after, ask.through), count)),
            }
        })
    }

    async fn read_store(&self, ask: &Ask, before: u32) -> Result<Chunk, HistoryError> {
        let through = ask.through.min(before - 1);
        self.read(ask, |messages, count| chunk(&messages.store, (ask.after, through), count))
    }
}
