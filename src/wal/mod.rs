//! The log: numbered records in segment files, durable when `append` returns.
//!
//! Owns the files of one directory: frames, segments, append, recovery, readers, retention and the
//! read-only tools. Records are opaque bytes here. Everything is synchronous, and every access to a file
//! goes through [`FileSystem`], so that faults and whole runs can be simulated.
//!
//! Must never: know what a subject, a subscriber or a database is; use async; repair by forgetting, or by itself.
//!
//! # Files
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | held by the one process that has the log open; holds its process id in decimal |
//! | `<first sequence, 20 digits>.wal` | a segment: one header block, then frames without gaps |
//! | `<number, 20 digits>.spare` | a zero-filled file, ready to become a segment |
//! | `<number, 20 digits>.used` | a trimmed segment, ready to become one again, old bytes in it |
//! | `<number, 20 digits>.making` | a spare being filled; removed at the next start |
//! | `damaged-<time>/` | a folder of the files that a repair replaced or moved aside; never looked at again |
//! | `<first sequence, 20 digits>.wal.repair` | a segment that a repair is writing; removed by the next repair |
//!
//! Files with other names are left alone. `docs/log-format.md` has the whole format, [`mod@format`] its code.
//!
//! # Invariants
//!
//! - A segment gets its `.wal` name only after its header is durable, and its first frame only after the name is.
//! - A segment is followed by another only when all its frames are durable. So only the newest segment may
//!   end torn, and any valid frame header behind bytes that are not a frame proves damage.
//! - A segment is written by one process run only: after recovery there is always a new one, with a new salt.
//! - Bytes are never written over while a sequence in them is above `trimmed`.
//! - The first failed write or sync ends appending for good: the kernel may have dropped the pages, and a second
//!   fdatasync would report success.
//!
//! Two limits that any log has: damage inside the very last frame cannot be told from a torn write of it, and files
//! that disappear whole from either end leave no trace here. For the newer end the caller says how far it
//! must reach ([`Options::durable_at_least`]), for the older end readers get [`ReadError::Trimmed`].
//! A write is assumed not to change bytes outside its range; where it shares a sector with the frame before it, the
//! device must write sectors whole.

mod batch;
#[cfg(feature = "fault-controls")]
pub mod crash_points;
mod disk;
mod error;
#[cfg(feature = "fault-controls")]
pub mod fault_controls;
mod file_system;
pub mod format;
mod frame;
mod inspect;
mod log;
mod open;
mod options;
mod place;
mod prepare;
mod reader;
mod records;
mod recovery;
pub mod repair;
mod retention;
mod scan;
mod segments;
mod shared;
mod writer;

pub use batch::{Batch, PushError};
pub use disk::DiskFileSystem;
pub use error::{
    AppendError, Damage, DamageReason, LogFailed, OpenError, OpenErrorKind, ReadError, ReleaseError, RoomError,
    VerifyError,
};
pub use file_system::{
    DiskSpace, FileEntry, FileLock, FileSystem, LockError, LogFile, read_full, write_atomically, write_unsynced,
};
pub use format::{LogId, RECORD_PREFIX_BYTES};
pub use frame::Frame;
pub use inspect::{Inspection, Scanner, Verified, inspect};
pub use log::Log;
pub use open::{Opened, Recovery, TornTail, open, open_beside};
pub use options::{Options, Preparation};
pub use place::{FramePlace, Place, PlaceError};
pub use reader::Reader;
pub use segments::{SegmentInfo, SegmentState};
pub use writer::Writer;

#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
