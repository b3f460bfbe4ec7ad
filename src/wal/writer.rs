//! Appending: the one writer of a log.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::event::{Durable, Sequence};

use super::batch::Batch;
use super::error::{AppendError, RoomError};
use super::file_system::LogFile;
use super::format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, Salted, SegmentHeader};
use super::place::FramePlace;
use super::prepare;
use super::segments::Segment;
use super::shared::{Shared, Spare};

/// The only one who appends to a log. Dropping it stops the preparing thread; nothing is left to flush.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    active: Active,
    appended: Sequence,
    last_sync: Option<Range<Instant>>,
    preparer: Option<JoinHandle<()>>,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Active {
    first: Sequence,
    path: PathBuf,
    file: Arc<dyn LogFile>,
    salted: Salted,
    /// Where the next frame goes, in bytes.
    end: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, active: Active, preparer: Option<JoinHandle<()>>) -> Self {
        Self { appended: shared.durable().sequence(), shared, active, last_sync: None, preparer }
    }

    /// The sequence that the next record gets.
    pub fn next_sequence(&self) -> Sequence {
        self.appended.next()
    }

    /// The last record that was appended; also the durable one, except inside `append`.
    pub fn appended(&self) -> Sequence {
        self.appended
    }

    /// When the fdatasync of the last [`Self::append`] was called and returned; None before the first.
    pub fn last_sync(&self) -> Option<Range<Instant>> {
        self.last_sync.clone()
    }

    /// Where the next frame goes, after [`Self::ensure_room`] for it.
    pub fn next_frame(&self) -> FramePlace {
        let offset = u32::try_from(self.active.end).expect("a segment is shorter than 4 GiB: `Options` bounds it");
        FramePlace { segment: self.active.first, offset }
    }

    /// Makes room: after `Ok` the next append of at most `payload_bytes` ([`Batch::bytes`]) needs no new space.
    /// May wait for the next segment's file.
    ///
    /// # Errors
    /// [`RoomError`]; nothing was taken, and all but [`RoomError::Failed`] can be tried again.
    pub fn ensure_room(&mut self, payload_bytes: usize) -> Result<(), RoomError> {
        if let Some(failed) = self.shared.failed() {
            return Err(RoomError::Failed(failed.clone()));
        }
        // Options are validated so that the largest frame fits into an empty segment.
        let payload_bytes = payload_bytes.min(self.shared.options.frame_bytes_max);
        if self.active.end + (FRAME_HEADER_BYTES + payload_bytes) as u64 <= self.shared.options.segment_bytes {
            return Ok(());
        }
        let spare = prepare::take_spare(&self.shared)?;
        self.active = self.rotate(spare)?;
        Ok(())
    }

    /// Appends the batch's records as one frame, with one write and one fdatasync. `Ok` means durable.
    ///
    /// # Errors
    /// [`AppendError::Failed`] after the first write or sync that failed, and ever after.
    pub fn append(&mut self, batch: &Batch) -> Result<Durable, AppendError> {
        self.ensure_room(batch.bytes()).map_err(|error| match error {
            RoomError::Failed(failed) => AppendError::Failed(failed),
            other => AppendError::NoRoom(other),
        })?;
        if batch.is_empty() {
            return Ok(self.shared.durable());
        }
        let active = &self.active;
        let first = self.appended.next();
        let written = batch.with_frame(|frame| {
            active.salted.seal(frame, batch.records(), first);
            active.file.write_all_at(frame, active.end).map(|()| frame.len())
        });
        let frame_bytes = written.map_err(|error| self.shared.fail("write to", &active.path, error))?;
        let called = Instant::now();
        active.file.sync_data().map_err(|error| self.shared.fail("sync", &active.path, error))?;
        self.last_sync = Some(called..Instant::now());

        self.active.end += frame_bytes as u64;
        self.appended = self.appended.plus(u64::from(batch.records()));
        {
            let mut state = self.shared.state.lock();
            let segment = state.segments.back_mut().expect("an open log has an active segment");
            segment.last = self.appended;
            segment.end = Some(self.active.end);
        }
        self.shared.set_durable(self.appended);
        Ok(self.shared.durable())
    }

    fn rotate(&self, spare: Spare) -> Result<Active, RoomError> {
        let shared = &*self.shared;
        let previous_first = shared.state.lock().segments.back().map_or(Sequence::ZERO, |last| last.header.first);
        let started = Active::start(shared, spare, self.appended.next(), previous_first);
        let mut state = shared.state.lock();
        state.in_transit -= 1;
        let (active, segment) = started?;
        tracing::debug!(file = %segment.path.display(), reused = segment.header.reused, "segment started");
        state.segments.push_back(segment);
        Ok(active)
    }
}

impl Active {
    /// Turns a spare into a segment: header, sync, name, sync of the directory, in this order.
    pub fn start(
        shared: &Shared,
        spare: Spare,
        first: Sequence,
        previous_first: Sequence,
    ) -> Result<(Self, Segment), RoomError> {
        let mut salt = [0; 16];
        let file = match shared.fs.random(&mut salt).and_then(|()| shared.fs.open_for_writing(&spare.path)) {
            Ok(file) => file,
            Err(error) if prepare::is_shortage(&error) => {
                shared.state.lock().spares.push(spare);
                return Err(RoomError::DiskFull { reason: error.to_string() });
            }
            Err(error) => return Err(shared.fail("open", &spare.path, error).into()),
        };
        #[cfg(feature = "fault-controls")]
        super::fault_controls::reuse_salt(&*file, &mut salt);
        let header = SegmentHeader {
            node_id: shared.options.node_id,
            log_id: shared.log_id,
            epoch: shared.epoch,
            salt,
            first,
            previous_first,
            created_at: shared.fs.now(),
            reused: spare.reused,
        };
        file.write_all_at(&header.encode(), 0)
            .and_then(|()| file.sync_data())
            .map_err(|error| shared.fail("write the header of", &spare.path, error))?;
        let salted = Salted::new(&header.salt);
        let segment = Segment::empty(&shared.options.dir, header, shared.options.segment_bytes);
        let path = segment.path.clone();
        shared
            .fs
            .rename(&spare.path, &path)
            .and_then(|()| shared.fs.sync_dir(&shared.options.dir))
            .map_err(|error| shared.fail("name the segment", &path, error))?;
        Ok((Self { first, path, file, salted, end: SEGMENT_HEADER_BYTES }, segment))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(preparer) = self.preparer.take() {
            // It stops within one write of zeros; a panic of it is reported by the panic hook.
            drop(preparer.join());
        }
    }
}
