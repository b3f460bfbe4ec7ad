//! What can go wrong, one enum per operation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::event::{Durable, Sequence, Trimmed};

use super::format::LogId;

/// Bytes of the log that are not what they must be. Nothing is changed on disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {offset}: {reason}", file.display())]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub reason: DamageReason,
}

/// The kinds of damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DamageReason {
    /// The name ends like a segment's but holds no sequence.
    #[error("the name is not that of a segment; move the file out of the directory if it is not part of the log")]
    Name,
    /// Shorter than a header.
    #[error("the file has {bytes} bytes, too few for a segment header")]
    HalfMade {
        /// Its length.
        bytes: u64,
    },
    /// Not a segment at all.
    #[error("the file does not start like a segment")]
    NotASegment,
    /// The header's checksum does not match.
    #[error("the checksum of the segment header does not match")]
    Header,
    /// Written by a newer walcast.
    #[error("the segment has format version {version}, this walcast knows up to {known}; use a newer walcast")]
    NewerVersion {
        /// The version found.
        version: u32,
        /// The newest version that is understood.
        known: u32,
    },
    /// Its header speaks of another sequence than its name.
    #[error("the segment starts at sequence {first}, its name says otherwise; it is a copy or was renamed")]
    Doubled {
        /// The first sequence in the header.
        first: Sequence,
    },
    /// It belongs to another log.
    #[error("the segment belongs to log {found}, the ones before it to log {expected}")]
    Foreign {
        /// The log in its header.
        found: LogId,
        /// The log of the oldest segment.
        expected: LogId,
    },
    /// The segment before it is not there.
    #[error("the segment before it must start at sequence {expected} and is missing")]
    MissingBefore {
        /// The first sequence of the missing segment.
        expected: Sequence,
    },
    /// Made by an earlier opening than the one before it.
    #[error("the segment has epoch {found}, the one before it {previous}")]
    Epoch {
        /// Its epoch.
        found: u64,
        /// The epoch of the segment before it.
        previous: u64,
    },
    /// There must be a frame, and there is none or a broken one.
    #[error("there is no valid frame where the one with sequence {expected} must be")]
    Frame {
        /// The sequence expected there.
        expected: Sequence,
    },
    /// A valid frame with another sequence.
    #[error("the frame starts at sequence {found}, expected {expected}")]
    Gap {
        /// The sequence expected there.
        expected: Sequence,
        /// The sequence found.
        found: Sequence,
    },
    /// A frame in the newest segment is broken, and a later one is there.
    #[error(
        "the frame with sequence {expected} is broken, but a later one with sequence {later} follows at byte {later_offset}, so this is not a torn write"
    )]
    BrokenInside {
        /// The sequence expected at the offset.
        expected: Sequence,
        /// The first sequence of the later frame.
        later: Sequence,
        /// Where the later frame is, in bytes.
        later_offset: u64,
    },
    /// A segment of this log whose records are in other segments, too.
    #[error("the segment starts at sequence {first}, inside another one; it is a copy from another time")]
    Overlaps {
        /// Its first sequence.
        first: Sequence,
    },
    /// The checksums match, and the payload is still not a list of records.
    #[error("the payload of the frame with sequence {expected} is not a list of records")]
    Records {
        /// The frame's first sequence.
        expected: Sequence,
    },
}

/// What kind of failure stopped `open`: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenErrorKind {
    /// Damaged or lost records.
    Damaged,
    /// Somebody else has the directory open.
    InUse,
    /// The system refused.
    Io,
    /// The options contradict each other.
    Config,
}

/// Why a log was not opened. Nothing was changed in its segments.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An option cannot be used.
    #[error("{setting}: {reason}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What it must be.
        reason: String,
    },
    /// Another open log holds the directory.
    #[error(
        "the log directory {} is in use by {}; stop that process or choose another directory",
        dir.display(),
        holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that holds it, if known.
        holder: Option<u32>,
    },
    /// A file operation failed.
    #[error("cannot {operation} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log would not fit under its limit.
    #[error("the log in {} needs another segment of {segment_bytes} bytes, but has {bytes} of at most {max_bytes} bytes; raise log.max_bytes", dir.display())]
    Full {
        /// The directory.
        dir: PathBuf,
        /// Bytes of all files of the log.
        bytes: u64,
        /// [`super::Options::segment_bytes`].
        segment_bytes: u64,
        /// [`super::Options::max_bytes`].
        max_bytes: u64,
    },
    /// Damage.
    #[error("{}; nothing was changed{}", .0, way_out(.0))]
    Damaged(#[from] Damage),
    /// The log ends before a position that is known to have been durable.
    #[error(
        "the log in {} ends at sequence {found}, but sequence {durable_at_least} is known to have been durable: records are lost or damaged at its end; nothing was changed{WAY_OUT}",
        dir.display()
    )]
    Lost {
        /// The directory.
        dir: PathBuf,
        /// Where the log ends.
        found: Durable,
        /// [`super::Options::durable_at_least`].
        durable_at_least: Sequence,
    },
}

const WAY_OUT: &str = "; restore the data directory from a backup, or see with `walcast log repair --dry-run` what a repair would keep and lose";

/// What can be done about a damage; a newer format is none.
fn way_out(damage: &Damage) -> &'static str {
    match damage.reason {
        DamageReason::NewerVersion { .. } => "",
        _ => WAY_OUT,
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; give the user of walcast write access to it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on that disk",
        io::ErrorKind::ReadOnlyFilesystem => "; mount that disk writable or choose another directory",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "; choose another directory",
        _ => "",
    }
}

impl OpenError {
    /// What kind of failure it is.
    pub fn kind(&self) -> OpenErrorKind {
        match self {
            Self::Config { .. } | Self::Full { .. } => OpenErrorKind::Config,
            Self::InUse { .. } => OpenErrorKind::InUse,
            Self::Io { .. } => OpenErrorKind::Io,
            Self::Damaged(_) | Self::Lost { .. } => OpenErrorKind::Damaged,
        }
    }

    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

/// The log stopped taking records for good: the first failed write or sync. Restart recovers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log has failed and takes nothing more: cannot {operation} {}: {source}; restart walcast once the disk is well", file.display())]
pub struct LogFailed {
    /// What was tried.
    pub operation: &'static str,
    /// On which file.
    pub file: PathBuf,
    /// What the system said.
    pub source: Arc<io::Error>,
}

/// Why there is no room for a frame. Nothing was taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RoomError {
    /// The log's own limit. Retryable: room comes back when records are released.
    #[error("the log is full: {bytes} of at most {max_bytes} bytes are in use")]
    LogFull {
        /// Bytes of all files of the log.
        bytes: u64,
        /// [`super::Options::max_bytes`].
        max_bytes: u64,
    },
    /// The disk, a quota or the process's file descriptors are used up. Retryable: it is tried again by itself.
    #[error("the disk of the log is full: {reason}")]
    DiskFull {
        /// What the system said.
        reason: String,
    },
    /// Final.
    #[error(transparent)]
    Failed(#[from] LogFailed),
}

impl RoomError {
    /// Whether the same call can succeed later.
    pub fn retryable(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

/// Why a batch was not appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Final: the log takes nothing more. The batch may be found after a restart, or not.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// There was no room, which cannot be after [`super::Writer::ensure_room`] for as many bytes. Nothing was written.
    #[error(transparent)]
    NoRoom(RoomError),
}

/// Why a reader cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The records after the position are gone.
    #[error("the log no longer holds sequence {wanted}; it starts after {trimmed}")]
    Trimmed {
        /// The sequence to be read next.
        wanted: Sequence,
        /// Up to here nothing is left.
        trimmed: Trimmed,
    },
    /// The position lies after the last durable record: it belongs to another log, or records were lost.
    #[error("the log ends at sequence {durable}, before the position {after} to read from")]
    Beyond {
        /// The position asked for.
        after: Sequence,
        /// Where the log ends.
        durable: Durable,
    },
    /// Damage.
    #[error("{}{}", .0, way_out(.0))]
    Damaged(#[from] Damage),
    /// The system refused.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why trimming stopped. What was trimmed before stays so; the rest is tried again at the next release.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove the segment {}: {source}", file.display())]
pub struct ReleaseError {
    /// The segment.
    pub file: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// What a read-only look at a log found wrong.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Damage.
    #[error("{}{}", .0, way_out(.0))]
    Damaged(#[from] Damage),
    /// The system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A broker beside this one trimmed the segment while it was being read.
    #[error("the segment {} was trimmed while it was read", file.display())]
    Trimmed {
        /// The segment.
        file: PathBuf,
    },
}
