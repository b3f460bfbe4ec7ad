//! A data directory whose broker is stopped, for tools that write to its store or need it to stand still.

use std::path::Path;
use std::sync::Arc;

use super::{Exit, Failure};
use crate::broker::{self, ErrorKind, OpenDataError, StoreOf};
use crate::cluster::SlotSet;
use crate::config::Settings;
use crate::event::{Durable, Projected};
use crate::projector::{ApplierError, ApplyError, DeadLetters, LetterBounds, Opening, Store, StoreError};
use crate::wal::{DiskFileSystem, FileLock, FileSystem as _, Inspection, LockError, LogId};

/// Takes the data directory as a broker does.
pub fn lock(log_dir: &Path) -> Result<Box<dyn FileLock>, Failure> {
    let path = log_dir.join("LOCK");
    DiskFileSystem.lock(&path).map_err(|error| match error {
        LockError::Held { holder } => {
            let who = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            let message = format!("the data directory is in use by {who}; stop it, its store belongs to one process");
            Failure::new(Exit::InUse, message)
        }
        LockError::Io(error) => Failure::new(Exit::Failed, format!("cannot lock {}: {error}", path.display())),
    })
}

/// The store of the log that was looked at, and where it is. The caller holds the lock.
pub async fn open_store(
    settings: &Settings,
    inspection: &Inspection,
    log_id: LogId,
    opening: Opening,
) -> Result<(Arc<dyn Store>, Projected), Failure> {
    let of = StoreOf { log_id, epoch: inspection.epoch(), durable: Durable::default() };
    let store = broker::open_store(settings, of, opening).map_err(|error| data_failure(&error))?;
    store.prepare().await.map_err(|error| store_failure(&error))?;
    let projected = store.projected().await.map_err(|error| store_failure(&error))?;
    Ok((store, projected))
}

/// The slots that the node of a data directory owns; None if it is in no cluster.
pub fn owned_slots(settings: &Settings) -> Result<Option<SlotSet>, Failure> {
    broker::owned_slots(settings).map_err(|error| data_failure(&error))
}

fn data_failure(error: &OpenDataError) -> Failure {
    // Another node's directory, as for `serve`.
    let exit = if error.kind() == ErrorKind::Configuration { Exit::Usage } else { Exit::Failed };
    Failure::new(exit, error.to_string())
}

/// The dead letters of a data directory.
pub fn letters(settings: &Settings) -> Result<DeadLetters, Failure> {
    DeadLetters::open(Arc::new(DiskFileSystem), settings.dead_letters_dir(), LetterBounds::default())
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// What a batch that cannot be written means for a command.
pub fn applier_failure(error: &ApplierError) -> Failure {
    match error {
        ApplierError::Apply(ApplyError::Store(error)) => store_failure(error),
        error => Failure::new(Exit::Failed, error.to_string()),
    }
}

/// What a store that cannot be used means for a command.
pub fn store_failure(error: &StoreError) -> Failure {
    let exit = match error {
        StoreError::Unavailable { .. } => Exit::Unavailable,
        // Also another log's: as for `serve`.
        StoreError::Refused { .. } | StoreError::Inconsistent { .. } => Exit::Usage,
        StoreError::Fenced { .. } => Exit::InUse,
        StoreError::Failed { .. } => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}
