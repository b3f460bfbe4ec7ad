//! The handle of an open log that everybody but the writer uses.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{Durable, Sequence, Trimmed};

use super::error::{LogFailed, ReadError, ReleaseError, VerifyError};
use super::format::LogId;
use super::place::{self, Place, PlaceError};
use super::reader::Reader;
use super::records;
use super::recovery;
use super::retention;
use super::segments::{SegmentInfo, SegmentState};
use super::shared::Shared;

/// A handle of an open log; cheap to clone. The directory stays locked until the writer and all handles are gone.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

impl Log {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The last record whose fdatasync has returned 0.
    pub fn durable(&self) -> Durable {
        self.shared.durable()
    }

    /// The last record that is no longer there.
    pub fn trimmed(&self) -> Trimmed {
        self.shared.trimmed()
    }

    /// The log's identity, for as long as its directory lives.
    pub fn log_id(&self) -> LogId {
        self.shared.log_id
    }

    /// How many times it was opened, this time included.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Bytes of all its files, spare ones included.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes(&self.shared.state.lock())
    }

    /// Number of its files, spare ones included.
    pub fn files(&self) -> usize {
        let state = self.shared.state.lock();
        state.segments.len() + state.spares.len() + usize::from(state.making) + state.in_transit as usize
    }

    /// Its segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.shared.state.lock();
        let newest = state.segments.len().saturating_sub(1);
        let state_of = |index| if index == newest { SegmentState::Active } else { SegmentState::Closed };
        state.segments.iter().enumerate().map(|(index, segment)| segment.info(state_of(index))).collect()
    }

    /// Whether it has stopped taking records for good.
    pub fn is_failed(&self) -> bool {
        self.shared.failed().is_some()
    }

    /// Why it has stopped taking records, if it has.
    pub fn failure(&self) -> Option<LogFailed> {
        self.shared.failed().cloned()
    }

    /// Reads the records after `after`.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] if some of them are gone, [`ReadError::Beyond`] if the log ends before `after`.
    pub fn reader(&self, after: Sequence) -> Result<Reader, ReadError> {
        Reader::new(Arc::clone(&self.shared), after)
    }

    /// Reads the one record of `sequence`, whose place an index knows: a few KiB, whatever the size of its frame.
    ///
    /// # Errors
    /// [`PlaceError`]; a wrong place is never answered with another record.
    pub fn record_at(&self, sequence: Sequence, place: Place) -> Result<Bytes, PlaceError> {
        place::read(&self.shared, sequence, place)
    }

    /// Reads the records of these sequences, which are in log order, until they have `bytes_max` bytes together; at least
    /// one. Those that stand near each other are one read of up to 256 KiB, and share its memory.
    ///
    /// # Errors
    /// [`PlaceError`] for all of them; a wrong place is never answered with another record.
    pub fn records_at(&self, wanted: &[(Sequence, Place)], bytes_max: usize) -> Result<Vec<Bytes>, PlaceError> {
        records::read(&self.shared, wanted, bytes_max)
    }

    /// Reads and checks the newest of the closed segments that the opening had no time for; the bytes of it, or None if
    /// all are checked. Reads a whole segment file, so call it where blocking is allowed, and not too often.
    ///
    /// # Errors
    /// [`VerifyError`]; the segment stays unchecked. One that was trimmed meanwhile is no error.
    pub fn verify_next(&self) -> Result<Option<u64>, VerifyError> {
        let unverified = self.shared.state.lock().segments.iter().rev().find(|segment| !segment.verified).cloned();
        let Some(segment) = unverified else { return Ok(None) };
        match recovery::verify_closed(&*self.shared.fs, &segment) {
            Ok(bytes) => {
                let mut state = self.shared.state.lock();
                let found = state.segments.iter_mut().find(|found| found.header.first == segment.header.first);
                if let Some(found) = found {
                    found.verified = true;
                }
                Ok(Some(bytes))
            }
            // The file may be gone, or another segment's by now.
            Err(_) if segment.last <= self.trimmed().sequence() => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    /// Says that records after `after` are needed again, if they were released: none of them is trimmed from now on, until
    /// [`Log::release`] says otherwise. Touches no file.
    pub fn hold(&self, after: Sequence) {
        let mut state = self.shared.state.lock();
        state.released = state.released.min(after);
    }

    /// Says that records up to `up_to` are needed by nobody any more, and those after it are, whatever was said before.
    /// Trims closed segments of them that [`super::Options::keep_bytes`] or [`super::Options::keep_for`] no longer
    /// covers: either bound trims. Works on files, so call it where blocking is allowed; the same position again applies
    /// the time bound anew.
    ///
    /// # Errors
    /// [`ReleaseError`] if a file cannot be removed; it is tried again at the next call.
    pub fn release(&self, up_to: Sequence) -> Result<Trimmed, ReleaseError> {
        retention::release(&self.shared, up_to)
    }
}
