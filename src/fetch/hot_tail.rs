//! Recent messages in memory. What falls out of it is in the log.
//!
//! Each subject has its messages in a row: ids follow each other there, so a message is found by its place, and what comes
//! and goes touches the two ends only. One map of all messages cost a tenth of a stream's processor time in cache misses.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use crate::event::{EncodedMessage, MessageId, UnixMicros};
use crate::ingest::SubjectKey;

/// Fetch reads one of these while another is filled.
const SHARDS: usize = 16;

/// What an entry costs beside its encoded bytes, in its row, in the queue, in allocation headers, and in the map if it is the
/// only one of its subject.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// A message for the hot tail.
#[derive(Debug, Clone)]
pub struct HotMessage {
    /// Its subject and id.
    pub key: (SubjectKey, MessageId),
    /// When it expires.
    pub expires_at: UnixMicros,
    /// The response that carries it.
    pub encoded: EncodedMessage,
}

#[derive(Debug, Clone)]
struct Hot {
    id: MessageId,
    expires_at: UnixMicros,
    encoded: EncodedMessage,
}

/// The messages of a subject, by rising ids. Some are left out: those that nobody can fetch.
type Row = VecDeque<Hot>;

/// Whose messages came in which order, with their bytes: what eviction needs.
#[derive(Debug, Default)]
struct Order {
    subjects: VecDeque<(SubjectKey, u32)>,
    bytes: usize,
}

/// The hot tail. Filled in log order, by the releaser or the committer in turn (`ingest::release`), read by all.
#[derive(Debug)]
pub struct HotTail {
    hasher: RandomState,
    shards: Vec<RwLock<HashMap<SubjectKey, Row, RandomState>>>,
    order: Mutex<Order>,
    bytes_max: usize,
}

impl HotTail {
    /// Keeps up to `bytes_max` bytes, and the last batch whatever its size.
    pub fn new(bytes_max: usize) -> Self {
        let hasher = RandomState::default();
        Self {
            shards: (0..SHARDS).map(|_| RwLock::new(HashMap::with_hasher(hasher.clone()))).collect(),
            hasher,
            order: Mutex::default(),
            bytes_max,
        }
    }

    fn shard(&self, subject: SubjectKey) -> &RwLock<HashMap<SubjectKey, Row, RandomState>> {
        &self.shards[(self.hasher.hash_one(subject) >> 40) as usize % SHARDS]
    }

    /// Makes room by evicting the oldest, then adds messages, in log order.
    pub fn insert(&self, messages: impl Iterator<Item = HotMessage>) {
        let mut order = self.order.lock();
        while order.bytes > self.bytes_max
            && let Some((subject, bytes)) = order.subjects.pop_front()
        {
            order.bytes -= bytes as usize;
            // Freed outside of the lock.
            let _evicted = self.evict(subject);
        }
        for HotMessage { key: (subject, id), expires_at, encoded } in messages {
            let bytes = encoded.len() + ENTRY_OVERHEAD_BYTES;
            order.bytes += bytes;
            order.subjects.push_back((subject, u32::try_from(bytes).expect("a body has at most 16 MiB")));
            let mut shard = self.shard(subject).write();
            // Most of a million subjects have one message here.
            let row = shard.entry(subject).or_insert_with(|| Row::with_capacity(1));
            debug_assert!(row.back().is_none_or(|last| last.id < id), "log order is the order of ids");
            row.push_back(Hot { id, expires_at, encoded });
        }
    }

    /// Takes out the oldest message of a subject.
    fn evict(&self, subject: SubjectKey) -> Option<Hot> {
        let mut shard = self.shard(subject).write();
        let row = shard.get_mut(&subject)?;
        let evicted = row.pop_front();
        if row.is_empty() {
            shard.remove(&subject);
        }
        evicted
    }

    /// The message of `key` with its expiry, expired or not, if it is here.
    pub fn get(&self, (subject, id): &(SubjectKey, MessageId)) -> Option<(EncodedMessage, UnixMicros)> {
        let shard = self.shard(*subject).read();
        let hot = find(shard.get(subject)?, *id)?;
        Some((hot.encoded.clone(), hot.expires_at))
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.order.lock().bytes
    }

    /// Bytes kept at most.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

/// The message with this id: where it is if none is left out, else by halving.
fn find(row: &Row, id: MessageId) -> Option<&Hot> {
    let distance = id.get().checked_sub(row.front()?.id.get())?;
    match row.get(distance as usize) {
        Some(hot) if hot.id == id => Some(hot),
        _ => row.binary_search_by_key(&id, |hot| hot.id).ok().and_then(|place| row.get(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::record::Record;
    use crate::event::{Expiration, Subject};
    use crate::ingest::SubjectTable;

    fn messages(ids: std::ops::RangeInclusive<u32>) -> (SubjectKey, Vec<HotMessage>) {
        let (subject, _) =
            SubjectTable::new(10).issue(&Subject::new("s".to_owned()).expect("a subject")).expect("room");
        let messages = ids.map(|id| {
            let record = Record {
                subject: "s",
                id: MessageId::new(id).expect("an id"),
                published_at: UnixMicros::from_micros(1),
                expiration: Expiration::FIRE_AND_FORGET,
                idempotency_key: None,
                traceparent: None,
                body: &[1; 72],
            };
            let expires_at = UnixMicros::from_micros(i64::from(id));
            HotMessage { key: (subject, record.id), expires_at, encoded: EncodedMessage::new(&record) }
        });
        (subject, messages.collect())
    }

    fn held(tail: &HotTail, subject: SubjectKey) -> Vec<u32> {
        (1..=100).filter(|id| tail.get(&(subject, MessageId::new(*id).expect("an id"))).is_some()).collect()
    }

    #[test]
    fn evicts_the_oldest_before_it_takes_more() {
        let (subject, messages) = messages(1..=10);
        let one = messages[0].encoded.len() + ENTRY_OVERHEAD_BYTES;
        let tail = HotTail::new(3 * one);
        let mut messages = messages.into_iter();
        tail.insert(messages.by_ref().take(5));
        assert_eq!(held(&tail, subject), [1, 2, 3, 4, 5], "a batch is never torn apart");
        tail.insert(messages.by_ref().take(1));
        assert_eq!((held(&tail, subject), tail.bytes()), (vec![3, 4, 5, 6], 4 * one));
        tail.insert(messages);
        tail.insert(std::iter::empty());
        assert_eq!((held(&tail, subject), tail.bytes()), (vec![8, 9, 10], 3 * one));
    }

    #[test]
    fn gives_back_what_was_put_in() {
        let (subject, messages) = messages(1..=1);
        let tail = HotTail::new(1_000);
        let encoded = messages[0].encoded.clone();
        tail.insert(messages.into_iter());
        let key = (subject, MessageId::new(1).expect("an id"));
        assert_eq!(tail.get(&key), Some((encoded, UnixMicros::from_micros(1))));
    }

    #[test]
    fn finds_among_ids_that_are_left_out() {
        let (subject, messages) = messages(1..=30);
        let one = messages[0].encoded.len() + ENTRY_OVERHEAD_BYTES;
        let tail = HotTail::new(9 * one);
        let kept = |id: u32| !id.is_multiple_of(3) && id != 10;
        tail.insert(messages.iter().filter(|message| kept(message.key.1.get())).cloned());
        assert_eq!(held(&tail, subject), (1..=30).filter(|id| kept(*id)).collect::<Vec<_>>());
        tail.insert(std::iter::empty());
        assert_eq!(held(&tail, subject), [17, 19, 20, 22, 23, 25, 26, 28, 29]);
    }

    #[test]
    fn a_subject_without_messages_takes_no_room() {
        let (subject, messages) = messages(1..=1);
        let tail = HotTail::new(0);
        tail.insert(messages.into_iter());
        tail.insert(std::iter::empty());
        assert_eq!((held(&tail, subject), tail.bytes()), (vec![], 0));
        assert!(tail.shards.iter().all(|shard| shard.read().is_empty()));
    }
}
