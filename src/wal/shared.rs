//! What the writer, the handles, the readers and the preparing thread of one open log share.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};

use crate::event::{Durable, Sequence, Trimmed};

use super::error::{LogFailed, RoomError};
use super::file_system::{FileLock, FileSystem};
use super::format::LogId;
use super::options::Options;
use super::segments::Segment;

/// A file that can become a segment.
#[derive(Debug, Clone)]
pub(super) struct Spare {
    pub path: PathBuf,
    /// Whether it was a segment before, so that old bytes are in it.
    pub reused: bool,
}

/// Why there is no spare, if it is nobody's fault.
#[derive(Debug, Clone)]
pub(super) enum Obstacle {
    LogFull { bytes: u64 },
    DiskFull { reason: String },
}

#[derive(Debug)]
pub(super) struct State {
    /// Oldest first; the last is the active one.
    pub segments: VecDeque<Segment>,
    pub spares: Vec<Spare>,
    /// Whether a spare is being filled.
    pub making: bool,
    /// Files in neither list: on their way from a spare to a segment, or from a segment to a spare or to nothing.
    pub in_transit: u64,
    pub obstacle: Option<Obstacle>,
    /// Set when the writer goes away.
    pub stop: bool,
    /// Records up to here are needed by nobody any more.
    pub released: Sequence,
    /// Number of the next spare.
    pub next_number: u64,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub fs: Arc<dyn FileSystem>,
    pub options: Options,
    pub log_id: LogId,
    pub epoch: u64,
    pub state: Mutex<State>,
    /// Signalled at every change of spares, obstacle, stop or failure.
    pub changed: Condvar,
    /// Held while files are trimmed, so that they go oldest first.
    pub trimming: Mutex<()>,
    durable: AtomicU64,
    trimmed: AtomicU64,
    failed: OnceLock<LogFailed>,
    _lock: Box<dyn FileLock>,
}

impl Shared {
    pub fn new(
        fs: Arc<dyn FileSystem>,
        options: Options,
        (log_id, epoch): (LogId, u64),
        state: State,
        lock: Box<dyn FileLock>,
    ) -> Self {
        Self {
            fs,
            options,
            log_id,
            epoch,
            state: Mutex::new(state),
            changed: Condvar::new(),
            trimming: Mutex::new(()),
            durable: AtomicU64::new(0),
            trimmed: AtomicU64::new(0),
            failed: OnceLock::new(),
            _lock: lock,
        }
    }

    /// Adds the segment that this opening starts with; the positions follow from it and from the oldest.
    pub fn start_with(&self, segment: Segment) {
        let mut state = self.state.lock();
        self.set_durable(segment.last);
        state.segments.push_back(segment);
        self.set_trimmed(state.segments[0].header.first.previous());
    }

    pub fn durable(&self) -> Durable {
        Durable(Sequence::new(self.durable.load(Ordering::Acquire)))
    }

    /// Called after the active segment's entry says the same, so that who sees the position finds the bytes.
    pub fn set_durable(&self, last: Sequence) {
        self.durable.store(last.get(), Ordering::Release);
    }

    pub fn trimmed(&self) -> Trimmed {
        Trimmed(Sequence::new(self.trimmed.load(Ordering::Acquire)))
    }

    /// Called before the file is touched, so that a reader that finds other bytes in it sees why.
    pub fn set_trimmed(&self, last: Sequence) {
        self.trimmed.fetch_max(last.get(), Ordering::AcqRel);
    }

    pub fn failed(&self) -> Option<&LogFailed> {
        self.failed.get()
    }

    /// Ends appending for good; the first failure is the one that stays.
    pub fn fail(&self, operation: &'static str, file: &Path, source: io::Error) -> LogFailed {
        let failed = self.failed.get_or_init(|| {
            tracing::error!(operation, file = %file.display(), error = %source, "log failed, nothing more is taken");
            LogFailed { operation, file: file.to_owned(), source: Arc::new(source) }
        });
        // Under the lock, so that nobody checks before and waits after.
        let _state = self.state.lock();
        self.changed.notify_all();
        failed.clone()
    }

    /// Bytes of all files of the log, the one being filled included.
    pub fn bytes(&self, state: &State) -> u64 {
        let spares = state.spares.len() as u64 + u64::from(state.making) + state.in_transit;
        state.segments.iter().map(|segment| segment.bytes).sum::<u64>() + spares * self.options.segment_bytes
    }

    pub fn room_error(&self, obstacle: &Obstacle) -> RoomError {
        match obstacle {
            Obstacle::LogFull { bytes } => RoomError::LogFull { bytes: *bytes, max_bytes: self.options.max_bytes },
            Obstacle::DiskFull { reason } => RoomError::DiskFull { reason: reason.clone() },
        }
    }
}
