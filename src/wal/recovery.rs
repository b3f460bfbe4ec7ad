//! Reading a directory as it was left: which segments there are, and where the newest one ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use memchr::memmem;
use parking_lot::Mutex;

use crate::event::Sequence;

use super::error::{Damage, DamageReason, VerifyError};
use super::file_system::{FileSystem, LogFile, read_full};
use super::format::{
    FORMAT_VERSION, FRAME_HEADER_BYTES, FileName, SEGMENT_HEADER_BYTES, Salted, SegmentHeader, SegmentHeaderError,
};
use super::frame::Frame;
use super::scan::{ScanError, SegmentScan};
use super::segments::Segment;

/// Bytes read at once while verifying: large enough for the disk's full rate, small beside the memory of a process.
pub(super) const VERIFY_READ_BYTES: usize = 4 * 1024 * 1024;

/// The files of a log's directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// First sequence by name and length in bytes, oldest first.
    pub segments: Vec<(Sequence, u64)>,
    /// Spares: number, reused, length.
    pub spares: Vec<(u64, bool, u64)>,
    /// Names of half-made spares.
    pub half_made: Vec<String>,
    /// The highest number of any spare.
    pub last_number: u64,
}

pub(super) fn list(fs: &dyn FileSystem, dir: &Path) -> Result<Listing, VerifyError> {
    let entries = fs.list(dir).map_err(|source| io_error("list", dir, source))?;
    let mut listing = Listing::default();
    for entry in entries {
        match FileName::parse(&entry.name) {
            FileName::Segment(first) => listing.segments.push((first, entry.bytes)),
            FileName::Misnamed => {
                return Err(Damage { file: dir.join(entry.name), offset: 0, reason: DamageReason::Name }.into());
            }
            FileName::Spare { number, reused } => {
                listing.last_number = listing.last_number.max(number);
                listing.spares.push((number, reused, entry.bytes));
            }
            FileName::Making { number } => {
                listing.last_number = listing.last_number.max(number);
                listing.half_made.push(entry.name);
            }
            FileName::Other => {}
        }
    }
    listing.segments.sort_unstable();
    Ok(listing)
}

/// Reads all headers and checks the chain: one log, no segment missing, doubled or renamed. Ends of closed
/// segments follow from their successors; the newest is left as empty.
pub(super) fn chain(fs: &dyn FileSystem, dir: &Path, listing: &Listing) -> Result<Vec<Segment>, VerifyError> {
    let mut segments: Vec<Segment> = Vec::with_capacity(listing.segments.len());
    for (first, bytes) in &listing.segments {
        let path = dir.join(super::format::segment_name(*first));
        let header = read_header(fs, &path)?;
        let damaged = |reason| Err(VerifyError::from(Damage { file: path.clone(), offset: 0, reason }));
        if header.first != *first {
            return damaged(DamageReason::Doubled { first: header.first });
        }
        if let Some(previous) = segments.last_mut() {
            if header.log_id != previous.header.log_id {
                return damaged(DamageReason::Foreign { found: header.log_id, expected: previous.header.log_id });
            }
            if header.previous_first != previous.header.first {
                return damaged(DamageReason::MissingBefore { expected: header.previous_first });
            }
            if header.epoch < previous.header.epoch {
                return damaged(DamageReason::Epoch { found: header.epoch, previous: previous.header.epoch });
            }
            previous.last = header.first.previous();
            previous.end = None;
            previous.verified = false;
        }
        segments.push(Segment::empty(dir, header, *bytes));
    }
    Ok(segments)
}

pub(super) fn read_header(fs: &dyn FileSystem, path: &Path) -> Result<SegmentHeader, VerifyError> {
    let file = fs.open(path).map_err(|source| io_error("open", path, source))?;
    let mut block = [0; SEGMENT_HEADER_BYTES as usize];
    let read = read_full(&*file, &mut block, 0).map_err(|source| io_error("read", path, source))?;
    let reason = if read < block.len() {
        DamageReason::HalfMade { bytes: read as u64 }
    } else {
        match SegmentHeader::decode(&block) {
            Ok(header) => return Ok(header),
            Err(SegmentHeaderError::Magic) => DamageReason::NotASegment,
            Err(SegmentHeaderError::Checksum) => DamageReason::Header,
            Err(SegmentHeaderError::Version(version)) => DamageReason::NewerVersion { version, known: FORMAT_VERSION },
        }
    };
    Err(Damage { file: path.to_owned(), offset: 0, reason }.into())
}

/// Where the newest segment ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    /// The last valid record, the one before the first if there is none.
    pub last: Sequence,
    /// Where its frame ends.
    pub end: u64,
    /// Where its frame starts, if there is one.
    pub last_frame: Option<u64>,
    /// Bytes of a torn frame behind the end; 0 if the end is clean.
    pub torn_bytes: u64,
}

/// Reads the newest segment to its end, every byte of it.
pub(super) fn tail(fs: &dyn FileSystem, segment: &Segment) -> Result<Tail, VerifyError> {
    tail_with(fs, segment, &|_| ())
}

/// As [`tail`]; `each` gets every valid frame.
pub(super) fn tail_with(fs: &dyn FileSystem, segment: &Segment, each: &dyn Fn(&Frame)) -> Result<Tail, VerifyError> {
    let path = &segment.path;
    let file = fs.open(path).map_err(|source| io_error("open", path, source))?;
    let mut scan = SegmentScan::new(path, Arc::clone(&file), &segment.header, segment.bytes, VERIFY_READ_BYTES);
    let mut last_frame = None;
    let mut broken_inside = None;
    loop {
        let offset = scan.offset();
        let reason = match scan.next_frame() {
            Ok(frame) => {
                each(&frame);
                last_frame = Some(offset);
                continue;
            }
            Err(ScanError::Io(source)) => return Err(io_error("read", path, source)),
            Err(ScanError::Fault(reason)) => reason,
        };
        let DamageReason::Frame { expected } = reason else { return Err(scan.damage(reason).into()) };
        if let Some((at, damage)) = broken_inside.take()
            && at == offset
        {
            return Err(scan.damage(damage).into());
        }
        let rest = search_rest(&*file, &segment.header, offset, segment.bytes)
            .map_err(|source| io_error("read", path, source))?;
        let Some((later_offset, later)) = rest.later_frame else {
            return Ok(Tail { last: expected.previous(), end: offset, last_frame, torn_bytes: rest.torn_bytes });
        };
        // Beside a running broker both may have been written since the first was looked for; look once more.
        broken_inside = Some((offset, DamageReason::BrokenInside { expected, later, later_offset }));
        scan.forget_read_ahead();
    }
}

/// Writes the last frame once more, so that the next sync reaches it: after a failed fdatasync it may be in the page
/// cache, marked as written, and not on the disk. No frame before it can be, because nothing is written after a failure.
pub(super) fn rewrite_last_frame(file: &dyn LogFile, tail: &Tail) -> std::io::Result<()> {
    let Some(start) = tail.last_frame else { return Ok(()) };
    let mut frame = vec![0; usize::try_from(tail.end - start).unwrap_or(0)];
    if read_full(file, &mut frame, start)? < frame.len() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    file.write_all_at(&frame, start)
}

struct Rest {
    /// Offset and first sequence of a valid frame header behind the end.
    later_frame: Option<(u64, Sequence)>,
    torn_bytes: u64,
}

/// Looks at what follows the last valid frame.
///
/// The header alone is proof enough of a later frame: it was written after the one that is missing here had
/// become durable. Its payload may itself be torn.
fn search_rest(file: &dyn LogFile, header: &SegmentHeader, end: u64, length: u64) -> std::io::Result<Rest> {
    let salted = Salted::new(&header.salt);
    let start_of_frame = salted.start_of_frame();
    let finder = memmem::Finder::new(&start_of_frame);
    let mut later_frame = None;
    let mut last_nonzero = end;
    let mut torn_header_bytes = 0;
    let mut buffer = vec![0; VERIFY_READ_BYTES];
    let mut offset = end;
    while offset < length && later_frame.is_none() {
        let wanted = buffer.len().min(usize::try_from(length - offset).unwrap_or(usize::MAX));
        let read = read_full(file, &mut buffer[..wanted], offset)?;
        let chunk = &buffer[..read];
        if offset == end && chunk.starts_with(&start_of_frame) {
            let declared = salted.header(chunk).map_or(FRAME_HEADER_BYTES, |torn| torn.frame_bytes());
            torn_header_bytes = (declared as u64).min(length - end);
        }
        later_frame = finder
            .find_iter(chunk)
            .map(|at| (offset + at as u64, salted.header(&chunk[at..])))
            .find_map(|(at, found)| found.filter(|_| at > end).map(|found| (at, found.first)));
        if let Some(at) = chunk.iter().rposition(|byte| *byte != 0) {
            last_nonzero = offset + at as u64 + 1;
        }
        if read < wanted || offset + read as u64 >= length {
            break;
        }
        // A header may lie across two reads.
        offset += (read - (FRAME_HEADER_BYTES - 1).min(read - 1)) as u64;
    }
    // In a file that was used before, what follows the end without a frame's start are old bytes.
    let torn_bytes = if header.reused { torn_header_bytes } else { last_nonzero - end };
    Ok(Rest { later_frame, torn_bytes: torn_bytes.max(torn_header_bytes) })
}

/// Reads every frame of a closed segment. Returns the bytes checked.
pub(super) fn verify_closed(fs: &dyn FileSystem, segment: &Segment) -> Result<u64, VerifyError> {
    verify_closed_with(fs, segment, &|_| ())
}

/// As [`verify_closed`]; `each` gets every valid frame.
pub(super) fn verify_closed_with(
    fs: &dyn FileSystem,
    segment: &Segment,
    each: &dyn Fn(&Frame),
) -> Result<u64, VerifyError> {
    let path = &segment.path;
    let file = fs.open(path).map_err(|source| io_error("open", path, source))?;
    let mut scan = SegmentScan::new(path, file, &segment.header, segment.bytes, VERIFY_READ_BYTES);
    while scan.next_sequence() <= segment.last {
        match scan.next_frame() {
            Ok(frame) => each(&frame),
            Err(ScanError::Io(source)) => return Err(io_error("read", path, source)),
            Err(ScanError::Fault(reason)) => return Err(scan.damage(reason).into()),
        }
    }
    let found = scan.next_sequence();
    let expected = segment.last.next();
    if found > expected {
        return Err(scan.damage(DamageReason::Gap { expected, found }).into());
    }
    Ok(scan.offset())
}

/// Verifies closed segments, newest first, on `threads` threads, and marks them; begins no further one once `enough`
/// says so. Returns the bytes checked, or the damage in the oldest damaged one.
pub(super) fn verify_all(
    fs: &dyn FileSystem,
    segments: &mut [Segment],
    threads: usize,
    enough: &(dyn Fn() -> bool + Sync),
) -> Result<u64, VerifyError> {
    let unverified = Mutex::new(segments.iter_mut());
    let next = || unverified.lock().next_back();
    let work = || {
        let mut outcomes = Vec::new();
        while !enough()
            && let Some(segment) = next()
        {
            let checked = verify_closed(fs, segment);
            segment.verified = checked.is_ok();
            outcomes.push((segment.header.first, checked));
        }
        outcomes
    };
    let mut outcomes = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut outcomes = work();
        for other in others {
            outcomes.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        outcomes
    });
    outcomes.sort_unstable_by_key(|(first, _)| *first);
    outcomes.into_iter().map(|(_, outcome)| outcome).sum()
}

pub(super) fn io_error(operation: &'static str, path: &Path, source: std::io::Error) -> VerifyError {
    VerifyError::Io { operation, path: PathBuf::from(path), source }
}
