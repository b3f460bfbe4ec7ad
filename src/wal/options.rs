//! What a log is opened with.

use std::path::PathBuf;
use std::time::Duration;

use crate::event::Sequence;

use super::error::OpenError;
use super::format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};

/// Who makes the next segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// A thread of its own, ahead of need.
    Background,
    /// [`super::Writer::ensure_room`] itself, when it is needed: for tests and simulations, which must not depend on timing.
    Inline,
}

/// How a log is opened. All sizes in bytes.
#[derive(Debug, Clone)]
pub struct Options {
    /// The log's directory; made if it is not there.
    pub dir: PathBuf,
    /// Size of a segment file. A smaller one means more rotations, a larger one coarser trimming.
    pub segment_bytes: u64,
    /// All files of the log together stay at or below this; at least two segments.
    pub max_bytes: u64,
    /// Free bytes of the disk that the log leaves to the store, the checkpoint and the index: it makes no further segment
    /// that would take of them. On a small disk at most a quarter of it.
    pub reserve_bytes: u64,
    /// How much of what was released is kept for replay.
    pub keep_bytes: u64,
    /// How long what was released is kept for replay, counted from when its segment was closed.
    pub keep_for: Duration,
    /// Largest payload of a frame, record prefixes included: the bound of a [`super::Batch`]. A reader holds one frame in memory.
    pub frame_bytes_max: usize,
    /// A position that is known from elsewhere to have been durable; a log that ends before it has lost records.
    pub durable_at_least: Sequence,
    /// How long an opening goes on to begin with another closed segment, to check it. The newest segment, which alone can be
    /// torn, is always read to its end; what is left over is for [`super::Log::verify_next`].
    pub verify_for: Duration,
    /// Number of this node, kept in each segment's header.
    pub node_id: u32,
    /// Who makes the next segment's file.
    pub preparation: Preparation,
}

/// Largest segment in bytes. Places of records are kept in 32 bits, as in Kafka's index files.
const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

const MIB: u64 = 1024 * 1024;

impl Options {
    /// The defaults of the broker for a log in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 * MIB,
            max_bytes: 10 * 1024 * MIB,
            reserve_bytes: 512 * MIB,
            keep_bytes: 1024 * MIB,
            keep_for: Duration::from_secs(24 * 3600),
            // One record of the largest body that a configuration may allow fits, with room for its subject.
            frame_bytes_max: 17 * MIB as usize,
            durable_at_least: Sequence::ZERO,
            // A start may take two seconds.
            verify_for: Duration::from_millis(1_200),
            node_id: 0,
            preparation: Preparation::Background,
        }
    }

    pub(super) fn validate(&self) -> Result<(), OpenError> {
        let refuse = |setting, reason: String| Err(OpenError::Config { setting, reason });
        if self.frame_bytes_max == 0 || u32::try_from(self.frame_bytes_max).is_err() {
            return refuse("frame_bytes_max", format!("it is {}; it must be 1 to 4294967295", self.frame_bytes_max));
        }
        let segment_min = SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES as u64 + self.frame_bytes_max as u64;
        if self.segment_bytes < segment_min {
            return refuse(
                "log.segment_bytes",
                format!(
                    "it is {} bytes, too small for one frame of the largest size; make it at least {segment_min}",
                    self.segment_bytes
                ),
            );
        }
        if self.segment_bytes > SEGMENT_BYTES_MAX {
            return refuse(
                "log.segment_bytes",
                format!(
                    "it is {} bytes; it must be at most {SEGMENT_BYTES_MAX}, so that places in it fit into 32 bits",
                    self.segment_bytes
                ),
            );
        }
        if self.max_bytes / 2 < self.segment_bytes {
            return refuse(
                "log.max_bytes",
                format!(
                    "it is {} bytes; make it at least twice log.segment_bytes, which is {}",
                    self.max_bytes, self.segment_bytes
                ),
            );
        }
        Ok(())
    }
}
