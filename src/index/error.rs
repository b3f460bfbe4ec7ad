//! What can go wrong with the index.

use std::io;
use std::path::PathBuf;

use crate::event::Sequence;
use crate::event::record::RecordError;
use crate::wal::{PlaceError, ReadError};

/// Why the index cannot be opened or asked.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The system refused a file of the index.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// In verb form.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The record cannot be read.
    #[error(transparent)]
    Record(#[from] PlaceError),
}

/// Why the indexer ended other than by an orderly stop.
#[derive(Debug, thiserror::Error)]
pub enum IndexerError {
    /// The log cannot be read, or is damaged.
    #[error("index the log: {0}")]
    Read(#[from] ReadError),
    /// The log holds a record that this build does not understand.
    #[error("index the record at sequence {sequence} of the log: {source}")]
    Record {
        /// Its place.
        sequence: Sequence,
        /// What is wrong with it.
        source: RecordError,
    },
}
