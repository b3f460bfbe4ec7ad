//! The index of the log: where each message stands, by subject and id.
//!
//! Owns the files of the folder `index/` and the places of what they do not cover yet. A part covers a run of
//! sequences within one segment. The newest is in memory and grows with every durable frame; when its segment ends, or
//! at [`PART_RECORDS_MAX`] records, it is sealed and a thread writes it to a file. A run that no part covers is a gap:
//! the thread reads it from the log, newest first. So one message of a log of any size is found in a few reads.
//!
//! Everything here is derived: a file that is missing, damaged, foreign or of another version becomes a gap and is built
//! again. Nothing is synced. Every page has a checksum, and every record that is found is compared with what was
//! asked for.
//!
//! Must never: be trusted over the log; say that a message is not there while there is a gap; hold up an append.

mod entry;
mod error;
mod file;
mod filter;
mod format;
mod indexer;
mod memory;
mod parts;
mod run;
mod search;
mod service;
mod write;

pub use entry::Located;
pub use error::{IndexError, IndexerError};
pub use indexer::Indexer;
pub use run::{Amount, RunRead};
pub use service::{Appended, Index, Lookup};

/// Records of a part at most: 6 MiB of memory, a segment of 64 MiB full of messages of 256 bytes. In all the index takes no
/// more than 64 MiB: the part that grows, three sealed ones (`parts`), the sorted copy of one, its subjects and the sort's
/// own memory while it is written, and 16 MiB of filters.
pub const PART_RECORDS_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests;
