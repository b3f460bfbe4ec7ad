//! The entries of the window, oldest first, in chunks that can be shared.

use std::collections::VecDeque;
use std::sync::Arc;

use super::fingerprint::Fingerprint;
use crate::event::{MessageId, Sequence, UnixMicros};

/// Entries in a chunk, 224 KiB. A snapshot shares the full chunks and copies the last one, in some 20 microseconds.
const CHUNK: usize = 4_096;

/// A key that is known: 56 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its key and body.
    pub print: Fingerprint,
    /// Where its message is in the log, or the record of keys with which it was taken over.
    pub sequence: Sequence,
    /// When it was published; not always later than the entry before it, because clocks go back.
    pub at: UnixMicros,
    /// The id of its message.
    pub id: MessageId,
}

/// Entries with numbers: dense, from 0, never used again.
#[derive(Debug, Default)]
pub struct Ring {
    full: VecDeque<Arc<Vec<Entry>>>,
    /// The newest chunk, never full.
    open: Vec<Entry>,
    /// Numbers of the oldest entry that is held, and of the next one.
    oldest: u64,
    next: u64,
}

impl Ring {
    pub fn len(&self) -> usize {
        // It grew by one at a time, in memory.
        (self.next - self.oldest) as usize
    }

    pub fn oldest(&self) -> Option<&Entry> {
        (self.next > self.oldest).then(|| self.at(self.oldest))
    }

    pub fn newest(&self) -> Option<&Entry> {
        (self.next > self.oldest).then(|| self.at(self.next - 1))
    }

    /// Adds an entry; gives the low bits of its number.
    pub fn push(&mut self, entry: Entry) -> u32 {
        if self.open.capacity() == 0 {
            self.open.reserve_exact(CHUNK);
        }
        self.open.push(entry);
        if self.open.len() == CHUNK {
            self.full.push_back(Arc::new(std::mem::take(&mut self.open)));
        }
        self.next += 1;
        (self.next - 1) as u32
    }

    /// Takes the oldest entry and the low bits of its number.
    pub fn pop(&mut self) -> Option<(u32, Entry)> {
        let entry = *self.oldest()?;
        let number = self.oldest;
        self.oldest += 1;
        if self.oldest.is_multiple_of(CHUNK as u64) {
            self.full.pop_front();
        }
        Some((number as u32, entry))
    }

    /// The entry with these low bits, which is held. Fewer than 2^32 are.
    pub fn get(&self, low: u32) -> &Entry {
        self.at(self.oldest + u64::from(low.wrapping_sub(self.oldest as u32)))
    }

    fn at(&self, number: u64) -> &Entry {
        debug_assert!((self.oldest..self.next).contains(&number));
        let chunk = (number / CHUNK as u64 - self.oldest / CHUNK as u64) as usize;
        let chunk: &Vec<Entry> = self.full.get(chunk).map_or(&self.open, |full| full);
        &chunk[(number % CHUNK as u64) as usize]
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { full: self.full.clone(), open: self.open.clone(), skip: (self.oldest % CHUNK as u64) as usize }
    }
}

/// What a window held at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    full: VecDeque<Arc<Vec<Entry>>>,
    open: Vec<Entry>,
    /// Entries of the first chunk that were forgotten.
    skip: usize,
}

impl Snapshot {
    /// Its entries in the order of the log.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.full.iter().flat_map(|chunk| chunk.iter()).chain(&self.open).skip(self.skip)
    }
}
