//! The keys that are known.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use super::WindowConfig;
use super::fingerprint::Fingerprint;
use super::ring::{Entry, Ring, Snapshot};
use crate::event::record::{KeyEntry, Record};
use crate::event::{MessageId, Sequence, UnixMicros};

/// Expired keys that each new one drops: more than come in, so that none stay, and few, so that no frame waits until a
/// window is dropped that has expired as a whole.
const DROPPED_AT_ONCE: usize = 2;

/// What a look-up finds: the first publish with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Where its message is in the log.
    pub sequence: Sequence,
    /// The id of its message.
    pub id: MessageId,
    /// Whether the body is the same.
    pub same_body: bool,
}

/// Keys of another node that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{new} idempotency keys were handed over, for which known ones would be forgotten too early: the limit is {max} (limits.idempotency_keys); raise it, or wait until fewer are known"
)]
pub struct KeysFull {
    /// Those that are not known yet.
    pub new: usize,
    /// The limit.
    pub max: usize,
}

/// The window: entries in the order of the log, and a table of them by key. A key costs 56 bytes and 5 to 11 in the table.
#[derive(Debug)]
pub struct Window {
    config: WindowConfig,
    hasher: RandomState,
    /// The newest entry of each key. It gets its whole size with the first key, so that no publish waits for it to grow.
    table: HashTable<u32>,
    ring: Ring,
    forgotten_early: u64,
}

impl Window {
    /// No keys yet.
    pub fn new(config: WindowConfig) -> Self {
        Self {
            config,
            hasher: RandomState::default(),
            table: HashTable::new(),
            ring: Ring::default(),
            forgotten_early: 0,
        }
    }

    /// How many keys are held, also those that have expired and were not dropped yet.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first publish with the key of this one, if it is known at `now`.
    pub fn look_up(&self, print: &Fingerprint, now: UnixMicros) -> Option<Known> {
        let is_it = |number: &u32| self.ring.get(*number).print.name == print.name;
        let entry = self.ring.get(*self.table.find(self.hasher.hash_one(print.name), is_it)?);
        let known = Known { sequence: entry.sequence, id: entry.id, same_body: entry.print.body == print.body };
        (!self.is_expired(entry.at, now)).then_some(known)
    }

    /// Keeps a key; entries must come in the order of the log, those of a record of keys all with its sequence. If the key
    /// is known already, the later entry counts. `now` is the record's own time, or later in a restart.
    pub fn remember(&mut self, entry: Entry, now: UnixMicros) {
        debug_assert!(self.ring.newest().is_none_or(|newest| newest.sequence <= entry.sequence));
        self.drop_expired(now, DROPPED_AT_ONCE);
        while self.len() >= self.config.keys_max {
            let oldest = self.ring.oldest().map(|oldest| oldest.at);
            self.forgotten_early += u64::from(oldest.is_some_and(|at| !self.is_expired(at, now)));
            self.forget_oldest();
        }
        let number = self.ring.push(entry);
        self.put(&entry.print, number);
    }

    /// Keeps the key of a record of the log, if it has one and that has not expired at `now`. Records must come in order.
    pub fn replay(&mut self, sequence: Sequence, record: &Record<'_>, now: UnixMicros) {
        if record.idempotency_key.is_none() || self.is_expired(record.published_at, now) {
            return;
        }
        if let Some(print) = Fingerprint::of(record) {
            self.remember(Entry { print, sequence, at: record.published_at, id: record.id }, now);
        }
    }

    /// Keeps keys that were taken over from another node, all of the record `sequence`, as far as they have not expired at
    /// `now` and are not known already. As [`Self::replay`] it must come in the order of the log.
    pub fn replay_taken_over(&mut self, sequence: Sequence, keys: impl IntoIterator<Item = KeyEntry>, now: UnixMicros) {
        for key in keys {
            if self.knows(&key, now) {
                continue;
            }
            let KeyEntry { name, body, published_at, id } = key;
            self.remember_live(Entry { print: Fingerprint { name, body }, sequence, at: published_at, id }, now);
        }
    }

    /// Whether keys that another node hands over fit without any known one being forgotten for them before it expires. Makes room by
    /// what has expired, no more than is needed.
    ///
    /// # Errors
    /// [`KeysFull`].
    pub fn has_room_for(&mut self, keys: &[KeyEntry], now: UnixMicros) -> Result<(), KeysFull> {
        let is_new = |key: &&KeyEntry| !self.is_expired(key.published_at, now) && !self.knows(key, now);
        let (new, max) = (keys.iter().filter(is_new).count(), self.config.keys_max);
        self.drop_expired(now, (self.len() + new).saturating_sub(max));
        if self.len() + new <= max { Ok(()) } else { Err(KeysFull { new, max }) }
    }

    /// Whether this very key is known at `now`, with its message.
    fn knows(&self, KeyEntry { name, body, id, .. }: &KeyEntry, now: UnixMicros) -> bool {
        let known = self.look_up(&Fingerprint { name: *name, body: *body }, now);
        known.is_some_and(|known| known.same_body && known.id == *id)
    }

    /// Keeps a key of an earlier time, as [`Self::remember`], unless it has expired at `now`.
    pub fn remember_live(&mut self, entry: Entry, now: UnixMicros) {
        if !self.is_expired(entry.at, now) {
            self.remember(entry, now);
        }
    }

    /// Drops expired keys from the oldest on, no more than `at_most`. One whose time is still to come holds up those behind
    /// it; they are not known either way, and the bound on their number stands.
    pub fn drop_expired(&mut self, now: UnixMicros, at_most: usize) {
        for _ in 0..at_most {
            if !self.ring.oldest().is_some_and(|oldest| self.is_expired(oldest.at, now)) {
                return;
            }
            self.forget_oldest();
        }
    }

    /// How many keys were forgotten for want of room before they expired, since the last time this was asked.
    pub fn take_forgotten_early(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten_early)
    }

    /// What is held now.
    pub fn snapshot(&self) -> Snapshot {
        self.ring.snapshot()
    }

    /// Whether the key of a record that was published `at` is no longer known at `now`.
    /// A time that is still to come, because the clock went back, is not past: the key is known until the clock has caught
    /// up and the window has passed.
    pub fn is_expired(&self, at: UnixMicros, now: UnixMicros) -> bool {
        at.elapsed_at(now) >= self.config.keep_for
    }

    /// Makes `number` the entry of this key.
    fn put(&mut self, print: &Fingerprint, number: u32) {
        let Self { table, ring, hasher, config, .. } = self;
        if table.capacity() == 0 {
            table.reserve(config.keys_max, |_| 0);
        }
        let is_it = |known: &u32| ring.get(*known).print.name == print.name;
        let hash = |known: &u32| hasher.hash_one(ring.get(*known).print.name);
        match table.entry(hasher.hash_one(print.name), is_it, hash) {
            Place::Occupied(mut known) => *known.get_mut() = number,
            Place::Vacant(free) => drop(free.insert(number)),
        }
    }

    fn forget_oldest(&mut self) {
        let Some((number, entry)) = self.ring.pop() else { return };
        // It is not there if a later entry has the key.
        if let Ok(known) = self.table.find_entry(self.hasher.hash_one(entry.print.name), |known| *known == number) {
            known.remove();
        }
    }
}
