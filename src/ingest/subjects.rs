//! Every subject with its ids: who was issued what, and what of it is durable.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use parking_lot::RwLock;

use crate::event::limits::{MESSAGE_ID_MAX, SUBJECT_BYTES_MAX};
use crate::event::{Durable, MessageId, Sequence, Subject};

/// Locks are held for one look-up; 64 of them keep Fetch and the committer apart.
const SHARDS: usize = 64;
const SHARD_BITS: u32 = SHARDS.trailing_zeros();

/// Names stand in chunks, so that growth copies nothing. 16 KiB keeps an empty table at 1 MiB.
const CHUNK_BYTES: usize = 16 * 1024;

/// Subjects that a shard can address: a name of 255 bytes in each place keeps every offset below 2^32.
/// In 64 shards that is more than `limits.subjects` can allow.
const SHARD_ADDRESSABLE: usize = (u32::MAX as usize / CHUNK_BYTES - 1) * (CHUNK_BYTES / SUBJECT_BYTES_MAX);

// From this id on a subject is near its last one: 80 %, where operators want to be warned.
const NEAR_LAST_ID: u32 = MESSAGE_ID_MAX / 5 * 4;

/// A subject's place in the table of this process; says nothing in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubjectKey(u32);

/// A subject has used all its ids, or the table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdsExhausted {
    /// 2^31 - 1 messages were published on the subject.
    #[error("the subject has used all {MESSAGE_ID_MAX} ids")]
    Subject,
    /// No further subject gets ids.
    #[error("the broker has reached its {max} subjects (limits.subjects)")]
    Table {
        /// The limit.
        max: usize,
    },
}

/// All subjects that ever had a message, in about 60 bytes each beside their names: a million subjects
/// must cost at most 200 bytes each.
#[derive(Debug)]
pub struct SubjectTable {
    shards: Vec<RwLock<Shard>>,
    hasher: RandomState,
    /// Subjects in all shards. Only the committer adds to it, after recovery did.
    count: AtomicUsize,
    max: usize,
    /// Subjects that have used most of their ids.
    near_last_id: AtomicUsize,
    /// Every record up to here is in the marks.
    marked_through: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    /// Indexes into `entries`, hashed by name.
    index: HashTable<u32>,
    entries: Vec<Entry>,
    chunks: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Chunk number times [`CHUNK_BYTES`] plus the place in the chunk.
    name_at: u32,
    name_len: u8,
    /// Last id given out by the committer.
    issued: u32,
    /// Last id whose message is durable; what others than the committer see.
    durable: u32,
}

impl Entry {
    fn name_in<'a>(&self, chunks: &'a [Vec<u8>]) -> &'a [u8] {
        let at = self.name_at as usize;
        &chunks[at / CHUNK_BYTES][at % CHUNK_BYTES..][..usize::from(self.name_len)]
    }
}

impl Shard {
    fn name(&self, entry: &Entry) -> &[u8] {
        entry.name_in(&self.chunks)
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.index.find(hash, |&at| self.name(&self.entries[at as usize]) == name).copied()
    }

    fn insert(&mut self, hash: u64, name: &[u8], hasher: &RandomState) -> u32 {
        let at = u32::try_from(self.entries.len()).expect("a shard holds fewer than 2^26 subjects");
        let fits = self.chunks.last().is_some_and(|chunk| chunk.len() + name.len() <= CHUNK_BYTES);
        if !fits {
            self.chunks.push(Vec::with_capacity(CHUNK_BYTES));
        }
        let chunk_at = (self.chunks.len() - 1) * CHUNK_BYTES;
        let chunk = self.chunks.last_mut().expect("one was pushed if there was none");
        let entry = Entry {
            name_at: u32::try_from(chunk_at + chunk.len()).expect("names of a shard stay below 4 GiB"),
            name_len: u8::try_from(name.len()).expect("a subject has at most 255 bytes"),
            issued: 0,
            durable: 0,
        };
        chunk.extend_from_slice(name);
        self.entries.push(entry);
        let Self { index, entries, chunks } = self;
        index.insert_unique(hash, at, |&other| {
            let name: &[u8] = entries[other as usize].name_in(chunks);
            hasher.hash_one(name)
        });
        at
    }
}

impl SubjectTable {
    /// An empty table for at most `max` subjects.
    pub fn new(max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::default(),
            count: AtomicUsize::new(0),
            max,
            near_last_id: AtomicUsize::new(0),
            marked_through: AtomicU64::new(0),
        }
    }

    /// Takes the memory for `count` more subjects at once, if the bound allows as many: growing step by step hashes
    /// every name again at each step.
    pub fn reserve(&self, count: usize) {
        // Names spread evenly: with a sixteenth more hardly a shard grows again.
        let share = count.min(self.max) / SHARDS;
        let share = share + share / 16;
        for shard in &self.shards {
            let Shard { index, entries, chunks } = &mut *shard.write();
            entries.reserve(share);
            index.reserve(share, |&other| self.hasher.hash_one(entries[other as usize].name_in(chunks)));
        }
    }

    fn place(&self, subject: &str) -> (u64, usize) {
        let hash = self.hasher.hash_one(subject.as_bytes());
        // The top seven bits are hashbrown's; take the ones below.
        (hash, (hash >> 48) as usize % SHARDS)
    }

    /// A place for a subject that has none. The bound is on all shards together: names fall into other shards
    /// in another process, where a full table must fit as well.
    fn add(&self, shard: &mut Shard, hash: u64, name: &[u8]) -> Result<u32, IdsExhausted> {
        let full = self.count.load(Ordering::Relaxed) >= self.max || shard.entries.len() >= SHARD_ADDRESSABLE;
        if full {
            return Err(IdsExhausted::Table { max: self.max });
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(shard.insert(hash, name, &self.hasher))
    }

    fn find_or_add(&self, shard: &mut Shard, hash: u64, name: &[u8]) -> Result<u32, IdsExhausted> {
        match shard.find(hash, name) {
            Some(at) => Ok(at),
            None => self.add(shard, hash, name),
        }
    }

    /// Makes ids up to this one given out, if they were not.
    fn raise(&self, entry: &mut Entry, id: u32) {
        if entry.issued < NEAR_LAST_ID && id >= NEAR_LAST_ID {
            self.near_last_id.fetch_add(1, Ordering::Relaxed);
        }
        entry.issued = entry.issued.max(id);
    }

    /// Gives out the next id of a subject. For the committer alone: it never takes one back, so whoever
    /// calls this must append the message or let the log fail.
    ///
    /// # Errors
    /// [`IdsExhausted`]; nothing is given out then.
    pub fn issue(&self, subject: &Subject) -> Result<(SubjectKey, MessageId), IdsExhausted> {
        let name = subject.as_str();
        let (hash, shard_at) = self.place(name);
        let mut shard = self.shards[shard_at].write();
        let at = self.find_or_add(&mut shard, hash, name.as_bytes())?;
        let entry = &mut shard.entries[at as usize];
        let id = MessageId::new(entry.issued + 1).ok_or(IdsExhausted::Subject)?;
        entry.issued = id.get();
        if id.get() == NEAR_LAST_ID {
            self.near_last_id.fetch_add(1, Ordering::Relaxed);
        }
        Ok((key(shard_at, at), id))
    }

    /// Takes an id that another node gave to a message of the subject; None if it is known already, with its message. For the
    /// committer alone, as [`Self::issue`].
    ///
    /// # Errors
    /// [`IdsExhausted::Table`]; nothing is taken then.
    pub fn take_over(&self, subject: &Subject, id: MessageId) -> Result<Option<SubjectKey>, IdsExhausted> {
        let name = subject.as_str();
        let (hash, shard_at) = self.place(name);
        let mut shard = self.shards[shard_at].write();
        let at = self.find_or_add(&mut shard, hash, name.as_bytes())?;
        let entry = &mut shard.entries[at as usize];
        if entry.issued >= id.get() {
            return Ok(None);
        }
        self.raise(entry, id.get());
        Ok(Some(key(shard_at, at)))
    }

    /// Whether all of these subjects have a place, or find one for certain. A subject may come several times.
    ///
    /// # Errors
    /// [`IdsExhausted::Table`].
    pub fn has_room_for<'a>(&self, subjects: impl ExactSizeIterator<Item = &'a str>) -> Result<(), IdsExhausted> {
        let left = self.max.saturating_sub(self.count.load(Ordering::Relaxed));
        // Mostly the bound is far away, and nobody has to be looked for.
        if subjects.len() <= left {
            return Ok(());
        }
        let new: HashSet<&str> = subjects.filter(|name| !self.has(name)).collect();
        if new.len() <= left { Ok(()) } else { Err(IdsExhausted::Table { max: self.max }) }
    }

    fn has(&self, subject: &str) -> bool {
        let (hash, shard_at) = self.place(subject);
        self.shards[shard_at].read().find(hash, subject.as_bytes()).is_some()
    }

    /// Makes an id known as durable.
    pub fn mark_durable(&self, subject: SubjectKey, id: MessageId) {
        let (shard, at) = subject.parts();
        let mut shard = self.shards[shard].write();
        let entry = &mut shard.entries[at];
        debug_assert!(entry.durable < id.get() && id.get() <= entry.issued);
        entry.durable = id.get();
    }

    /// States that the marks hold every record up to `durable`.
    pub fn set_marked_through(&self, durable: Durable) {
        self.marked_through.store(durable.sequence().get(), Ordering::Release);
    }

    /// The last record that the marks are known to hold; a little behind the log's durable position.
    pub fn marked_through(&self) -> Durable {
        Durable(Sequence::new(self.marked_through.load(Ordering::Acquire)))
    }

    /// Takes over an id of an earlier process: from the checkpoint or from the log.
    ///
    /// # Errors
    /// [`IdsExhausted::Table`] if the table is set smaller than it was.
    pub fn restore(&self, subject: &str, id: MessageId) -> Result<SubjectKey, IdsExhausted> {
        let (hash, shard_at) = self.place(subject);
        let mut shard = self.shards[shard_at].write();
        let at = self.find_or_add(&mut shard, hash, subject.as_bytes())?;
        let entry = &mut shard.entries[at as usize];
        self.raise(entry, id.get());
        entry.durable = entry.issued;
        Ok(key(shard_at, at))
    }

    /// Passes over the next `count` ids of every subject that `which` chooses by place and name, or those that are left: they may have
    /// been given to messages that are lost. Returns how many subjects that were.
    pub fn pass_over(&self, count: u64, which: impl Fn(SubjectKey, &[u8]) -> bool) -> usize {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut passed = 0;
        for (shard_at, shard) in self.shards.iter().enumerate() {
            let Shard { entries, chunks, .. } = &mut *shard.write();
            for (at, entry) in (0_u32..).zip(entries) {
                if !which(key(shard_at, at), entry.name_in(chunks)) {
                    continue;
                }
                let raised = entry.issued.saturating_add(count).min(MESSAGE_ID_MAX);
                self.raise(entry, raised);
                entry.durable = raised;
                passed += 1;
            }
        }
        passed
    }

    /// A subject's high-water mark: its last durable id. None if nothing durable was ever published on it.
    pub fn high_water_mark(&self, subject: &str) -> Option<(SubjectKey, MessageId)> {
        let (hash, shard_at) = self.place(subject);
        let shard = self.shards[shard_at].read();
        let at = shard.find(hash, subject.as_bytes())?;
        let id = MessageId::new(shard.entries[at as usize].durable)?;
        Some((key(shard_at, at), id))
    }

    /// How many subjects have ids.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().entries.len()).sum()
    }

    /// How many subjects have used 80 % of their ids or more.
    pub fn near_last_id(&self) -> usize {
        self.near_last_id.load(Ordering::Relaxed)
    }

    /// Whether no subject has an id.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands every subject with its durable high-water mark to `visit`, a shard at a time. What becomes
    /// durable meanwhile may or may not be seen.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub fn for_each<E>(&self, mut visit: impl FnMut(&[u8], MessageId) -> Result<(), E>) -> Result<(), E> {
        for shard in &self.shards {
            // A copy of a shard (1/64 of the table) is quick; `visit` writes to a disk and is not.
            let (entries, chunks) = {
                let shard = shard.read();
                (shard.entries.clone(), shard.chunks.clone())
            };
            let copy = Shard { index: HashTable::new(), entries, chunks };
            for entry in &copy.entries {
                if let Some(id) = MessageId::new(entry.durable) {
                    visit(copy.name(entry), id)?;
                }
            }
        }
        Ok(())
    }
}

fn key(shard: usize, at: u32) -> SubjectKey {
    // 64 shards of fewer than 2^26 entries.
    SubjectKey(at << SHARD_BITS | shard as u32)
}

impl SubjectKey {
    fn parts(self) -> (usize, usize) {
        (self.0 as usize % SHARDS, (self.0 >> SHARD_BITS) as usize)
    }

    /// A number to spread keys by.
    pub fn as_u32(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn subject(name: &str) -> Subject {
        Subject::new(name.to_owned()).expect("a valid subject")
    }

    #[test]
    fn ids_are_dense_per_subject_and_durable_ones_are_seen() {
        let table = SubjectTable::new(100);
        let (key, first) = table.issue(&subject("a")).expect("room");
        assert_eq!(first.get(), 1);
        assert_eq!(table.high_water_mark("a"), None, "not durable yet");
        table.mark_durable(key, first);
        assert_eq!(table.high_water_mark("a"), Some((key, first)));
        assert_eq!(table.issue(&subject("a")).expect("room").1.get(), 2);
        assert_eq!(table.issue(&subject("b")).expect("room").1.get(), 1);
        assert_eq!(table.high_water_mark("c"), None);
    }

    #[test]
    fn the_last_id_is_two_to_the_31_minus_one() {
        let table = SubjectTable::new(100);
        let last = MessageId::new(MESSAGE_ID_MAX).expect("the last id");
        table.restore("a", MessageId::new(MESSAGE_ID_MAX - 1).expect("an id")).expect("room");
        assert_eq!(table.issue(&subject("a")).expect("one left").1, last);
        assert_eq!(table.issue(&subject("a")), Err(IdsExhausted::Subject));
        assert_eq!(table.issue(&subject("a")), Err(IdsExhausted::Subject), "stays so");
    }

    #[test]
    fn a_restored_id_never_moves_backwards() {
        let table = SubjectTable::new(100);
        for id in [3, 9, 4] {
            table.restore("a", MessageId::new(id).expect("an id")).expect("room");
        }
        assert_eq!(table.issue(&subject("a")).expect("room").1.get(), 10);
    }

    #[test]
    fn passes_over_ids_that_may_be_lost() {
        let table = SubjectTable::new(100);
        let id = |id| MessageId::new(id).expect("an id");
        let told = table.restore("told", id(3)).expect("room");
        table.restore("silent", id(3)).expect("room");
        table.restore("full", id(MESSAGE_ID_MAX - 1)).expect("room");
        assert_eq!(table.pass_over(5, |subject, _| subject != told), 2);
        assert_eq!(table.issue(&subject("told")).expect("room").1.get(), 4);
        assert_eq!(table.issue(&subject("silent")).expect("room").1.get(), 9);
        assert_eq!(table.issue(&subject("full")), Err(IdsExhausted::Subject));
        table.restore("silent", id(5)).expect("room");
        assert_eq!(table.issue(&subject("silent")).expect("never back").1.get(), 10);
    }

    #[test]
    fn a_full_table_refuses_new_subjects_only() {
        let names: Vec<String> = (0..1_000).map(|n| format!("s{n}")).collect();
        let table = SubjectTable::new(700);
        let taken = names.iter().filter(|name| table.issue(&subject(name)).is_ok()).count();
        assert_eq!(taken, 700, "the bound is exact");
        assert_eq!(table.issue(&subject("s0")).expect("known subjects go on").1.get(), 2);
        // In another process the names fall into other shards, and a full table fits again.
        let restored = SubjectTable::new(700);
        for name in &names[..700] {
            restored.restore(name, MessageId::new(1).expect("an id")).expect("it fitted before");
        }
        assert!(restored.restore("s700", MessageId::new(1).expect("an id")).is_err());
    }

    #[test]
    fn finds_every_one_of_many_and_visits_each_once() {
        let table = SubjectTable::new(1_000_000);
        let names: Vec<String> = (0..50_000).map(|n| format!("{n:x}{}", "x".repeat(n % 250))).collect();
        for name in &names {
            let (key, id) = table.issue(&subject(name)).expect("room");
            table.mark_durable(key, id);
        }
        assert_eq!(table.len(), names.len());
        assert!(names.iter().all(|name| table.high_water_mark(name).is_some()));
        let mut seen: HashMap<Vec<u8>, u32> = HashMap::new();
        table
            .for_each(|name, id| {
                *seen.entry(name.to_vec()).or_default() += id.get();
                Ok::<(), ()>(())
            })
            .expect("nothing fails");
        assert_eq!(seen.len(), names.len());
        assert!(seen.values().all(|&times| times == 1));
    }
}
