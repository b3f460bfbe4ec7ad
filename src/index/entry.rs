//! One message in the index.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::event::{MessageId, Sequence};
use crate::wal::{LogId, Place};

/// What subjects are hashed with: the log's own seed, so that nobody outside can make subjects collide.
#[derive(Debug, Clone, Copy)]
pub(super) struct SubjectHasher(u64);

impl SubjectHasher {
    pub fn new(log_id: LogId) -> Self {
        let (seed, _) = log_id.as_bytes().split_first_chunk().expect("a log id has 16 bytes");
        Self(u64::from_le_bytes(*seed))
    }

    pub fn hash(self, subject: &str) -> u64 {
        xxh3_64_with_seed(subject.as_bytes(), self.0)
    }
}

/// A message of a part. Ordered by subject, then id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub hash: u64,
    pub id: u32,
    /// Its sequence, counted from the part's first.
    pub index: u32,
    /// As in [`Place`].
    pub offset: u32,
    /// As in [`Place`].
    pub crc: u32,
}

/// The run of sequences that a part covers, within one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First sequence of the segment.
    pub segment: Sequence,
    pub first: Sequence,
    pub last: Sequence,
}

impl Run {
    pub fn records(&self) -> u64 {
        self.last.next().get() - self.first.get()
    }

    pub fn locate(&self, entry: &Entry) -> Located {
        Located {
            id: MessageId::new(entry.id),
            sequence: self.first.plus(u64::from(entry.index)),
            place: Place { segment: self.segment, offset: entry.offset, crc: entry.crc },
        }
    }
}

/// Where a message stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Its id; None only if a damaged index says 0, and then the record differs, too.
    pub id: Option<MessageId>,
    /// Its sequence.
    pub sequence: Sequence,
    /// Its place.
    pub place: Place,
}
