//! Recent messages in memory, and all that the store does not have yet.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use crate::event::{EncodedMessage, MessageId, Projected, Sequence, UnixMicros};
use crate::ingest::SubjectKey;

/// Fetch reads one of these while the releaser fills another.
const SHARDS: usize = 16;

/// What an entry costs beside its encoded bytes, in the map, in the queue and in allocation headers.
const ENTRY_OVERHEAD_BYTES: usize = 128;

type Key = (SubjectKey, MessageId);

/// A message for the hot tail.
#[derive(Debug, Clone)]
pub struct HotMessage {
    /// Its place in the log.
    pub sequence: Sequence,
    /// Its subject and id.
    pub key: (SubjectKey, MessageId),
    /// When it expires.
    pub expires_at: UnixMicros,
    /// The response that carries it.
    pub encoded: EncodedMessage,
    /// Admission bytes to give back once it is projected.
    pub charge: u32,
}

#[derive(Debug, Clone)]
struct Hot {
    expires_at: UnixMicros,
    encoded: EncodedMessage,
}

/// A message in log order: what eviction needs.
#[derive(Debug)]
struct Queued {
    sequence: Sequence,
    key: Key,
    bytes: u32,
    charge: u32,
}

#[derive(Debug, Default)]
struct Order {
    /// In the store already; kept while there is room.
    projected: VecDeque<Queued>,
    /// Not in the store yet; bounded by admission, never evicted.
    unprojected: VecDeque<Queued>,
    bytes: usize,
    /// How far the store is. It may be ahead of what was inserted: `none` takes a position without reading.
    through: Sequence,
}

/// The hot tail. Filled in log order by one task, read by all.
#[derive(Debug)]
pub struct HotTail {
    hasher: RandomState,
    shards: Vec<RwLock<HashMap<Key, Hot, RandomState>>>,
    order: Mutex<Order>,
    bytes_max: usize,
}

impl HotTail {
    /// Keeps up to `bytes_max` bytes; more only while they are not projected.
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

    /// Adds messages, in log order, and returns the admission bytes of those that are projected already.
    #[must_use = "admission bytes that are not given back are lost"]
    pub fn insert(&self, messages: impl Iterator<Item = HotMessage>) -> usize {
        let mut order = self.order.lock();
        let mut charge = 0;
        for message in messages {
            let bytes = message.encoded.len() + ENTRY_OVERHEAD_BYTES;
            order.bytes += bytes;
            let queued = Queued {
                sequence: message.sequence,
                key: message.key,
                bytes: u32::try_from(bytes).expect("a body has at most 16 MiB"),
                charge: message.charge,
            };
            if message.sequence <= order.through {
                charge += message.charge as usize;
                order.projected.push_back(queued);
            } else {
                order.unprojected.push_back(queued);
            }
            let hot = Hot { expires_at: message.expires_at, encoded: message.encoded };
            self.shard(&message.key).write().insert(message.key, hot);
        }
        self.evict(&mut order);
        charge
    }

    /// Makes everything up to `projected` evictable, and returns the admission bytes that are free by it.
    pub fn projected(&self, projected: Projected) -> usize {
        let mut order = self.order.lock();
        order.through = order.through.max(projected.sequence());
        let mut charge = 0;
        while let Some(first) = order.unprojected.pop_front_if(|first| first.sequence <= projected.sequence()) {
            charge += first.charge as usize;
            order.projected.push_back(first);
        }
        self.evict(&mut order);
        charge
    }

    fn evict(&self, order: &mut Order) {
        while order.bytes > self.bytes_max
            && let Some(oldest) = order.projected.pop_front()
        {
            order.bytes -= oldest.bytes as usize;
            self.shard(&oldest.key).write().remove(&oldest.key);
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

    /// Messages that are not projected yet and stay for that.
    pub fn unprojected(&self) -> usize {
        self.order.lock().unprojected.len()
    }

    /// Bytes kept at most once they are projected.
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

    fn messages(sequences: std::ops::RangeInclusive<u64>) -> (SubjectKey, Vec<HotMessage>) {
        let (subject, _) =
            SubjectTable::new(10).issue(&Subject::new("s".to_owned()).expect("a subject")).expect("room");
        let messages = sequences.map(|sequence| {
            let id = MessageId::new(sequence as u32).expect("an id");
            let record = Record {
                subject: "s",
                id,
                published_at: UnixMicros::from_micros(1),
                expiration: Expiration::FIRE_AND_FORGET,
                body: &[1; 72],
            };
            HotMessage {
                sequence: Sequence::new(sequence),
                key: (subject, id),
                expires_at: UnixMicros::from_micros(sequence as i64),
                encoded: EncodedMessage::new(&record),
                charge: 10,
            }
        });
        (subject, messages.collect())
    }

    fn held(tail: &HotTail, subject: SubjectKey) -> Vec<u32> {
        (1..=100).filter(|id| tail.get(&(subject, MessageId::new(*id).expect("an id"))).is_some()).collect()
    }

    #[test]
    fn keeps_what_is_not_projected_beyond_its_bound_and_evicts_the_oldest_projected() {
        let (subject, messages) = messages(1..=10);
        let one = messages[0].encoded.len() + ENTRY_OVERHEAD_BYTES;
        let tail = HotTail::new(3 * one);
        assert_eq!(tail.insert(messages.into_iter()), 0);
        assert_eq!(held(&tail, subject), (1..=10).collect::<Vec<_>>());
        assert_eq!(tail.projected(Projected(Sequence::new(4))), 40);
        assert_eq!(held(&tail, subject), (5..=10).collect::<Vec<_>>(), "no more than the projected ones");
        assert_eq!(tail.projected(Projected(Sequence::new(10))), 60);
        assert_eq!(held(&tail, subject), [8, 9, 10]);
        assert_eq!((tail.bytes(), tail.unprojected()), (3 * one, 0));
        assert_eq!(tail.projected(Projected(Sequence::new(10))), 0, "given back once");
    }

    #[test]
    fn what_is_projected_before_it_is_inserted_gives_its_room_back_at_once() {
        let (subject, messages) = messages(1..=3);
        let tail = HotTail::new(1_000_000);
        assert_eq!(tail.projected(Projected(Sequence::new(2))), 0);
        assert_eq!(tail.insert(messages.into_iter()), 20);
        assert_eq!((held(&tail, subject), tail.unprojected()), (vec![1, 2, 3], 1));
        assert_eq!(tail.projected(Projected(Sequence::new(3))), 10);
    }

    #[test]
    fn gives_back_what_was_put_in() {
        let (subject, messages) = messages(1..=1);
        let tail = HotTail::new(1_000);
        let encoded = messages[0].encoded.clone();
        assert_eq!(tail.insert(messages.into_iter()), 0);
        let key = (subject, MessageId::new(1).expect("an id"));
        assert_eq!(tail.get(&key), Some((encoded, UnixMicros::from_micros(1))));
    }
}
