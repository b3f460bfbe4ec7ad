//! A frame as it is read: the records of one append.

use bytes::Bytes;

use crate::event::Sequence;

use super::format::{FRAME_HEADER_BYTES, RECORD_PREFIX_BYTES, u32_at};
use super::place::{FramePlace, Place};

/// The records of one append, or the last of them if the reader started inside.
///
/// Its bytes share the reader's buffer: keeping one record keeps up to 256 KiB, or its frame if that is larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The sequence of the first record.
    pub first: Sequence,
    /// How many records there are; at least 1.
    pub records: u32,
    /// The records, each after its length in 4 bytes.
    pub payload: Bytes,
    /// Where the payload begins in the log.
    pub(super) at: FramePlace,
}

impl Frame {
    /// The frame, if the payload is exactly `records` records. It is nowhere until it is [`Self::placed`].
    pub(super) fn new(first: Sequence, records: u32, payload: Bytes) -> Option<Self> {
        let mut offset = 0;
        for _ in 0..records {
            let body = payload.get(offset..)?;
            let length = u32_at(body.get(..RECORD_PREFIX_BYTES)?, 0) as usize;
            offset += RECORD_PREFIX_BYTES + body.get(RECORD_PREFIX_BYTES..)?.get(..length)?.len();
        }
        let at = FramePlace { segment: Sequence::ZERO, offset: 0 };
        (records > 0 && offset == payload.len()).then_some(Self { first, records, payload, at })
    }

    /// The frame, which begins there.
    pub(super) fn placed(self, frame: FramePlace) -> Self {
        let at = FramePlace { offset: frame.offset.wrapping_add(FRAME_HEADER_BYTES as u32), ..frame };
        Self { at, ..self }
    }

    /// The sequence of the last record.
    pub fn last(&self) -> Sequence {
        self.first.plus(u64::from(self.records)).previous()
    }

    /// The records in order, each sharing the frame's memory.
    pub fn iter(&self) -> impl Iterator<Item = (Sequence, Bytes)> + '_ {
        let mut rest = self.payload.clone();
        (0..u64::from(self.records)).map(move |index| {
            let record = split_record(&mut rest);
            (self.first.plus(index), record)
        })
    }

    /// The records in order with their places.
    pub fn iter_placed(&self) -> impl Iterator<Item = (Sequence, Place, Bytes)> + '_ {
        let mut at = self.at;
        self.iter().map(move |(sequence, record)| {
            let place = Place { segment: at.segment, offset: at.offset, crc: crc32c::crc32c(&record) };
            at.offset = at.offset.wrapping_add((RECORD_PREFIX_BYTES + record.len()) as u32);
            (sequence, place, record)
        })
    }

    /// The frame without the records up to `after`, which is before its last.
    pub(super) fn after(mut self, after: Sequence) -> Self {
        while self.first <= after {
            let record = split_record(&mut self.payload);
            self.at.offset = self.at.offset.wrapping_add((RECORD_PREFIX_BYTES + record.len()) as u32);
            self.first = self.first.next();
            self.records -= 1;
        }
        self
    }
}

// `Frame::new` has walked the same prefixes.
fn split_record(rest: &mut Bytes) -> Bytes {
    let length = u32_at(rest, 0) as usize;
    let mut record = rest.split_to(RECORD_PREFIX_BYTES + length);
    record.split_off(RECORD_PREFIX_BYTES)
}
