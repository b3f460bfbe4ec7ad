//! Reading an open log in order, up to what is durable.

use std::io;
use std::sync::Arc;

use crate::event::Sequence;

use super::error::ReadError;
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
    first: Sequence,
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
    #[expect(clippy::should_implement_trait, reason = "None is not final, and errors stop the caller")]
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
        let open = match self.limit_of(wanted)? {
            Place::InOpenSegment { limit } => {
                let open = self.open.as_mut().expect("the place is in it");
                open.scan.set_limit(limit);
                open
            }
            Place::In(segment) => {
                let opened = self.open_segment(&segment)?;
                self.open.insert(opened)
            }
        };
        open.scan.next_frame().map_err(|error| match error {
            ScanError::Io(source) => ReadError::Io { file: open.scan.path().to_owned(), source },
            ScanError::Fault(reason) => ReadError::Damaged(open.scan.damage(reason)),
        })
    }

    fn limit_of(&self, sequence: Sequence) -> Result<Place, ReadError> {
        let state = self.shared.state.lock();
        let index = state.segments.partition_point(|segment| segment.header.first <= sequence);
        let Some(segment) = index.checked_sub(1).and_then(|index| state.segments.get(index)) else {
            drop(state);
            return Err(ReadError::Trimmed { wanted: sequence, trimmed: self.shared.trimmed() });
        };
        Ok(match &self.open {
            Some(open) if open.first == segment.header.first => {
                Place::InOpenSegment { limit: segment.end.unwrap_or(segment.bytes) }
            }
            _ => Place::In(Box::new(segment.clone())),
        })
    }

    fn open_segment(&self, segment: &Segment) -> Result<OpenSegment, ReadError> {
        let io_error = |source: io::Error| ReadError::Io { file: segment.path.clone(), source };
        let file = self.shared.fs.open(&segment.path).map_err(io_error)?;
        let limit = segment.end.unwrap_or(segment.bytes);
        let scan = SegmentScan::new(&segment.path, file, &segment.header, limit, READ_BYTES);
        Ok(OpenSegment { first: segment.header.first, scan })
    }
}

/// Where a sequence is.
enum Place {
    InOpenSegment { limit: u64 },
    In(Box<Segment>),
}
