//! Opening what stands on the disk: log, ids and store, checked against each other.

mod replay;
mod store;

pub(super) use store::membership;
pub use store::{StoreOf, cassandra_config};

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use super::error_kind::ErrorKind;
use crate::cluster::{Claim, ClaimError, KeptError, Ownership, SlotSet};
use crate::config::{Settings, StoreKind};
use crate::event::limits::RECORD_HEAD_BYTES_MAX;
use crate::event::record::RecordError;
use crate::event::{Durable, Projected, Sequence, Trimmed};
use crate::index::{Index, IndexError, Indexer};
use crate::ingest::{
    self, Checkpoint, CheckpointError, Checkpointer, IdsExhausted, Keys, SubjectTable, Window, WindowConfig,
};
use crate::projector::{
    CassandraConfigError, DeadLetterError, DeadLetters, LetterBounds, OpenStoreError, Opening, PostgresConfigError,
    Store, StoreError,
};
use crate::wal::{
    self, DiskFileSystem, FileSystem, Log, OpenError, OpenErrorKind, RECORD_PREFIX_BYTES, ReadError, Recovery, Writer,
};
use replay::Replayed;

/// Bytes of one frame: with 256-byte bodies some 8,000 records, below a millisecond to write. Larger
/// only where one record of the largest body needs it.
const FRAME_BYTES: usize = 4 * 1024 * 1024;

/// A segment that holds fewer frames than this would be rotated more often than it is worth.
const FRAMES_PER_SEGMENT: u64 = 4;

/// Why the data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDataError {
    /// A directory cannot be made or written.
    #[error("make the directory {}: {source}; choose another one with --data-dir", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The layout of the cluster.
    #[error(transparent)]
    Cluster(Box<ClaimError>),
    /// The log.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The ids.
    #[error(transparent)]
    Ids(#[from] CheckpointError),
    /// The ids that a part of the log would tell which is no longer there.
    #[error(
        "{} holds no checkpoint after sequence {checkpoint}, and the log begins after {trimmed}: ids between them are unknown; restore the file from a backup of the data directory",
        path.display()
    )]
    IdsMissing {
        /// The directory of the ids.
        path: PathBuf,
        /// Position of the checkpoint; 0 if there is none.
        checkpoint: Sequence,
        /// Where the log begins.
        trimmed: Trimmed,
    },
    /// The idempotency keys that a part of the log would tell which is no longer there.
    #[error(
        "{} has the idempotency keys up to sequence {checkpoint} only, and the log begins after {trimmed}: those between are unknown, and retries of their publishes would become second messages; restore ids/ from a backup of the data directory, or delete idempotency-keys if no publish is being retried",
        path.display()
    )]
    KeysMissing {
        /// The directory of the ids.
        path: PathBuf,
        /// Position of the file.
        checkpoint: Sequence,
        /// Where the log begins.
        trimmed: Trimmed,
    },
    /// The log was opened and cannot be read.
    #[error("read the log: {0}")]
    Read(#[from] ReadError),
    /// The log holds a record that this version does not understand.
    #[error("the record at sequence {sequence} of the log: {source}")]
    Record {
        /// Its place.
        sequence: Sequence,
        /// What is wrong with it.
        source: RecordError,
    },
    /// More subjects than the settings allow.
    #[error("restore the ids: {0}; raise limits.subjects")]
    TooManySubjects(#[from] IdsExhausted),
    /// The index of the log cannot be opened.
    #[error("open the index of the log: {0}")]
    Index(#[from] IndexError),
    /// The store cannot be opened.
    #[error(transparent)]
    OpenStore(#[from] OpenStoreError),
    /// The settings of Postgres do not read.
    #[error(transparent)]
    PostgresSettings(#[from] PostgresConfigError),
    /// The settings of the cluster do not fit.
    #[error(transparent)]
    CassandraSettings(#[from] CassandraConfigError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A message that the store did not take cannot be read.
    #[error("read the dead letters: {0}")]
    DeadLetters(#[from] DeadLetterError),
    /// The store lacks messages that the log no longer holds.
    #[error(
        "the {store} store has the messages up to sequence {projected}, and the log begins after {trimmed}: those between are in neither; restore the store from a backup, or start with an empty data directory"
    )]
    StoreBehind {
        /// The kind of store.
        store: &'static str,
        /// Where the store is.
        projected: Projected,
        /// Where the log begins.
        trimmed: Trimmed,
    },
}

impl OpenDataError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Log(error) => match error.kind() {
                OpenErrorKind::Damaged => ErrorKind::Damaged,
                OpenErrorKind::InUse => ErrorKind::InUse,
                OpenErrorKind::Config => ErrorKind::Configuration,
                OpenErrorKind::Io => ErrorKind::Failed,
            },
            Self::Ids(CheckpointError::Io { .. }) | Self::Read(ReadError::Io { .. }) => ErrorKind::Failed,
            Self::Ids(CheckpointError::TooManySubjects { .. }) | Self::TooManySubjects(_) => ErrorKind::Configuration,
            Self::Ids(_) | Self::Read(_) | Self::Record { .. } => ErrorKind::Damaged,
            Self::IdsMissing { .. } | Self::KeysMissing { .. } | Self::StoreBehind { .. } => ErrorKind::Damaged,
            Self::Store(error) => store_kind(error),
            Self::Cluster(error) => match **error {
                ClaimError::Kept(KeptError::Damaged { .. }) => ErrorKind::Damaged,
                ClaimError::Kept(KeptError::Io { .. } | KeptError::Lost(_)) => ErrorKind::Failed,
                _ => ErrorKind::Configuration,
            },
            Self::PostgresSettings(_) | Self::CassandraSettings(_) => ErrorKind::Configuration,
            Self::DeadLetters(DeadLetterError::File { .. }) => ErrorKind::Damaged,
            Self::OpenStore(OpenStoreError::Damaged { .. } | OpenStoreError::Store { .. }) => ErrorKind::Damaged,
            Self::OpenStore(_) | Self::Directory { .. } | Self::Index(_) | Self::DeadLetters(_) => ErrorKind::Failed,
        }
    }
}

impl From<ClaimError> for OpenDataError {
    fn from(error: ClaimError) -> Self {
        Self::Cluster(Box::new(error))
    }
}

/// What a store that cannot be used means. A local one is opened before, so this one is behind an address: it does not let
/// this broker in, or it is the wrong one.
fn store_kind(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::Refused { .. } | StoreError::Inconsistent { .. } => ErrorKind::Configuration,
        StoreError::Fenced { .. } => ErrorKind::InUse,
        StoreError::Unavailable { .. } | StoreError::Failed { .. } => ErrorKind::Failed,
    }
}

/// A data directory that is open.
#[derive(Debug)]
pub struct OpenData {
    /// The end of the log; for the committer.
    pub writer: Writer,
    /// What is read from.
    pub tail: Tail,
    /// Writes the index.
    pub indexer: Indexer,
    /// Keeps the ids.
    pub checkpointer: Checkpointer,
    /// Position of the checkpoint that was found.
    pub checkpointed: Sequence,
    /// Its size in bytes, with that of the keys.
    pub checkpoint_bytes: u64,
    /// What the start had to do.
    pub recovered: Recovered,
    /// What of a cluster this node owns; None if it is alone.
    pub ownership: Option<Ownership>,
}

/// What a start had to do.
#[derive(Debug, Clone, Copy)]
pub struct Recovered {
    /// For this long.
    pub elapsed: Duration,
    /// Records behind the checkpoints that were read: none after an orderly stop.
    pub records: u64,
    /// Bytes of a frame that was being written when the broker ended.
    pub torn_bytes: u64,
}

/// The log with its views.
#[derive(Debug)]
pub struct Tail {
    /// The log.
    pub log: Log,
    /// All ids.
    pub subjects: Arc<SubjectTable>,
    /// The idempotency keys that are known.
    pub keys: Keys,
    /// The history.
    pub store: Arc<dyn Store>,
    /// Where it is.
    pub projected: Projected,
    /// What the store did not take.
    pub letters: DeadLetters,
    /// Where each message of the log is.
    pub index: Index,
}

/// Bytes of a frame under these settings.
pub fn frame_bytes_max(settings: &Settings) -> usize {
    let record = RECORD_PREFIX_BYTES + RECORD_HEAD_BYTES_MAX + settings.limits.body_bytes;
    let share = usize::try_from(settings.log.segment_bytes / FRAMES_PER_SEGMENT).unwrap_or(usize::MAX);
    FRAME_BYTES.min(share).max(record)
}

/// Opens the data directory.
///
/// # Errors
/// [`OpenDataError`]. Whatever contradicts itself is an error, never repaired.
pub async fn open(settings: &Settings) -> Result<OpenData, OpenDataError> {
    let started = Instant::now();
    let files: Arc<dyn FileSystem> = Arc::new(DiskFileSystem);
    let claim = claim(settings, &files)?;
    for path in [settings.log_dir(), settings.ids_dir(), settings.index_dir()] {
        files.create_dir_all(&path).map_err(|source| OpenDataError::Directory { path, source })?;
    }
    let subjects = Arc::new(SubjectTable::new(settings.limits.subjects));
    let Opened { opened, checkpoint, store } = open_log_and_ids(settings, &files, &subjects)?;
    let log = opened.log;
    let checkpointed = checkpoint.map_or(Sequence::ZERO, |checkpoint| checkpoint.taken_at);
    if checkpointed < log.trimmed().sequence() {
        let (path, trimmed) = (settings.ids_dir(), log.trimmed());
        return Err(OpenDataError::IdsMissing { path, checkpoint: checkpointed, trimmed });
    }
    let layout = claim.as_ref().map(Claim::layout);
    let later = || store.unwrap_or_else(|| store::open(settings, layout, StoreOf::log(&log), Opening::Take));
    let (ids_dir, window) = (settings.ids_dir(), Window::new(window_config(settings)));
    let gives_ids = |subject: &[u8]| claim.as_ref().is_none_or(|claim| claim.gives_ids(subject));
    let replay = || replay::replay((&*files, &ids_dir), &log, &subjects, checkpointed, window, gives_ids);
    let (replayed, store) = beside(replay, later);
    let store = store?;
    let Replayed { keys, keys_bytes, records } = replayed?;
    // Before the store is told of the layout.
    let ownership = claim.map(|claim| prove(claim, &subjects)).transpose()?;
    let trimmed = log.trimmed();
    let projected = match store::first_contact(&*store).await? {
        Some(projected) if projected.sequence() < trimmed.sequence() => {
            return Err(OpenDataError::StoreBehind { store: store.kind(), projected, trimmed });
        }
        Some(projected) => projected,
        // It has at least what the log no longer holds, or the projector ends the broker.
        None => Projected(trimmed.sequence()),
    };
    let letters = DeadLetters::open(Arc::clone(&files), settings.dead_letters_dir(), LetterBounds::default())?;
    let (index, indexer) = Index::open(Arc::clone(&files), settings.index_dir(), log.clone())?;
    let checkpointer = Checkpointer::new(files, settings.ids_dir(), log.log_id());
    let torn_bytes = opened.recovery.torn_tail.as_ref().map_or(0, |torn| torn.bytes);
    let recovered = Recovered { elapsed: started.elapsed(), records, torn_bytes };
    report(&opened.recovery, checkpoint, (&subjects, &keys), projected, recovered);
    Ok(OpenData {
        writer: opened.writer,
        tail: Tail { log, subjects, keys, store, projected, letters, index },
        indexer,
        checkpointer,
        checkpointed,
        recovered,
        ownership,
        checkpoint_bytes: checkpoint.map_or(0, |checkpoint| checkpoint.bytes) + keys_bytes,
    })
}

/// Opens the store of a data directory whose broker is stopped, as the broker would.
///
/// # Errors
/// [`OpenDataError`] if a local one does not open, the settings of a remote one do not read, or the layout does not fit.
pub fn open_store(settings: &Settings, of: StoreOf, opening: Opening) -> Result<Arc<dyn Store>, OpenDataError> {
    let files: Arc<dyn FileSystem> = Arc::new(DiskFileSystem);
    let claim = claim(settings, &files)?;
    store::open(settings, claim.as_ref().map(Claim::layout), of, opening)
}

/// The slots that a node owns by the layout in its data directory; None if it is alone and owns all.
///
/// # Errors
/// [`OpenDataError`] if the layout does not read, or is another one than that of the settings.
pub fn owned_slots(settings: &Settings) -> Result<Option<SlotSet>, OpenDataError> {
    let files: Arc<dyn FileSystem> = Arc::new(DiskFileSystem);
    Ok(claim(settings, &files)?.as_ref().map(Claim::slots))
}

/// What this node claims of the cluster; None if it is alone. Refused before anything of the data directory is touched.
fn claim(settings: &Settings, files: &Arc<dyn FileSystem>) -> Result<Option<Claim>, ClaimError> {
    let (cluster, directory) = (&settings.cluster, settings.cluster_dir());
    let Some(node) = &cluster.node else {
        Claim::none(&**files, &directory)?;
        return Ok(None);
    };
    let layout = store::layout(settings)?;
    Claim::new(Arc::clone(files), directory, node, layout).map(Some)
}

/// Every subject that ever had a message has a mark, those of the log included, so the marks prove the claim.
fn prove(claim: Claim, subjects: &SubjectTable) -> Result<Ownership, ClaimError> {
    claim.prove(|visit| {
        let all = subjects.for_each(|name, _| {
            visit(name);
            Ok::<(), std::convert::Infallible>(())
        });
        match all {
            Ok(()) => {}
            Err(never) => match never {},
        }
    })
}

/// Does both at once: a start waits for the longer one only.
fn beside<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other)
    })
}

/// What is opened together.
struct Opened {
    opened: wal::Opened,
    checkpoint: Option<Checkpoint>,
    /// None if nothing asked for it yet.
    store: Option<Result<Arc<dyn Store>, OpenDataError>>,
}

/// Opens the log, and restores the checkpoint of the ids meanwhile. Both the checkpoint and a local store know of records
/// that were durable: a log that ends before them is refused untouched.
fn open_log_and_ids(
    settings: &Settings,
    files: &Arc<dyn FileSystem>,
    subjects: &SubjectTable,
) -> Result<Opened, OpenDataError> {
    let ids_dir = settings.ids_dir();
    let peek = || Checkpointer::peek(&**files, &ids_dir);
    let durable_at_least = Checkpointer::durable_at_least(&**files, &ids_dir)?;
    let restore = || Checkpointer::restore(&**files, &ids_dir, subjects);
    let mut store = None;
    let known_to_the_store = |log_id| {
        if settings.store.kind != StoreKind::Embedded {
            return Sequence::ZERO;
        }
        let of = StoreOf { log_id, epoch: 0, durable: Durable::default() };
        // Its own alone: it asks nobody who owns what.
        let opened = store.insert(store::open(settings, None, of, Opening::Take));
        // A local store knows at once. An error is told once the log is open.
        let projected = opened.as_ref().ok().and_then(|store| store.projected().now_or_never());
        projected.and_then(Result::ok).unwrap_or_default().sequence()
    };
    let options = log_options(settings, durable_at_least);
    let (mut checkpoint, opened) = beside(restore, || wal::open_beside(Arc::clone(files), options, known_to_the_store));
    // The log first: whether the directory is another process's decides about everything else.
    let opened = opened?;
    // Read before the directory was ours: its last owner may have replaced it as it ended.
    let now = peek()?;
    if checkpoint.as_ref().is_ok_and(|found| found.map(|found| found.taken_at) != now) {
        checkpoint = restore();
    }
    let checkpoint = checkpoint?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.belongs_to(opened.log.log_id(), &ids_dir)?;
    }
    Ok(Opened { opened, checkpoint, store })
}

fn log_options(settings: &Settings, durable_at_least: Sequence) -> wal::Options {
    wal::Options {
        segment_bytes: settings.log.segment_bytes,
        max_bytes: settings.log.max_bytes,
        reserve_bytes: settings.log.reserve_bytes,
        keep_bytes: settings.log.keep_bytes,
        keep_for: settings.log.keep_for,
        verify_for: settings.log.verify_for,
        frame_bytes_max: frame_bytes_max(settings),
        durable_at_least,
        ..wal::Options::new(settings.log_dir())
    }
}

fn report(
    recovery: &Recovery,
    checkpoint: Option<Checkpoint>,
    (subjects, keys): (&SubjectTable, &Keys),
    projected: Projected,
    recovered: Recovered,
) {
    tracing::info!(
        log_id = %recovery.log_id,
        epoch = recovery.epoch,
        durable = recovery.durable.sequence().get(),
        trimmed = recovery.trimmed.sequence().get(),
        projected = projected.sequence().get(),
        checkpoint = checkpoint.map_or(0, |checkpoint| checkpoint.taken_at.get()),
        subjects = subjects.len(),
        idempotency_keys = keys.held(),
        bytes_checked = recovery.bytes_checked,
        records_read = recovered.records,
        elapsed_ms = recovered.elapsed.as_millis() as u64,
        "opened the data directory"
    );
}

fn window_config(settings: &Settings) -> WindowConfig {
    let limits = &settings.limits;
    WindowConfig { keep_for: limits.idempotency_window, keys_max: limits.idempotency_keys }
}

/// Ingest's settings.
pub fn ingest_config(settings: &Settings) -> ingest::Config {
    ingest::Config {
        in_flight_bytes: settings.limits.in_flight_bytes,
        in_flight_publishes: settings.limits.in_flight_publishes,
        admission_wait: settings.limits.admission_wait,
        frame_bytes_max: frame_bytes_max(settings),
    }
}

#[cfg(test)]
mod tests;
