//! What can be read of a damaged segment, frame by frame, before and behind the damage.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use crate::event::Sequence;
use crate::wal::error::DamageReason;
use crate::wal::format::{FRAME_HEADER_BYTES, FrameHeader, RECORD_PREFIX_BYTES, SEGMENT_HEADER_BYTES, Salted, u32_at};
use crate::wal::frame::Frame;

/// A run of a segment's sequences, in order and without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// A frame whose checksums prove it.
    Kept(Frame),
    /// Records that cannot be read.
    Lost { first: Sequence, records: u64 },
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub offset: u64,
    pub reason: DamageReason,
    /// The first and the last record that are lost there; None if the damage cost none.
    pub lost: Option<(Sequence, Sequence)>,
}

/// What a segment still has.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    pub parts: Vec<Part>,
    pub places: Vec<Place>,
    /// Bytes of lost records as far as their frame still says where they are; they may be the damaged ones.
    pub suspects: Vec<(Sequence, Bytes)>,
}

/// Reads all of a segment's file. `last` is its last record, None if that is not known: then what looks like a torn write
/// at the end is left out.
pub(super) fn salvage(bytes: &Bytes, salted: Salted, first: Sequence, last: Option<Sequence>) -> Salvaged {
    let start = (SEGMENT_HEADER_BYTES as usize).min(bytes.len());
    let mut walk = Walk { bytes, salted, last, offset: start, expected: first, found: Salvaged::default() };
    while walk.step() {}
    walk.found
}

/// The last record of these parts; the one before `first` if there is none.
pub(super) fn end_of(parts: &[Part], first: Sequence) -> Sequence {
    parts.last().map_or_else(
        || first.previous(),
        |part| match part {
            Part::Kept(frame) => frame.last(),
            Part::Lost { first, records } => first.plus(*records).previous(),
        },
    )
}

struct Walk<'a> {
    bytes: &'a Bytes,
    salted: Salted,
    last: Option<Sequence>,
    offset: usize,
    expected: Sequence,
    found: Salvaged,
}

impl Walk<'_> {
    /// Takes what is at the offset; false at the end.
    fn step(&mut self) -> bool {
        if self.last.is_some_and(|last| self.expected > last) {
            return false;
        }
        let Some(header) = self.header_at(self.offset) else { return self.step_over_no_header() };
        if header.first < self.expected {
            // A frame that was there before.
            let reason = DamageReason::Gap { expected: self.expected, found: header.first };
            self.note(reason, None);
            self.offset += header.frame_bytes();
            return true;
        }
        if header.first > self.expected {
            let reason = DamageReason::Gap { expected: self.expected, found: header.first };
            self.lose(header.first.previous(), reason);
            return true;
        }
        match self.frame_of(&header) {
            Some(frame) => self.keep(frame),
            None => return self.step_over_payload(&header),
        }
        self.offset += header.frame_bytes();
        true
    }

    /// The header says what was here, the payload is not it.
    fn step_over_payload(&mut self, header: &FrameHeader) -> bool {
        if self.last.is_none() && self.next_header().is_none() {
            return false;
        }
        let payload = self.offset + FRAME_HEADER_BYTES..(self.offset + header.frame_bytes()).min(self.bytes.len());
        let mut at = payload.start;
        for index in 0..u64::from(header.records) {
            let Some(record) = record_at(self.bytes, at, payload.end) else { break };
            at = record.end;
            self.found.suspects.push((self.expected.plus(index), self.bytes.slice(record)));
        }
        let reason = DamageReason::Frame { expected: self.expected };
        self.lose(header.next().previous(), reason);
        self.offset = (self.offset + header.frame_bytes()).min(self.bytes.len());
        true
    }

    /// Goes on at the next header, if there is one.
    fn step_over_no_header(&mut self) -> bool {
        let next = self.next_header();
        let reason = DamageReason::Frame { expected: self.expected };
        let (end, through) = match (&next, self.last) {
            (Some((at, header)), _) => (Some(*at), header.first.previous()),
            (None, Some(last)) => (None, last),
            (None, None) => return false,
        };
        if let Some(frame) = self.mended(end, through) {
            self.note(reason, None);
            let frame_bytes = FRAME_HEADER_BYTES + frame.payload.len();
            self.keep(frame);
            self.offset = end.unwrap_or(self.offset + frame_bytes);
            return true;
        }
        if through >= self.expected {
            self.lose(through, reason);
        } else {
            self.note(reason, None);
        }
        self.offset = end.unwrap_or(self.bytes.len());
        true
    }

    fn header_at(&self, at: usize) -> Option<FrameHeader> {
        let header = self.salted.header(self.bytes.get(at..)?)?;
        (header.records > 0 && self.last.is_none_or(|last| header.first <= last)).then_some(header)
    }

    /// The frame behind a header, if its payload is what was written.
    fn frame_of(&self, header: &FrameHeader) -> Option<Frame> {
        let end = self.offset.checked_add(header.frame_bytes())?;
        let payload = self.offset + FRAME_HEADER_BYTES..end;
        let matches = self.salted.payload_matches(header, self.bytes.get(payload.clone())?);
        Frame::new(header.first, header.records, self.bytes.slice(payload)).filter(|_| matches)
    }

    /// The next header behind the offset that can be one of the frames still to come.
    fn next_header(&self) -> Option<(usize, FrameHeader)> {
        let from = self.offset + 1;
        let rest = self.bytes.get(from..)?;
        memmem::find_iter(rest, &self.salted.start_of_frame())
            .filter_map(|at| Some((from + at, self.header_at(from + at)?)))
            .find(|(_, header)| header.first >= self.expected)
    }

    /// The frame at the offset if only its header is damaged. It reaches to `end`, or as far as its records do, and has
    /// all records up to `through`.
    fn mended(&self, end: Option<usize>, through: Sequence) -> Option<Frame> {
        let records = u32::try_from(through.next().get().checked_sub(self.expected.get())?).ok()?;
        let start = self.offset + FRAME_HEADER_BYTES;
        let limit = end.unwrap_or(self.bytes.len());
        let mut at = start;
        for _ in 0..records {
            at = record_at(self.bytes, at, limit)?.end;
        }
        let payload = self.bytes.slice(start..at);
        let whole = records > 0 && end.is_none_or(|end| end == at);
        let proved = whole && self.salted.proves(&self.bytes[self.offset..start], &payload, records, self.expected);
        Frame::new(self.expected, records, payload).filter(|_| proved)
    }

    fn keep(&mut self, frame: Frame) {
        let frame = match self.last {
            Some(last) if frame.last() > last => {
                // The next segment has the others.
                let reason = DamageReason::Gap { expected: last.next(), found: frame.last().next() };
                self.note(reason, None);
                first_records(&frame, last)
            }
            _ => frame,
        };
        self.expected = frame.last().next();
        self.found.parts.push(Part::Kept(frame));
    }

    fn lose(&mut self, through: Sequence, reason: DamageReason) {
        let through = self.last.map_or(through, |last| through.min(last));
        self.note(reason, Some((self.expected, through)));
        let records = through.next().get() - self.expected.get();
        self.found.parts.push(Part::Lost { first: self.expected, records });
        self.expected = through.next();
    }

    fn note(&mut self, reason: DamageReason, lost: Option<(Sequence, Sequence)>) {
        self.found.places.push(Place { offset: self.offset as u64, reason, lost });
    }
}

/// Where the record is whose length stands at `at`, if it ends by `limit`.
fn record_at(bytes: &[u8], at: usize, limit: usize) -> Option<Range<usize>> {
    let start = at.checked_add(RECORD_PREFIX_BYTES).filter(|start| *start <= limit)?;
    let end = start.checked_add(u32_at(bytes, at) as usize).filter(|end| *end <= limit)?;
    Some(start..end)
}

/// The frame without the records after `last`.
fn first_records(frame: &Frame, last: Sequence) -> Frame {
    let bytes = frame.iter().take_while(|(sequence, _)| *sequence <= last).map(|(_, record)| record.len());
    let (records, length) =
        bytes.fold((0, 0), |(records, length), record| (records + 1, length + RECORD_PREFIX_BYTES + record));
    Frame { records, payload: frame.payload.slice(..length), ..frame.clone() }
}
