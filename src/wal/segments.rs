//! The segments that a log consists of, as the process knows them.

use std::path::{Path, PathBuf};

use crate::event::{Sequence, UnixMicros};

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};

/// Whether a segment still grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// The newest: records are appended to it.
    Active,
    /// Followed by another.
    Closed,
}

impl SegmentState {
    /// In lower case, as tools print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Closed => "closed",
        }
    }
}

/// What tools show of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The sequence of its first record, or of the one it will get.
    pub first: Sequence,
    /// The sequence of its last record; the one before `first` if it is empty.
    pub last: Sequence,
    /// How many records it has.
    pub records: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// When it was made.
    pub created_at: UnixMicros,
    /// The opening of the log that made it.
    pub epoch: u64,
    /// Random bytes of this use of the file: two segments with the same are the same.
    pub salt: [u8; 16],
    /// Whether it still grows.
    pub state: SegmentState,
    /// The file.
    pub path: PathBuf,
}

#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub path: PathBuf,
    /// The last durable record; the one before the first if there is none.
    pub last: Sequence,
    /// Where its durable frames end; None if it was not read to there, and then the file's length bounds it.
    pub end: Option<u64>,
    /// Length of the file.
    pub bytes: u64,
    /// Whether every frame of it was read and checked, or written, by this process.
    pub verified: bool,
}

impl Segment {
    /// A segment without records.
    pub fn empty(dir: &Path, header: SegmentHeader, bytes: u64) -> Self {
        Self {
            path: dir.join(segment_name(header.first)),
            last: header.first.previous(),
            end: Some(SEGMENT_HEADER_BYTES),
            bytes,
            header,
            verified: true,
        }
    }

    pub fn records(&self) -> u64 {
        self.last.next().get() - self.header.first.get()
    }

    pub fn info(&self, state: SegmentState) -> SegmentInfo {
        SegmentInfo {
            first: self.header.first,
            last: self.last,
            records: self.records(),
            bytes: self.bytes,
            created_at: self.header.created_at,
            epoch: self.header.epoch,
            salt: self.header.salt,
            state,
            path: self.path.clone(),
        }
    }
}
