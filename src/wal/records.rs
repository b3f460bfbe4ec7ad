//! Many records at their places at once: one open a segment, one read for records that stand near each other.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::event::Sequence;

use super::file_system::{LogFile, read_full};
use super::format::{RECORD_PREFIX_BYTES, segment_name, u32_at};
use super::place::{self, Place, PlaceError};
use super::shared::Shared;

/// Bytes of one read at most, unless one record is larger.
const RUN_BYTES: u32 = 256 * 1024;

/// Records further apart are read one by one: below it, copying what nobody asked for costs less than a system call.
const APART_BYTES: u32 = 8 * 1024;

/// Bytes that are read from the last place of a run on: a whole record as a rule. A larger one is read once more.
const LAST_BYTES: u32 = 4 * 1024;

/// An open segment.
struct Segment {
    first: Sequence,
    path: PathBuf,
    file: Arc<dyn LogFile>,
}

/// Reads records, which are in log order, until they have `bytes_max` bytes; at least one.
pub(super) fn read(shared: &Shared, wanted: &[(Sequence, Place)], bytes_max: usize) -> Result<Vec<Bytes>, PlaceError> {
    let Some((first, _)) = wanted.first() else { return Ok(Vec::new()) };
    let found = read_runs(shared, wanted, bytes_max);
    // Afterwards: the files may have been trimmed, and even used again, meanwhile.
    let trimmed = shared.trimmed();
    if *first <= trimmed.sequence() {
        return Err(PlaceError::Trimmed { wanted: *first, trimmed });
    }
    found
}

fn read_runs(shared: &Shared, wanted: &[(Sequence, Place)], bytes_max: usize) -> Result<Vec<Bytes>, PlaceError> {
    let mut records = Vec::with_capacity(wanted.len());
    let mut bytes = 0;
    let mut open: Option<Segment> = None;
    while records.len() < wanted.len() && (records.is_empty() || bytes < bytes_max) {
        let rest = &wanted[records.len()..];
        let run = &rest[..run_length(rest, bytes_max.saturating_sub(bytes))];
        let segment = match open.take().filter(|open| open.first == run[0].1.segment) {
            Some(open) => open,
            None => open_segment(shared, run[0].1.segment)?,
        };
        let io_error = |source| PlaceError::Io { file: segment.path.clone(), source };
        let buffer = read_run(&*segment.file, run).map_err(io_error)?;
        for (_, place) in run {
            let record = match whole_record(&buffer, run[0].1.offset, *place) {
                Some(record) => Some(record).filter(|record| crc32c::crc32c(record) == place.crc),
                None => place::read_bytes(&*segment.file, *place).map_err(io_error)?,
            };
            let Some(record) = record else {
                return Err(PlaceError::Mismatch { file: segment.path, offset: place.offset });
            };
            bytes += record.len();
            records.push(record);
        }
        open = Some(segment);
    }
    Ok(records)
}

/// How many of these records one read brings: of one segment, in order, none far from the one before, and not many more
/// than `bytes_max` bytes.
fn run_length(wanted: &[(Sequence, Place)], bytes_max: usize) -> usize {
    let start = wanted[0].1;
    let span = u32::try_from(bytes_max).unwrap_or(u32::MAX).min(RUN_BYTES);
    let near = wanted.windows(2).take_while(|pair| {
        let (before, place) = (pair[0].1, pair[1].1);
        place.segment == start.segment
            && place.offset > before.offset
            && place.offset - before.offset <= APART_BYTES
            && place.offset - start.offset <= span
    });
    1 + near.count()
}

fn open_segment(shared: &Shared, first: Sequence) -> Result<Segment, PlaceError> {
    let path = shared.options.dir.join(segment_name(first));
    match shared.fs.open(&path) {
        Ok(file) => Ok(Segment { first, path, file }),
        Err(source) => Err(PlaceError::Io { file: path, source }),
    }
}

/// The bytes from the first record of the run to some way beyond the start of its last; fewer where the file ends.
fn read_run(file: &dyn LogFile, run: &[(Sequence, Place)]) -> io::Result<Bytes> {
    let (first, last) = (run[0].1.offset, run[run.len() - 1].1.offset);
    let mut buffer = BytesMut::zeroed((last - first + LAST_BYTES) as usize);
    let read = read_full(file, &mut buffer, u64::from(first))?;
    buffer.truncate(read);
    Ok(buffer.freeze())
}

/// The record at `place`, if all of it is in the buffer, which begins at `start`.
fn whole_record(buffer: &Bytes, start: u32, place: Place) -> Option<Bytes> {
    let at = (place.offset - start) as usize;
    let body = at.checked_add(RECORD_PREFIX_BYTES)?;
    let length = u32_at(buffer.get(at..body)?, 0) as usize;
    let end = body.checked_add(length)?;
    (end <= buffer.len()).then(|| buffer.slice(body..end))
}
