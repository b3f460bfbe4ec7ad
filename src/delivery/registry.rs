//! Which subjects have subscribers.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use tokio_util::sync::CancellationToken;

use super::Config;
use super::ring::{Place, Ring, Unread};
use crate::event::Subject;

/// The fan-out looks a subject up for each message; subscribing locks one of these.
const SHARDS: usize = 64;

/// Why a subscription is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// No further subscription fits.
    #[error("the broker has {max} subscribers (limits.subscribers)")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// What is to be resumed after was never published.
    #[error("after_id is {after}; it must be at most {last}, the last id of the subject")]
    BeyondLast {
        /// What was asked for.
        after: u32,
        /// The last id of the subject, 0 if it has none.
        last: u32,
    },
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    ShuttingDown,
}

/// A subject that has subscribers.
#[derive(Debug)]
pub(super) struct Topic {
    pub subject: Arc<Subject>,
    ring: Mutex<Ring>,
    /// Another node has the subject now.
    moved: AtomicBool,
}

impl Topic {
    /// Whether another node has the subject now: nothing more comes.
    pub fn has_moved(&self) -> bool {
        self.moved.load(Ordering::SeqCst)
    }
}

type Topics = HashMap<Box<str>, Arc<Topic>, RandomState>;

#[derive(Debug)]
pub(super) struct Registry {
    config: Config,
    hasher: RandomState,
    shards: Vec<RwLock<Topics>>,
    topics: AtomicUsize,
    subscribers: AtomicUsize,
    /// Unread bytes of all rings.
    bytes: AtomicUsize,
    closed: AtomicBool,
    /// Ends the reading of history.
    closing: CancellationToken,
}

impl Registry {
    pub fn new(config: Config) -> Self {
        let hasher = RandomState::default();
        Self {
            config,
            shards: (0..SHARDS).map(|_| RwLock::new(HashMap::with_hasher(hasher.clone()))).collect(),
            hasher,
            topics: AtomicUsize::new(0),
            subscribers: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            closing: CancellationToken::new(),
        }
    }

    fn shard(&self, subject: &str) -> &RwLock<Topics> {
        // The low bits choose the place within a map.
        &self.shards[(self.hasher.hash_one(subject) >> 40) as usize % SHARDS]
    }

    /// Registers a subscriber. From here on everything that the fan-out brings reaches it.
    pub fn join(&self, subject: &Subject) -> Result<(Arc<Topic>, Place), SubscribeError> {
        if self.is_closed() {
            return Err(SubscribeError::ShuttingDown);
        }
        if self.subscribers.fetch_add(1, Ordering::SeqCst) >= self.config.subscribers_max {
            self.subscribers.fetch_sub(1, Ordering::SeqCst);
            return Err(SubscribeError::TooMany { max: self.config.subscribers_max });
        }
        let name = subject.as_str();
        let mut shard = self.shard(name).write();
        let topic = shard.entry(name.into()).or_insert_with(|| {
            self.topics.fetch_add(1, Ordering::SeqCst);
            Arc::new(Topic {
                subject: Arc::new(subject.clone()),
                ring: Mutex::default(),
                moved: AtomicBool::new(false),
            })
        });
        // Joined under the lock of the shard, so that a topic with a subscriber is never removed.
        let place = topic.ring.lock().join();
        Ok((Arc::clone(topic), place))
    }

    /// Forgets a subscriber, and its subject with the last one.
    pub fn leave(&self, topic: &Arc<Topic>, place: Place) {
        let last = self.with_ring(topic, |ring| {
            ring.leave(place);
            ring.subscribers() == 0
        });
        self.subscribers.fetch_sub(1, Ordering::SeqCst);
        if last {
            let name = topic.subject.as_str();
            let mut shard = self.shard(name).write();
            let ours = shard.get(name).is_some_and(|found| Arc::ptr_eq(found, topic));
            if ours && topic.ring.lock().subscribers() == 0 {
                shard.remove(name);
                self.topics.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    pub fn topic(&self, subject: &str) -> Option<Arc<Topic>> {
        self.shard(subject).read().get(subject).cloned()
    }

    /// Adds messages of one subject to its ring and wakes who waits for them.
    pub fn push(&self, topic: &Topic, unread: impl Iterator<Item = Unread>) {
        let mut wakers = Vec::new();
        self.with_ring(topic, |ring| ring.push(unread, self.config.subscriber_bytes_max, &mut wakers));
        // Outside the lock: whoever wakes up wants it.
        wakers.into_iter().for_each(Waker::wake);
        if self.bytes() > self.config.delivery_bytes_max {
            self.relieve();
        }
    }

    /// Works on a ring and keeps the count of unread bytes.
    pub fn with_ring<T>(&self, topic: &Topic, work: impl FnOnce(&mut Ring) -> T) -> T {
        let mut ring = topic.ring.lock();
        let before = ring.bytes();
        let result = work(&mut ring);
        let after = ring.bytes();
        // Before others can give back what is added here.
        match after.checked_sub(before) {
            Some(more) => self.bytes.fetch_add(more, Ordering::Relaxed),
            None => self.bytes.fetch_sub(before - after, Ordering::Relaxed),
        };
        result
    }

    /// Evicts the subjects that hold most: at least the mean of all. Their slow subscribers fall back to the log, those
    /// of the others do not. Rare, so it may look at every subject.
    fn relieve(&self) {
        self.for_each_ring(Ring::drop_read);
        if self.bytes() <= self.config.delivery_bytes_max {
            return;
        }
        let mean = self.bytes() / self.topics().max(1);
        self.for_each_ring(|ring| {
            if ring.bytes() >= mean {
                ring.evict_all();
            }
        });
    }

    fn for_each_ring(&self, work: impl Fn(&mut Ring)) {
        for shard in &self.shards {
            let topics: Vec<Arc<Topic>> = shard.read().values().cloned().collect();
            for topic in topics {
                self.with_ring(&topic, &work);
            }
        }
    }

    /// The most that a subscriber has not taken of its subject, whose last id `last_id` gives.
    pub fn lag_messages(&self, last_id: impl Fn(&Subject) -> u32) -> u32 {
        let mut most = 0;
        for shard in &self.shards {
            let topics: Vec<Arc<Topic>> = shard.read().values().cloned().collect();
            for topic in topics {
                // The lock is free again before the next look-up.
                let settled = topic.ring.lock().settled_by_all();
                most = most.max(last_id(&topic.subject).saturating_sub(settled));
            }
        }
        most
    }

    /// Ends every stream; nobody joins any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let mut wakers = Vec::new();
        for shard in &self.shards {
            for topic in shard.read().values() {
                topic.ring.lock().wake_all(&mut wakers);
            }
        }
        self.closing.cancel();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the streams of subjects that another node has now, once they have read what is in their rings. Who joins such a subject later
    /// is not concerned.
    pub fn end_moved(&self, moved: &dyn Fn(&str) -> bool) {
        let mut wakers = Vec::new();
        for shard in &self.shards {
            shard.write().retain(|name, topic| {
                let moved = moved(name);
                if moved {
                    topic.moved.store(true, Ordering::SeqCst);
                    topic.ring.lock().wake_all(&mut wakers);
                    self.topics.fetch_sub(1, Ordering::SeqCst);
                }
                !moved
            });
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Cancelled by the close.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub fn topics(&self) -> usize {
        self.topics.load(Ordering::SeqCst)
    }

    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}
