//! Opening a log: recovery, then a new segment.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::event::{Durable, Sequence, Trimmed};

use super::error::{OpenError, RoomError, VerifyError};
use super::file_system::{FileSystem, LockError};
use super::format::{LogId, making_name, spare_name};
use super::log::Log;
use super::options::{Options, Preparation};
use super::prepare;
use super::recovery::{self, Listing, Tail};
use super::segments::Segment;
use super::shared::{Shared, Spare, State};
use super::writer::{Active, Writer};

/// Bytes of closed segments that are read and checked at every opening, newest first: what a disk of 1 GB/s delivers
/// in the two seconds that a start may take. What is older is left to [`Log::verify_next`], and every frame is checked
/// again whenever it is read.
const VERIFY_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Threads that check: reading and checksums of one segment overlap with those of another.
const VERIFY_THREADS: usize = 2;
/// Spares of an earlier run that are kept; see `retention`.
const SPARES_KEPT_MAX: usize = 2;

/// A log that is ready.
#[derive(Debug)]
pub struct Opened {
    /// Appends; there is one.
    pub writer: Writer,
    /// Reads, trims and tells positions.
    pub log: Log,
    /// What was found.
    pub recovery: Recovery,
}

/// What was found at opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The log's identity: random, made with its first segment.
    pub log_id: LogId,
    /// How many times it was opened, this time included.
    pub epoch: u64,
    /// The last record.
    pub durable: Durable,
    /// The last record that is no longer there.
    pub trimmed: Trimmed,
    /// Segments found.
    pub segments: usize,
    /// Bytes of them that were read and checked.
    pub bytes_checked: u64,
    /// What was cut off the end: a write that was under way, never acknowledged.
    pub torn_tail: Option<TornTail>,
    /// How long it took.
    pub elapsed: Duration,
}

/// A torn write at the end of the newest segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the torn frame starts, in bytes.
    pub offset: u64,
    /// How many bytes of it were found.
    pub bytes: u64,
}

/// Opens the log in [`Options::dir`]; makes a new one if the directory is empty.
///
/// Everything is checked before anything is changed. Then the newest segment is cut to its valid end, and a new one
/// is started: an empty newest segment is replaced, so that restarts do not use up the disk.
///
/// # Errors
/// [`OpenError`]; no segment was changed, except that an I/O error may come after the cut of a torn tail.
pub fn open(fs: Arc<dyn FileSystem>, options: Options) -> Result<Opened, OpenError> {
    open_beside(fs, options, |_| Sequence::ZERO)
}

/// As [`open`]; `known_durable` is asked, after the check and before anything is changed, up to where somebody else has
/// seen records of this log. A log that ends before is refused as it is: what looks like a torn write was none.
///
/// # Errors
/// [`OpenError`], as [`open`].
pub fn open_beside(
    fs: Arc<dyn FileSystem>,
    options: Options,
    known_durable: impl FnOnce(LogId) -> Sequence,
) -> Result<Opened, OpenError> {
    let started = Instant::now();
    options.validate()?;
    #[cfg(feature = "fault-controls")]
    let fs = super::fault_controls::around(fs)?;
    #[cfg(feature = "fault-controls")]
    super::crash_points::announce()?;
    let dir = options.dir.clone();
    fs.create_dir_all(&dir).map_err(OpenError::io("make the log directory", &dir))?;
    let lock_path = dir.join("LOCK");
    let lock = fs.lock(&lock_path).map_err(|error| match error {
        LockError::Held { holder } => OpenError::InUse { dir: dir.clone(), holder },
        LockError::Io(source) => OpenError::Io { operation: "lock", path: lock_path, source },
    })?;

    let listing = recovery::list(&*fs, &dir)?;
    let (found, made) = check_and_prepare(&*fs, &options, &listing)?;
    if let Some(newest) = found.segments.last() {
        refuse_lost(&options, found.last, known_durable(newest.header.log_id))?;
    }
    let mut spares = clean_up(&*fs, &dir, &listing, options.segment_bytes)?;
    spares.extend(made);
    let mut segments = VecDeque::from(found.segments);
    let segment_count = segments.len();
    let newest = segments.back().map(|newest| newest.header.clone());
    let (log_id, epoch) = match &newest {
        Some(header) => (header.log_id, header.epoch + 1),
        None => (LogId::from_bytes(random(&*fs, &dir)?), 1),
    };
    // The file of an empty newest segment stays until the new one takes its name: it may be the only one that knows
    // the log's identity and epoch.
    let previous_first = match segments.back_mut() {
        Some(newest) if newest.records() == 0 => {
            let previous_first = newest.header.previous_first;
            segments.pop_back();
            previous_first
        }
        Some(newest) => {
            if let Some(tail) = &found.tail {
                cut(&*fs, newest, tail).map_err(OpenError::io("cut the end of", &newest.path))?;
            }
            newest.header.first
        }
        None => Sequence::ZERO,
    };
    let next = found.last.next();
    let state = State {
        segments,
        spares,
        making: false,
        in_transit: 0,
        obstacle: None,
        stop: false,
        released: Sequence::ZERO,
        next_number: listing.last_number + 1,
    };
    let shared = Shared::new(fs, options, (log_id, epoch), state, lock);
    let active = start_first_segment(&shared, next, previous_first)?;
    let shared = Arc::new(shared);
    let preparer = match shared.options.preparation {
        Preparation::Background => Some(start_preparer(&shared, &dir)?),
        Preparation::Inline => None,
    };
    let recovery = Recovery {
        log_id,
        epoch,
        durable: shared.durable(),
        trimmed: shared.trimmed(),
        segments: segment_count,
        bytes_checked: found.bytes_checked,
        torn_tail: found.torn_tail,
        elapsed: started.elapsed(),
    };
    tell(&recovery, &dir);
    Ok(Opened { writer: Writer::new(Arc::clone(&shared), active, preparer), log: Log::new(shared), recovery })
}

struct Found {
    segments: Vec<Segment>,
    tail: Option<Tail>,
    last: Sequence,
    bytes_checked: u64,
    torn_tail: Option<TornTail>,
}

/// Checks everything. If no spare of an earlier run is there, one is made meanwhile: filling it takes as long as reading
/// several segments. It is removed again when the check fails.
fn check_and_prepare(
    fs: &dyn FileSystem,
    options: &Options,
    listing: &Listing,
) -> Result<(Found, Option<Spare>), OpenError> {
    let number = listing.last_number + 1;
    let make = |stopped: &dyn Fn() -> bool| {
        let making = options.dir.join(making_name(number));
        // Without the reserve: a log on a full disk must open, or it could never be drained.
        prepare::make_spare(fs, options, 0, number, stopped).map_err(OpenError::io("prepare a segment in", &making))
    };
    if listing.spares.iter().any(|(_, _, bytes)| *bytes == options.segment_bytes) {
        return Ok((check(fs, options, listing)?, None));
    }
    if options.preparation == Preparation::Inline {
        return Ok((check(fs, options, listing)?, make(&|| false)?));
    }
    let stop = AtomicBool::new(false);
    let (found, made) = thread::scope(|scope| {
        let making = scope.spawn(|| make(&|| stop.load(Ordering::Relaxed)));
        let found = check(fs, options, listing);
        stop.store(found.is_err(), Ordering::Relaxed);
        (found, making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    match (found, made) {
        (Ok(found), made) => Ok((found, made?)),
        (Err(error), made) => {
            if let Ok(Some(spare)) = made {
                // The next start uses it if it cannot be removed.
                drop(fs.remove(&spare.path));
            }
            Err(error)
        }
    }
}

/// Checks everything and changes nothing.
fn check(fs: &dyn FileSystem, options: &Options, listing: &Listing) -> Result<Found, OpenError> {
    let mut segments = recovery::chain(fs, &options.dir, listing)?;
    let threads = match options.preparation {
        Preparation::Background => VERIFY_THREADS,
        Preparation::Inline => 1,
    };
    let mut tail = None;
    let mut bytes_checked = 0;
    let mut torn_tail = None;
    let mut last = Sequence::ZERO;
    if let Some((newest, closed)) = segments.split_last_mut() {
        let mut budget = VERIFY_BYTES_MAX;
        let checked = closed.iter().rev().take_while(|segment| {
            let within = segment.bytes <= budget;
            budget = budget.saturating_sub(segment.bytes);
            within
        });
        let unchecked = closed.len() - checked.count();
        let started = Instant::now();
        let end = recovery::tail(fs, newest)?;
        let enough = || started.elapsed() >= options.verify_for;
        bytes_checked += newest.bytes + recovery::verify_all(fs, &mut closed[unchecked..], threads, &enough)?;
        if end.torn_bytes > 0 {
            torn_tail = Some(TornTail { file: newest.path.clone(), offset: end.end, bytes: end.torn_bytes });
        }
        newest.last = end.last;
        newest.end = Some(end.end);
        last = end.last;
        tail = Some(end);
    }
    refuse_lost(options, last, options.durable_at_least)?;
    Ok(Found { segments, tail, last, bytes_checked, torn_tail })
}

fn refuse_lost(options: &Options, last: Sequence, durable_at_least: Sequence) -> Result<(), OpenError> {
    if last >= durable_at_least {
        return Ok(());
    }
    Err(OpenError::Lost { dir: options.dir.clone(), found: Durable(last), durable_at_least })
}

/// Removes half-made spares and those that cannot be used; returns the others.
fn clean_up(fs: &dyn FileSystem, dir: &Path, listing: &Listing, segment_bytes: u64) -> Result<Vec<Spare>, OpenError> {
    let mut spares = Vec::new();
    let mut useless: Vec<PathBuf> = listing.half_made.iter().map(|name| dir.join(name)).collect();
    for (number, reused, bytes) in &listing.spares {
        let path = dir.join(spare_name(*number, *reused));
        if *bytes == segment_bytes && spares.len() < SPARES_KEPT_MAX {
            spares.push(Spare { path, reused: *reused });
        } else {
            useless.push(path);
        }
    }
    for path in useless {
        fs.remove(&path).map_err(OpenError::io("remove the unused file", &path))?;
    }
    Ok(spares)
}

/// Ends a recovered segment where its last valid frame ends, durably.
fn cut(fs: &dyn FileSystem, newest: &mut Segment, tail: &Tail) -> io::Result<()> {
    let file = fs.open_for_writing(&newest.path)?;
    recovery::rewrite_last_frame(&*file, tail)?;
    file.set_len(tail.end)?;
    file.sync_data()?;
    newest.bytes = tail.end;
    Ok(())
}

fn random(fs: &dyn FileSystem, dir: &Path) -> Result<[u8; 16], OpenError> {
    let mut bytes = [0; 16];
    fs.random(&mut bytes).map_err(OpenError::io("get random bytes for the log in", dir))?;
    Ok(bytes)
}

/// There is a spare by now. The limit of the log's size does not count here: a full log must open, or it could never be drained.
fn start_first_segment(shared: &Shared, first: Sequence, previous_first: Sequence) -> Result<Active, OpenError> {
    let spare = shared.state.lock().spares.pop().ok_or_else(|| OpenError::Io {
        operation: "prepare a segment in",
        path: shared.options.dir.clone(),
        source: io::Error::from(io::ErrorKind::Interrupted),
    })?;
    let path = spare.path.clone();
    let (active, segment) = Active::start(shared, spare, first, previous_first).map_err(|error| match error {
        RoomError::Failed(failed) => OpenError::Io {
            operation: failed.operation,
            path: failed.file.clone(),
            source: io::Error::new(failed.source.kind(), failed.source.to_string()),
        },
        other => OpenError::Io { operation: "open", path, source: io::Error::other(other.to_string()) },
    })?;
    shared.start_with(segment);
    Ok(active)
}

fn start_preparer(shared: &Arc<Shared>, dir: &Path) -> Result<thread::JoinHandle<()>, OpenError> {
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name("wal-prepare".to_owned())
        .spawn(move || prepare::run(&shared))
        .map_err(OpenError::io("start the preparing thread for", dir))
}

fn tell(recovery: &Recovery, dir: &Path) {
    if let Some(torn) = &recovery.torn_tail {
        let file = torn.file.display();
        tracing::info!(%file, offset = torn.offset, bytes = torn.bytes, "torn write cut off, it was never acknowledged");
    }
    tracing::info!(
        dir = %dir.display(), log_id = %recovery.log_id, epoch = recovery.epoch, durable = recovery.durable.sequence().get(),
        trimmed = recovery.trimmed.sequence().get(), segments = recovery.segments, bytes_checked = recovery.bytes_checked,
        elapsed_ms = recovery.elapsed.as_millis() as u64, "log opened"
    );
}

impl From<VerifyError> for OpenError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Damaged(damage) => Self::Damaged(damage),
            VerifyError::Io { operation, path, source } => Self::Io { operation, path, source },
            VerifyError::Trimmed { file } => {
                Self::Io { operation: "read", path: file, source: io::Error::from(io::ErrorKind::NotFound) }
            }
        }
    }
}
