//! Where one record stands, so that it can be read without its frame.

use std::io;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};

use crate::event::{Sequence, Trimmed};

use super::file_system::{LogFile, read_full};
use super::format::{RECORD_PREFIX_BYTES, segment_name, u32_at};
use super::shared::Shared;

/// Bytes of the first read of a record: its length and, with bodies of a few KiB, all of it.
const READ_BYTES: usize = 4 * 1024;

/// Where the next frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// The first sequence of its segment.
    pub segment: Sequence,
    /// Bytes from the segment's start; a segment is shorter than 4 GiB.
    pub offset: u32,
}

/// A record's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first sequence of its segment.
    pub segment: Sequence,
    /// Bytes from the segment's start to the record's length prefix.
    pub offset: u32,
    /// CRC32C of the record's bytes, without the prefix: it stands for the frame's, which would have to be read whole.
    pub crc: u32,
}

impl FramePlace {
    /// The place of the record that was pushed at `offset`, as [`super::Batch::push`] tells, whose bytes have this CRC32C.
    pub fn of(&self, offset: u32, crc: u32) -> Place {
        Place { segment: self.segment, offset: self.offset + offset, crc }
    }
}

/// Why no record was read at a place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The record is gone.
    #[error("the log no longer holds sequence {wanted}; it starts after {trimmed}")]
    Trimmed {
        /// The sequence asked for.
        wanted: Sequence,
        /// Up to here nothing is left.
        trimmed: Trimmed,
    },
    /// What stands there is not the record: the place is wrong, or the log is damaged. Reading the segment's frames tells.
    #[error("{} holds another record at byte {offset} than the one looked for", file.display())]
    Mismatch {
        /// The segment.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u32,
    },
    /// The system refused.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads the record of `sequence` at `place`: one open, one or two reads.
pub(super) fn read(shared: &Shared, sequence: Sequence, place: Place) -> Result<Bytes, PlaceError> {
    let file = shared.options.dir.join(segment_name(place.segment));
    let found = shared.fs.open(&file).and_then(|file| read_bytes(&*file, place));
    // Afterwards: the file may have been trimmed, and even used again, meanwhile.
    let trimmed = shared.trimmed();
    if sequence <= trimmed.sequence() {
        return Err(PlaceError::Trimmed { wanted: sequence, trimmed });
    }
    match found {
        Ok(Some(record)) => Ok(record),
        Ok(None) => Err(PlaceError::Mismatch { file, offset: place.offset }),
        Err(source) => Err(PlaceError::Io { file, source }),
    }
}

/// The record at `place`; None if another one, or none, is there.
pub(super) fn read_bytes(file: &dyn LogFile, place: Place) -> io::Result<Option<Bytes>> {
    let offset = u64::from(place.offset);
    let mut buffer = BytesMut::zeroed(READ_BYTES);
    let read = read_full(file, &mut buffer, offset)?;
    buffer.truncate(read);
    if read < RECORD_PREFIX_BYTES {
        return Ok(None);
    }
    // Today's largest frame bounds nothing: the record may be older than the setting.
    let end = RECORD_PREFIX_BYTES + u32_at(&buffer, 0) as usize;
    if end > read {
        if offset + end as u64 > file.len()? {
            return Ok(None);
        }
        buffer.resize(end, 0);
        let more = read_full(file, &mut buffer[read..], offset + read as u64)?;
        buffer.truncate(read + more);
    }
    if buffer.len() < end {
        return Ok(None);
    }
    let record = buffer.freeze().slice(RECORD_PREFIX_BYTES..end);
    Ok((crc32c::crc32c(&record) == place.crc).then_some(record))
}
