//! Housekeeping: the ids checkpoint, the release of what nobody needs of the log, and the check of what the start had no
//! time for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError};
use tokio::sync::watch;

use crate::config::LogSettings;
use crate::event::{Projected, Sequence, clock};
use crate::index::Index;
use crate::ingest::{Checkpoint, CheckpointError, Checkpointer, Keys, SubjectTable};
use crate::telemetry::metrics::CheckpointMetrics;
use crate::wal::{Log, LogFailed, VerifyError};

/// How often the log is looked at when nothing else asks for it: `log.keep_for` passes without anybody's doing. Also
/// the pause between two segments that are checked: 64 MiB/s of reading leave the disk to the appends.
const RELEASE_EVERY: Duration = Duration::from_secs(1);

/// How often it is seen that the log has failed while nobody publishes, on whose publish the committer would end.
const FAILURE_EVERY: Duration = Duration::from_millis(250);

/// A checkpoint of many subjects or keys is large: it is due after this many times its own size of log.
const CHECKPOINT_RATIO: u64 = 4;

/// After how much log the next checkpoint is due.
#[derive(Debug)]
pub struct CheckpointPace {
    every_bytes: Arc<AtomicU64>,
    /// `log.segment_bytes`: nothing can be trimmed more often.
    at_least: u64,
    at_most: u64,
}

impl CheckpointPace {
    /// After a checkpoint of this size.
    pub fn new(log: &LogSettings, checkpoint_bytes: u64) -> Self {
        let (at_least, at_most) = (log.segment_bytes, log.max_bytes / CHECKPOINT_RATIO);
        let pace = Self { every_bytes: Arc::default(), at_least, at_most };
        pace.after(checkpoint_bytes);
        pace
    }

    /// Where the committer reads it.
    pub fn every_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.every_bytes)
    }

    fn after(&self, checkpoint_bytes: u64) {
        let due = self.at_least.max(CHECKPOINT_RATIO * checkpoint_bytes).min(self.at_most);
        self.every_bytes.store(due, Ordering::Relaxed);
    }
}

/// Why housekeeping cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum HousekeepingError {
    /// The last checkpoint was not written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log failed in the background: while a spare was made.
    #[error(transparent)]
    Log(#[from] LogFailed),
    /// A closed segment is not what was written.
    #[error("check the log: {0}")]
    Verify(#[from] VerifyError),
}

/// The housekeeper's state.
#[derive(Debug)]
pub struct Housekeeper {
    /// Writes the checkpoint.
    pub checkpointer: Checkpointer,
    /// What is in it.
    pub subjects: Arc<SubjectTable>,
    /// What is in it, too.
    pub keys: Keys,
    /// When it is due.
    pub pace: CheckpointPace,
    /// The log to release.
    pub log: Log,
    /// What follows it.
    pub index: Index,
    /// How far the store is.
    pub projected: watch::Receiver<Projected>,
    /// Position of the last checkpoint.
    pub checkpointed: Sequence,
    /// Bytes of log from which a checkpoint is not waited for: without one nothing can be trimmed, and a full log
    /// asks for none.
    pub pressed_bytes: u64,
    /// Whether the last checkpoint failed.
    pub failed: bool,
    /// Counts checkpoints.
    pub metrics: CheckpointMetrics,
    /// Asks for a checkpoint; disconnected at the end.
    pub wake: Receiver<()>,
}

impl Housekeeper {
    /// Runs until nobody can ask any more, and then takes a last checkpoint. For a thread of its own.
    ///
    /// # Errors
    /// That of the last checkpoint: one before it that fails is tried again at the next occasion, and the log keeps
    /// what it would have covered. That of a segment that cannot be read or is damaged. And that of a log that has failed.
    pub fn run(mut self) -> Result<(), HousekeepingError> {
        let mut verify_at = Instant::now() + RELEASE_EVERY;
        let mut release_at = verify_at;
        let mut known_as_failed = false;
        loop {
            match self.wake.recv_timeout(FAILURE_EVERY) {
                Ok(()) => self.try_checkpoint(),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(failed) = self.log.failure()
                        // A publish that is under way has the first word: its failure says what it was about.
                        && std::mem::replace(&mut known_as_failed, true)
                    {
                        return Err(failed.into());
                    }
                    if Instant::now() < release_at {
                        continue;
                    }
                    let behind = self.subjects.marked_through().sequence() > self.checkpointed;
                    if behind && (self.failed || self.log.bytes() >= self.pressed_bytes) {
                        self.try_checkpoint();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    if !self.log.is_failed() {
                        self.checkpoint()?;
                    }
                    return Ok(());
                }
            }
            self.keys.drop_expired(clock::now());
            self.release();
            release_at = Instant::now() + RELEASE_EVERY;
            if Instant::now() >= verify_at {
                self.verify()?;
                verify_at = Instant::now() + RELEASE_EVERY;
            }
        }
    }

    /// Checks one segment of those that the start left over.
    fn verify(&self) -> Result<(), HousekeepingError> {
        if let Some(bytes) = self.log.verify_next()? {
            tracing::debug!(bytes, "checked a segment that the start had no time for");
        }
        Ok(())
    }

    fn try_checkpoint(&mut self) {
        let taken = self.checkpoint();
        if let Err(error) = &taken
            && !self.failed
        {
            tracing::warn!(%error, "the ids checkpoint was not written; the log keeps what it would cover");
        }
        self.failed = taken.is_err();
    }

    fn checkpoint(&mut self) -> Result<Checkpoint, CheckpointError> {
        let projected = *self.projected.borrow();
        let started = Instant::now();
        let taken = self.checkpointer.take(&self.subjects, &self.keys, projected);
        let taken = taken.inspect_err(|_| self.metrics.failed())?;
        self.metrics.taken(started.elapsed());
        self.pace.after(taken.bytes);
        tracing::debug!(sequence = %taken.taken_at, subjects = taken.subjects, "took an ids checkpoint");
        self.checkpointed = taken.taken_at;
        Ok(taken)
    }

    /// Lets the log trim what both the store and the checkpoint have.
    fn release(&self) {
        let projected = self.projected.borrow().sequence();
        if let Err(error) = self.log.release(projected.min(self.checkpointed))
            && !self.log.is_failed()
        {
            tracing::warn!(%error, "the log was not trimmed; it is tried again");
        }
        self.index.trim();
    }
}
