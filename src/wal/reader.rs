//! Reading an open log in order, up to what is durable.

use std::io;
use std::sync::Arc;

use crate::event::Sequence;

use super::error::ReadError;
use super::format::SegmentHeader;
use super::frame::Frame;
use super::scan::{ScanError, SegmentScan};
use super::segments::Segment;
use super::shared::Shared;

/// Bytes read at once: a few system calls a MiB when it is behind. At the tail only what is durable is read.
const READ_BYTES: usize = 256 * 1024;

/// A position in an open log. Holds at most one file open and one read of 256 KiB, or one larger frame, in memory.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// The last record that was handed out.
    position: Sequence,
    open: Option<OpenSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    header: SegmentHeader,
    scan: SegmentScan,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, after: Sequence) -> Result<Self, ReadError> {
        let durable = shared.durable();
        if after > durable.sequence() {
            return Err(ReadError::Beyond { after, durable });
        }
        let reader = Self { shared, position: after, open: None };
        reader.check_trimmed()?;
        Ok(reader)
    }

    /// The last record that was handed out.
    pub fn position(&self) -> Sequence {
        self.position
    }

    /// The next frame, or None when everything durable was handed out; then call again later. The first frame leaves
    /// out the records up to the reader's start.
    ///
    /// # Errors
    /// [`ReadError`]; the position is unchanged.
    pub fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if self.position >= self.shared.durable().sequence() {
                return Ok(None);
            }
            self.check_trimmed()?;
            let frame = match self.next_frame() {
                Ok(frame) => frame,
                Err(error) => {
                    // The file may have been trimmed, and even used again, since the check above.
                    self.open = None;
                    self.check_trimmed()?;
                    return Err(error);
                }
            };
            let last = frame.last();
            if last > self.position {
                let frame = frame.after(self.position);
                self.position = last;
                return Ok(Some(frame));
            }
        }
    }

    fn check_trimmed(&self) -> Result<(), ReadError> {
        let trimmed = self.shared.trimmed();
        if self.position < trimmed.sequence() {
            return Err(ReadError::Trimmed { wanted: self.position.next(), trimmed });
        }
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Frame, ReadError> {
        let wanted = match &self.open {
            Some(open) => open.scan.next_sequence().max(self.position.next()),
            None => self.position.next(),
        };
        let segment = self.segment_of(wanted)?;
        let open = match self.open.take() {
            Some(open) if open.header == segment.header => open,
            _ => self.open_segment(&segment)?,
        };
        let open = self.open.insert(open);
        open.scan.set_limit(segment.end.unwrap_or(segment.bytes));
        open.scan.next_frame().map_err(|error| match error {
            ScanError::Io(source) => ReadError::Io { file: segment.path, source },
            ScanError::Fault(reason) => ReadError::Damaged(open.scan.damage(reason)),
        })
    }

    fn segment_of(&self, sequence: Sequence) -> Result<Segment, ReadError> {
        let state = self.shared.state.lock();
        let index = state.segments.partition_point(|segment| segment.header.first <= sequence);
        let found = index.checked_sub(1).and_then(|index| state.segments.get(index)).cloned();
        drop(state);
        found.ok_or_else(|| ReadError::Trimmed { wanted: sequence, trimmed: self.shared.trimmed() })
    }

    fn open_segment(&self, segment: &Segment) -> Result<OpenSegment, ReadError> {
        let io_error = |source: io::Error| ReadError::Io { file: segment.path.clone(), source };
        let file = self.shared.fs.open(&segment.path).map_err(io_error)?;
        let scan = SegmentScan::new(&segment.path, file, &segment.header, segment.bytes, READ_BYTES);
        Ok(OpenSegment { header: segment.header.clone(), scan })
    }
}
