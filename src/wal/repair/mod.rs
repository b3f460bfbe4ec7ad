//! Repair of a damaged log: what is valid is kept, also behind the damage; what is lost is listed and replaced by markers,
//! so that sequences stay dense.
//!
//! Owns the decision what a damaged directory still proves. A frame counts if its checksums hold with its segment's salt;
//! a segment whose header is lost is read with what its first frame tells of the salt. Records are opaque: the marker that
//! stands in the place of a lost one comes from the caller.
//!
//! Must never run by itself, guess a record, throw a damaged file away, or touch a log that another process has open.

mod apply;
mod candidates;
mod ends;
mod plan;
mod salvage;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::event::Sequence;

use super::error::{Damage, DamageReason, VerifyError};
use super::file_system::{FileLock, FileSystem, LockError};
use super::format::LogId;
use super::inspect::inspect;

/// What others know of the log.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Its identity, for a log whose files do not tell it any more.
    pub log_id: Option<LogId>,
    /// A record that was durable; if the log ends before, the records up to there are lost.
    pub durable: Sequence,
}

/// What a repair does about a damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// A new file takes the segment's place, with everything valid in it and markers for what is lost.
    Rewritten,
    /// A segment of markers takes the place of what is missing.
    Inserted,
    /// The file gets the name that its header says.
    PutBack,
    /// The file is no part of the log and is moved aside.
    MovedAside,
}

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where and what.
    pub damage: Damage,
    /// First and last record that are lost by it; None if it costs none.
    pub lost: Option<(Sequence, Sequence)>,
    /// Set if more records than these may be lost, behind the last one: how many bytes of the file are not zero.
    pub unknown_behind: Option<u64>,
    /// What the repair does.
    pub remedy: Remedy,
}

/// Why a repair was not done, or not to its end. It can be run again.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The log is open.
    #[error(
        "the log directory {} is in use by {}; stop that process first",
        dir.display(),
        holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that holds it, if known.
        holder: Option<u32>,
    },
    /// A segment of a newer format: this walcast cannot tell what is valid in it.
    #[error("{0}; nothing was changed")]
    Newer(Damage),
    /// A file operation failed.
    #[error("cannot {operation} {}: {source}; remove the cause and run the repair again", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file would have to give way of which nothing says what it is; something else changes the files.
    #[error(
        "cannot rename {} to {}: there is a file of that name, and no copy of it was kept; run the repair again",
        from.display(),
        to.display()
    )]
    InTheWay {
        /// The file to be renamed.
        from: PathBuf,
        /// The name that is taken.
        to: PathBuf,
    },
    /// Everything was done, and the log is still not whole: something else changes the files.
    #[error("the log is still damaged after the repair: {0}")]
    StillDamaged(VerifyError),
}

impl RepairError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

impl From<VerifyError> for RepairError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Damaged(damage) if matches!(damage.reason, DamageReason::NewerVersion { .. }) => {
                Self::Newer(damage)
            }
            VerifyError::Io { operation, path, source } => Self::Io { operation, path, source },
            // Nobody trims a log that is locked, and damage is what a repair is for.
            other => Self::StillDamaged(other),
        }
    }
}

/// An examined log, locked until this is dropped.
#[derive(Debug)]
pub struct Repair {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    plan: plan::Plan,
    _lock: Box<dyn FileLock>,
}

/// A log that is locked for a repair.
#[derive(Debug)]
pub struct Locked {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    lock: Box<dyn FileLock>,
}

/// Locks the log in `dir` for [`Locked::examine`].
///
/// # Errors
/// [`RepairError::InUse`] if a broker has it open, [`RepairError::Io`].
pub fn lock(fs: Arc<dyn FileSystem>, dir: &Path) -> Result<Locked, RepairError> {
    let path = dir.join("LOCK");
    let lock = fs.lock(&path).map_err(|error| match error {
        LockError::Held { holder } => RepairError::InUse { dir: dir.to_owned(), holder },
        LockError::Io(source) => RepairError::Io { operation: "lock", path, source },
    })?;
    Ok(Locked { fs, dir: dir.to_owned(), lock })
}

impl Locked {
    /// The identity of the log as most of its files tell it.
    ///
    /// # Errors
    /// [`RepairError`] if a file cannot be read, or is of a newer format.
    pub fn log_id(&self) -> Result<Option<LogId>, RepairError> {
        Ok(candidates::collect(&*self.fs, &self.dir, None)?.log_id)
    }

    /// Reads the whole log and finds out what is damaged and what a repair would do. Changes nothing. `suspect` gets the
    /// bytes of lost records as far as their places are known; they may be the damaged ones.
    ///
    /// # Errors
    /// [`RepairError`] if a file cannot be read, or is of a newer format.
    pub fn examine(self, known: &Known, suspect: &mut dyn FnMut(Sequence, &[u8])) -> Result<Repair, RepairError> {
        let plan = plan::plan(&*self.fs, &self.dir, known, suspect)?;
        Ok(Repair { fs: self.fs, dir: self.dir, plan, _lock: self.lock })
    }
}

impl Repair {
    /// Every damaged place.
    pub fn findings(&self) -> &[Finding] {
        &self.plan.findings
    }

    /// Segments of the log after the repair.
    pub fn segments(&self) -> usize {
        self.plan.segments
    }

    /// The first record after the repair and the last one.
    pub fn extent(&self) -> (Sequence, Sequence) {
        (self.plan.first, self.plan.last)
    }

    /// How many records are lost, at least: [`Finding::unknown_behind`].
    pub fn lost(&self) -> u64 {
        let lost = self.plan.findings.iter().filter_map(|finding| finding.lost);
        lost.map(|(first, last)| last.next().get() - first.get()).sum()
    }

    /// Repairs; each lost record becomes `marker`. Returns the folder of the damaged files, if there are any.
    ///
    /// # Errors
    /// [`RepairError`]; whatever was done by then, nothing is lost by it, and the repair can be run again.
    pub fn run(&self, marker: &[u8]) -> Result<Option<PathBuf>, RepairError> {
        let aside = apply::apply(&*self.fs, &self.dir, &self.plan, marker)?;
        let still_damaged = |error| match error {
            VerifyError::Io { .. } => RepairError::from(error),
            other => RepairError::StillDamaged(other),
        };
        let inspection = inspect(Arc::clone(&self.fs), &self.dir).map_err(still_damaged)?;
        inspection.verify(&mut |_| {}).map_err(still_damaged)?;
        Ok(aside)
    }
}
