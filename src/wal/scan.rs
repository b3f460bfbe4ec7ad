//! Reading the frames of one segment in order.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::event::Sequence;

use super::error::{Damage, DamageReason};
use super::file_system::{LogFile, read_full};
use super::format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, Salted, SegmentHeader};
use super::frame::Frame;
use super::place::FramePlace;

/// Why there is no next frame.
#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    Fault(DamageReason),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A position among the frames of a segment.
#[derive(Debug)]
pub(super) struct SegmentScan {
    path: PathBuf,
    file: Arc<dyn LogFile>,
    salted: Salted,
    segment: Sequence,
    next: Sequence,
    offset: u64,
    limit: u64,
    // The last read as a whole, so that its memory can be used again when no frame shares it.
    buffer: Bytes,
    buffer_offset: u64,
    read_bytes: usize,
}

impl SegmentScan {
    /// Starts at the first frame. Nothing at or beyond `limit` is read; at least a frame, and otherwise
    /// `read_bytes` at once.
    pub fn new(path: &Path, file: Arc<dyn LogFile>, header: &SegmentHeader, limit: u64, read_bytes: usize) -> Self {
        Self {
            path: path.to_owned(),
            file,
            salted: Salted::new(&header.salt),
            segment: header.first,
            next: header.first,
            offset: SEGMENT_HEADER_BYTES,
            limit,
            buffer: Bytes::new(),
            buffer_offset: 0,
            read_bytes,
        }
    }

    /// The segment's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sequence of the next frame.
    pub fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// Where the next frame starts, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Allows reading up to there.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Reads anew what was read ahead: somebody may be writing there.
    pub fn forget_read_ahead(&mut self) {
        self.buffer = Bytes::new();
    }

    /// The next frame, checked in every respect. After an error the position is unchanged.
    pub fn next_frame(&mut self) -> Result<Frame, ScanError> {
        let expected = self.next;
        let no_frame = || ScanError::Fault(DamageReason::Frame { expected });
        let header = match self.bytes(FRAME_HEADER_BYTES)? {
            Some(bytes) => self.salted.header(&bytes).ok_or_else(no_frame)?,
            None => return Err(no_frame()),
        };
        let frame = self.bytes(header.frame_bytes())?.ok_or_else(no_frame)?;
        let payload = frame.slice(FRAME_HEADER_BYTES..);
        if !self.salted.payload_matches(&header, &payload) {
            return Err(no_frame());
        }
        if header.first != expected {
            return Err(ScanError::Fault(DamageReason::Gap { expected, found: header.first }));
        }
        // A segment is shorter than 4 GiB, or its file was made by somebody else: then the places are of no use, and harmless.
        let at = FramePlace { segment: self.segment, offset: self.offset as u32 };
        let decoded = Frame::new(header.first, header.records, payload)
            .ok_or(ScanError::Fault(DamageReason::Records { expected }))?;
        self.offset += frame.len() as u64;
        self.next = header.next();
        Ok(decoded.placed(at))
    }

    /// The damage that a fault at this position is.
    pub fn damage(&self, reason: DamageReason) -> Damage {
        Damage { file: self.path.clone(), offset: self.offset, reason }
    }

    // `count` bytes from the position on, or None if the limit comes first.
    fn bytes(&mut self, count: usize) -> io::Result<Option<Bytes>> {
        let available = self.limit.saturating_sub(self.offset);
        if (count as u64) > available {
            return Ok(None);
        }
        if let Some(found) = self.buffered(count) {
            return Ok(Some(found));
        }
        let wanted = usize::try_from(available).unwrap_or(usize::MAX).min(self.read_bytes.max(count));
        // Memory of about this size that no frame shares is used again; a larger one would be kept whole by whoever
        // keeps a small frame.
        let mut buffer = match std::mem::take(&mut self.buffer).try_into_mut() {
            Ok(free) if free.capacity() / 2 <= wanted => free,
            _ => BytesMut::with_capacity(wanted),
        };
        buffer.resize(wanted, 0);
        let read = read_full(&*self.file, &mut buffer, self.offset)?;
        buffer.truncate(read);
        self.buffer = buffer.freeze();
        self.buffer_offset = self.offset;
        Ok(self.buffered(count))
    }

    fn buffered(&self, count: usize) -> Option<Bytes> {
        let start = usize::try_from(self.offset.checked_sub(self.buffer_offset)?).ok()?;
        let end = start.checked_add(count)?;
        (end <= self.buffer.len()).then(|| self.buffer.slice(start..end))
    }
}
