//! A look at a log's directory, without its lock: for tools beside a running broker or a stopped one. It only reads, but
//! for [`Inspection::make_end_durable`].

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::event::Sequence;

use super::error::{DamageReason, VerifyError};
use super::file_system::FileSystem;
use super::format::LogId;
use super::frame::Frame;
use super::recovery::{self, Tail, VERIFY_READ_BYTES, io_error};
use super::scan::{ScanError, SegmentScan};
use super::segments::{Segment, SegmentInfo, SegmentState};

/// How often the directory is listed anew when a running broker trims it meanwhile; each needs a trim in between.
const LIST_ATTEMPTS_MAX: usize = 8;
/// Threads that verify: reading and checksums of one segment overlap with those of another.
const VERIFY_THREADS: usize = 2;

/// The segments of a log as they were when it was looked at. Later frames of the newest segment are seen by a
/// [`Scanner`], later segments are not.
#[derive(Debug)]
pub struct Inspection {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    segments: Vec<Segment>,
    /// Of the newest one.
    tail: Option<Tail>,
}

/// What [`Inspection::verify`] has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Segments read to their end.
    pub segments: usize,
    /// Segments that a running broker trimmed meanwhile.
    pub trimmed_meanwhile: usize,
    /// Records found valid.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes of a torn write at the very end; 0 in an orderly log.
    pub torn_bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Looks at the log in `dir`; writes nothing, locks nothing. Reads the newest segment to find its end.
///
/// # Errors
/// [`VerifyError`] if the directory cannot be read, or a header or the newest segment is damaged.
pub fn inspect(fs: Arc<dyn FileSystem>, dir: &Path) -> Result<Inspection, VerifyError> {
    let names = || recovery::list(&*fs, dir).map(|listing| listing.segments).unwrap_or_default();
    for _ in 1..LIST_ATTEMPTS_MAX {
        let before = names();
        match look(&*fs, dir) {
            Ok((segments, tail)) => return Ok(Inspection { fs, dir: dir.to_owned(), segments, tail }),
            Err(error) if names() == before => return Err(error),
            // A running broker trimmed or rotated meanwhile.
            Err(_) => {}
        }
    }
    let (segments, tail) = look(&*fs, dir)?;
    Ok(Inspection { fs, dir: dir.to_owned(), segments, tail })
}

fn look(fs: &dyn FileSystem, dir: &Path) -> Result<(Vec<Segment>, Option<Tail>), VerifyError> {
    let listing = recovery::list(fs, dir)?;
    let mut segments = recovery::chain(fs, dir, &listing)?;
    let Some(newest) = segments.last_mut() else { return Ok((segments, None)) };
    let tail = recovery::tail(fs, newest)?;
    newest.last = tail.last;
    newest.end = Some(tail.end);
    Ok((segments, Some(tail)))
}

impl Inspection {
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log's identity; None if there is no segment.
    pub fn log_id(&self) -> Option<LogId> {
        self.segments.last().map(|newest| newest.header.log_id)
    }

    /// How often the log was opened when its newest segment was begun; zero if there is no segment.
    pub fn epoch(&self) -> u64 {
        self.segments.last().map_or(0, |newest| newest.header.epoch)
    }

    /// The last record found; zero if there is none.
    pub fn last(&self) -> Sequence {
        self.segments.last().map_or(Sequence::ZERO, |newest| newest.last)
    }

    /// The segments, oldest first. The newest counts as active, whether or not a broker is running.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let newest = self.segments.len().saturating_sub(1);
        let state_of = |index| if index == newest { SegmentState::Active } else { SegmentState::Closed };
        self.segments.iter().enumerate().map(|(index, segment)| segment.info(state_of(index))).collect()
    }

    /// Makes durable what was found: the last frame may be in the page cache only, if its writer was killed before the
    /// sync or the sync failed. For whoever puts records elsewhere that must not be ahead of the log; the caller holds
    /// the log's lock. A torn write behind the end is left to the next opening.
    ///
    /// # Errors
    /// [`VerifyError::Io`]: nothing may be assumed of the last frame then.
    pub fn make_end_durable(&self) -> Result<(), VerifyError> {
        let (Some(newest), Some(tail)) = (self.segments.last(), &self.tail) else { return Ok(()) };
        let made = self.fs.open_for_writing(&newest.path).and_then(|file| {
            recovery::rewrite_last_frame(&*file, tail)?;
            file.sync_data()
        });
        made.map_err(|source| io_error("make durable the end of", &newest.path, source))
    }

    /// All valid frames with records after `after`, in order. Starts at the oldest record if `after` is before it.
    pub fn scanner(&self, after: Sequence) -> Scanner {
        let segments = self.segments.iter().enumerate();
        let newest = self.segments.len().saturating_sub(1);
        let wanted = segments.filter(|(index, segment)| *index == newest || segment.last > after);
        Scanner {
            fs: Arc::clone(&self.fs),
            segments: wanted.map(|(_, segment)| segment.clone()).collect(),
            position: after,
            scan: None,
        }
    }

    /// Reads every byte of every segment, several segments at once.
    ///
    /// # Errors
    /// [`VerifyError`] for the first damage found, oldest segment first. Segments that are trimmed meanwhile do not count.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<Verified, VerifyError> {
        self.verify_with(&|_, _| (), progress)
    }

    /// As [`Self::verify`]; `each` gets every valid frame with its segment's file, in no order, from several threads.
    ///
    /// # Errors
    /// [`VerifyError`], as [`Self::verify`].
    pub fn verify_with(
        &self,
        each: &(dyn Fn(&Path, &Frame) + Sync),
        progress: &mut dyn FnMut(u64),
    ) -> Result<Verified, VerifyError> {
        let started = Instant::now();
        let mut verified = Verified {
            segments: 0,
            trimmed_meanwhile: 0,
            records: 0,
            bytes: 0,
            torn_bytes: 0,
            elapsed: Duration::ZERO,
        };
        let next = AtomicUsize::new(0);
        let (sender, outcomes) = mpsc::channel();
        let work = |sender: mpsc::Sender<_>| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.segments.len() {
                    return;
                }
                let outcome = self.verify_segment(index, each);
                if outcome.is_err() {
                    // Older ones are still under way; newer ones are not begun.
                    next.store(self.segments.len(), Ordering::Relaxed);
                }
                if sender.send((index, outcome)).is_err() {
                    return;
                }
            }
        };
        let mut damaged: Option<(usize, VerifyError)> = None;
        thread::scope(|scope| {
            for _ in 0..VERIFY_THREADS.min(self.segments.len()) {
                let sender = sender.clone();
                scope.spawn(|| work(sender));
            }
            drop(sender);
            for (index, outcome) in outcomes {
                match outcome {
                    Ok(Some(checked)) => {
                        verified.segments += 1;
                        verified.bytes += checked.bytes;
                        verified.records += checked.records;
                        verified.torn_bytes += checked.torn_bytes;
                    }
                    Ok(None) => verified.trimmed_meanwhile += 1,
                    Err(error) if damaged.as_ref().is_none_or(|(first, _)| index < *first) => {
                        damaged = Some((index, error));
                    }
                    Err(_) => {}
                }
                progress(verified.bytes);
            }
        });
        verified.elapsed = started.elapsed();
        damaged.map_or(Ok(verified), |(_, error)| Err(error))
    }

    /// What a segment holds; None if it was trimmed meanwhile.
    fn verify_segment(&self, index: usize, each: &dyn Fn(&Path, &Frame)) -> Result<Option<Checked>, VerifyError> {
        let segment = &self.segments[index];
        let each = |frame: &Frame| each(&segment.path, frame);
        let checked = if index + 1 == self.segments.len() {
            recovery::tail_with(&*self.fs, segment, &each).map(|tail| Checked {
                bytes: segment.bytes,
                records: tail.last.next().get() - segment.header.first.get(),
                torn_bytes: tail.torn_bytes,
            })
        } else {
            let checked = recovery::verify_closed_with(&*self.fs, segment, &each);
            checked.map(|bytes| Checked { bytes, records: segment.records(), torn_bytes: 0 })
        };
        match checked {
            Ok(checked) => Ok(Some(checked)),
            Err(_) if is_gone(&*self.fs, segment) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What was found in one segment.
struct Checked {
    bytes: u64,
    records: u64,
    torn_bytes: u64,
}

/// Whether the file was trimmed, and perhaps used again, since it was looked at.
fn is_gone(fs: &dyn FileSystem, segment: &Segment) -> bool {
    match recovery::read_header(fs, &segment.path) {
        Ok(header) => header != segment.header,
        Err(VerifyError::Io { source, .. }) => source.kind() == io::ErrorKind::NotFound,
        Err(_) => false,
    }
}

/// Reads the frames of an [`Inspection`] in order.
#[derive(Debug)]
pub struct Scanner {
    fs: Arc<dyn FileSystem>,
    /// Still to be read; the first is the one that `scan` is in.
    segments: VecDeque<Segment>,
    position: Sequence,
    scan: Option<SegmentScan>,
}

impl Scanner {
    /// The next frame, or None at the end. The end of the newest segment is where no valid frame follows, torn or not.
    ///
    /// # Errors
    /// [`VerifyError`]; there is no way on from it.
    #[expect(clippy::should_implement_trait, reason = "None is not final, and errors stop the caller")]
    pub fn next(&mut self) -> Result<Option<Frame>, VerifyError> {
        while let Some(segment) = self.segments.front() {
            let newest = self.segments.len() == 1;
            let scan = match &mut self.scan {
                Some(scan) => scan,
                None => {
                    let file = self.fs.open(&segment.path).map_err(|source| match source.kind() {
                        io::ErrorKind::NotFound => VerifyError::Trimmed { file: segment.path.clone() },
                        _ => io_error("open", &segment.path, source),
                    })?;
                    let scan = SegmentScan::new(&segment.path, file, &segment.header, segment.bytes, VERIFY_READ_BYTES);
                    self.scan.insert(scan)
                }
            };
            if !newest && scan.next_sequence() > segment.last {
                self.segments.pop_front();
                self.scan = None;
                continue;
            }
            match scan.next_frame() {
                Ok(frame) if frame.last() > self.position => {
                    let frame = frame.after(self.position);
                    self.position = frame.last();
                    return Ok(Some(frame));
                }
                Ok(_before) => {}
                Err(ScanError::Fault(DamageReason::Frame { .. })) if newest => {
                    // Later calls see what is written later.
                    scan.forget_read_ahead();
                    return Ok(None);
                }
                Err(_) if is_gone(&*self.fs, segment) => {
                    return Err(VerifyError::Trimmed { file: segment.path.clone() });
                }
                Err(ScanError::Io(source)) => return Err(io_error("read", &segment.path, source)),
                Err(ScanError::Fault(reason)) => return Err(scan.damage(reason).into()),
            }
        }
        Ok(None)
    }
}
