//! Why the projector ends.

use crate::event::record::RecordError;
use crate::event::{Durable, Projected, Sequence, Trimmed};
use crate::projector::{ApplierError, StoreError};
use crate::wal::ReadError;

/// Why projection cannot go on by itself. Publishing does not depend on it, but a store that stays behind for
/// ever ends in a full log, so the supervisor stops the process.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    /// The store has seen records that the log does not have.
    #[error(
        "the {kind} store is at sequence {projected}, but the log ends at {durable}; \
         restore the log and the store from the same moment"
    )]
    StoreAhead {
        /// Which kind of store.
        kind: &'static str,
        /// Where the store is.
        projected: Projected,
        /// Where the log ends.
        durable: Durable,
    },
    /// The log no longer holds what the store needs next.
    #[error(
        "the {kind} store is at sequence {projected}, but the log starts after {trimmed}, so what lies between is not \
         in the log any more; restore a newer copy of the store"
    )]
    Trimmed {
        /// Which kind of store.
        kind: &'static str,
        /// Where the store is.
        projected: Projected,
        /// The last record that is gone.
        trimmed: Trimmed,
    },
    /// The log cannot be read.
    #[error("cannot project the log: {0}")]
    Read(ReadError),
    /// A record is not one that this walcast understands.
    #[error("cannot project the record with sequence {sequence}: {error}")]
    Record {
        /// Its place in the log.
        sequence: Sequence,
        /// What is wrong with it.
        error: RecordError,
    },
    /// The store refuses a batch for good.
    #[error(transparent)]
    Apply(#[from] ApplierError),
    /// The store cannot be used any more.
    #[error(transparent)]
    Store(StoreError),
    /// The thread that reads the log ended in the middle; a defect.
    #[error("reading the log for projection ended in the middle: {0}")]
    ReaderLost(String),
}

impl ProjectorError {
    /// What a failed read means for a store of this kind at `projected`.
    pub(super) fn read(kind: &'static str, projected: Projected, error: ReadError) -> Self {
        match error {
            ReadError::Trimmed { trimmed, .. } => Self::Trimmed { kind, projected, trimmed },
            ReadError::Beyond { durable, .. } => Self::StoreAhead { kind, projected, durable },
            other => Self::Read(other),
        }
    }
}
