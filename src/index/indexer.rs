//! The thread that writes parts to files: sealed ones first, then gaps, newest first.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::event::record::{self, Logged};
use crate::wal::{ReadError, Reader};

use super::PART_RECORDS_MAX;
use super::entry::{Entry, Run};
use super::error::IndexerError;
use super::file::{FilePart, PartError};
use super::memory::{MemoryPart, SealedPart};
use super::service::{Shared, Woken};
use super::write::{Identity, write};

/// Pause before a file that could not be written is tried again: what frees a disk takes seconds.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// Builds the files of an index.
#[derive(Debug)]
pub struct Indexer {
    shared: Arc<Shared>,
    woken: Woken,
    /// When the next file may be written, if the last one could not be.
    failed_until: Option<Instant>,
}

/// What is to be written.
enum Work {
    Sealed(SealedPart),
    Gap(Run),
}

impl Indexer {
    pub(super) fn new(shared: Arc<Shared>, woken: Woken) -> Self {
        Self { shared, woken, failed_until: None }
    }

    /// Runs until it is told to stop, and then writes what is in memory. For a thread of its own.
    ///
    /// # Errors
    /// [`IndexerError`] if the log is damaged or cannot be read. A file that cannot be written is tried again.
    pub fn run(mut self) -> Result<(), IndexerError> {
        while !self.stopping() {
            match (self.next_work(), self.failed_until) {
                (Some(work), until) if until.is_none_or(|until| until <= Instant::now()) => self.write(work)?,
                (Some(_), until) => self.wait(until),
                (None, _) => self.wait(None),
            }
        }
        self.failed_until = None;
        // Those before it first: only so many may wait.
        self.write_sealed()?;
        self.shared.parts.write().seal();
        self.write_sealed()
    }

    /// Writes what is sealed, as far as the disk takes it.
    fn write_sealed(&mut self) -> Result<(), IndexerError> {
        while self.failed_until.is_none()
            && let Some(sealed) = self.next_sealed()
        {
            self.write(Work::Sealed(sealed))?;
        }
        Ok(())
    }

    fn next_sealed(&self) -> Option<SealedPart> {
        self.shared.parts.read().sealed.front().cloned()
    }

    fn next_work(&self) -> Option<Work> {
        let parts = self.shared.parts.read();
        let sealed = parts.sealed.front().cloned().map(Work::Sealed);
        sealed.or_else(|| parts.gaps.last().copied().map(Work::Gap))
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// Until there is something to look at, or `until`. The sender is in what this shares: it does not go away.
    fn wait(&mut self, until: Option<Instant>) {
        match until {
            Some(until) => drop(self.woken.recv_deadline(until)),
            None => drop(self.woken.recv()),
        }
    }

    /// Something could not be done that may be done later. Says so once.
    fn failed(&mut self, error: &dyn fmt::Display) {
        if self.failed_until.is_none() {
            tracing::warn!(dir = %self.shared.dir.display(), %error, "the index of the log is not complete; it is tried again");
        }
        self.failed_until = Some(Instant::now() + RETRY_EVERY);
    }

    fn write(&mut self, work: Work) -> Result<(), IndexerError> {
        let (run, entries, lost) = match &work {
            Work::Sealed(sealed) => (sealed.run, sealed.sorted(), 0),
            Work::Gap(gap) => match self.read(*gap)? {
                Some(read) => read,
                None => return Ok(()),
            },
        };
        let Some(segment) = self.shared.segment(run.segment) else {
            // Trimmed meanwhile.
            self.shared.trim();
            return Ok(());
        };
        let identity = Identity { log_id: self.shared.log.log_id(), salt: segment.salt, run, lost };
        let fs = &*self.shared.fs;
        let written = write(fs, &self.shared.dir, identity, &entries).map_err(PartError::Io);
        match written.and_then(|path| FilePart::open(fs, &path)) {
            Ok(part) => {
                tracing::debug!(file = %part.path.display(), records = run.records(), "wrote a file of the log's index");
                self.shared.parts.write().add_file(Arc::new(part));
                self.failed_until = None;
                // It may have been trimmed while it was written.
                self.shared.trim();
            }
            Err(error) => {
                self.failed(&error);
                if matches!(work, Work::Gap(_)) && lost == 0 {
                    // Found in memory until the disk takes it.
                    self.shared.parts.write().keep_in_memory(MemoryPart::of(run, entries));
                    self.shared.gaps_changed();
                }
            }
        }
        Ok(())
    }

    /// The entries of a gap, or of its first [`PART_RECORDS_MAX`] records, in order, and how many records are lost; None if
    /// it was trimmed meanwhile, cannot be read now, or this is to stop.
    fn read(&mut self, gap: Run) -> Result<Option<(Run, Vec<Entry>, u32)>, IndexerError> {
        match self.read_from(gap) {
            Err(IndexerError::Read(ReadError::Trimmed { .. })) => {
                self.shared.trim();
                Ok(None)
            }
            Err(IndexerError::Read(error @ ReadError::Io { .. })) => {
                self.failed(&error);
                Ok(None)
            }
            other => other,
        }
    }

    fn read_from(&self, gap: Run) -> Result<Option<(Run, Vec<Entry>, u32)>, IndexerError> {
        let mut reader = self.shared.log.reader(gap.first.previous())?;
        let last = gap.last.min(gap.first.plus(PART_RECORDS_MAX as u64 - 1));
        let mut entries = Vec::with_capacity(usize::try_from(gap.records()).unwrap_or(0).min(PART_RECORDS_MAX));
        let mut lost = 0;
        while reader.position() < last {
            if self.stopping() || !self.read_frame(&mut reader, gap, &mut entries, &mut lost)? {
                return Ok(None);
            }
        }
        entries.sort_unstable();
        Ok(Some((Run { last, ..gap }, entries, lost)))
    }

    /// Takes in the next frame; false if there is none.
    fn read_frame(
        &self,
        reader: &mut Reader,
        gap: Run,
        entries: &mut Vec<Entry>,
        lost: &mut u32,
    ) -> Result<bool, IndexerError> {
        let Some(frame) = reader.next()? else { return Ok(false) };
        for (sequence, place, bytes) in frame.iter_placed() {
            let index = sequence.get() - gap.first.get();
            if sequence > gap.last || index >= PART_RECORDS_MAX as u64 {
                break;
            }
            let record = match record::decode(&bytes).map_err(|source| IndexerError::Record { sequence, source })? {
                Logged::Message(record) => record,
                Logged::TakenOver(_) => continue,
                Logged::Lost => {
                    *lost += 1;
                    continue;
                }
            };
            let hash = self.shared.hasher.hash(record.subject);
            let index = index as u32;
            entries.push(Entry { hash, id: record.id.get(), index, offset: place.offset, crc: place.crc });
        }
        Ok(true)
    }
}
