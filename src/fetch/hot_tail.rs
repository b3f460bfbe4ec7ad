//! Recent messages in memory. What falls out of it is in the log.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use crate::event::{EncodedMessage, MessageId, UnixMicros};
use crate::ingest::SubjectKey;

/// Fetch reads one of these while another is filled.
const SHARDS: usize = 16;

/// What an entry costs beside its encoded bytes, in the map, in the queue and in allocation headers.
const ENTRY_OVERHEAD_BYTES: usize = 128;

type Key = (SubjectKey, MessageId);

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
    expires_at: UnixMicros,
    encoded: EncodedMessage,
}

/// The keys in the order in which they came: what eviction needs.
#[derive(Debug, Default)]
struct Order {
    keys: VecDeque<(Key, u32)>,
    bytes: usize,
}

/// The hot tail. Filled in log order, by the releaser or the committer in turn (`ingest::release`), read by all.
#[derive(Debug)]
pub struct HotTail {
    hasher: RandomState,
    shards: Vec<RwLock<HashMap<Key, Hot, RandomState>>>,
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

    fn shard(&self, key: &Key) -> &RwLock<HashMap<Key, Hot, RandomState>> {
        &self.shards[(self.hasher.hash_one(key) >> 40) as usize % SHARDS]
    }

    /// Makes room by evicting the oldest, then adds messages, in log order.
    pub fn insert(&self, messages: impl Iterator<Item = HotMessage>) {
        let mut order = self.order.lock();
        while order.bytes > self.bytes_max
            && let Some((key, bytes)) = order.keys.pop_front()
        {
            order.bytes -= bytes as usize;
            self.shard(&key).write().remove(&key);
        }
        for HotMessage { key, expires_at, encoded } in messages {
            let bytes = encoded.len() + ENTRY_OVERHEAD_BYTES;
            order.bytes += bytes;
            order.keys.push_back((key, u32::try_from(bytes).expect("a body has at most 16 MiB")));
            self.shard(&key).write().insert(key, Hot { expires_at, encoded });
        }
    }

    /// The message of `key` with its expiry, expired or not, if it is here.
    pub fn get(&self, key: &(SubjectKey, MessageId)) -> Option<(EncodedMessage, UnixMicros)> {
        self.shard(key).read().get(key).map(|hot| (hot.encoded.clone(), hot.expires_at))
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
}
