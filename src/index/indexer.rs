//! The thread that writes parts to files: sealed ones first, then gaps, newest first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flume::RecvTimeoutError;

use crate::event::record::{self, Logged};
use crate::wal::{ReadError, Reader};

use super::PART_RECORDS_MAX;
use super::entry::{Entry, Run};
use super::error::IndexerError;
use super::file::{FilePart, PartError};
use super::memory::SealedPart;
use super::service::{Shared, Wake, Woken};
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
    stopping: bool,
}

/// What is to be written.
enum Work {
    Sealed(SealedPart),
    Gap(Run),
}

impl Indexer {
    pub(super) fn new(shared: Arc<Shared>, woken: Woken) -> Self {
        Self { shared, woken, failed_until: None, stopping: false }
    }

    /// Runs until it is told to stop, and then writes what is in memory. For a thread of its own.
    ///
    /// # Errors
    /// [`IndexerError`] if the log is damaged or cannot be read. A file that cannot be written is tried again.
    pub fn run(mut self) -> Result<(), IndexerError> {
        while !self.stopping {
            match (self.next_work(), self.failed_until) {
                (Some(work), until) if until.is_none_or(|until| until <= Instant::now()) => self.write(work)?,
                (Some(_), until) => self.wait(until),
                (None, _) => self.wait(None),
            }
            self.look_for_stop();
        }
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

    fn wait(&mut self, until: Option<Instant>) {
        let woken = match until {
            Some(until) => self.woken.recv_deadline(until),
            None => Ok(self.woken.recv().unwrap_or(Wake::Stop)),
        };
        match woken {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            Ok(Wake::Work) | Err(RecvTimeoutError::Timeout) => {}
        }
    }

    fn look_for_stop(&mut self) {
        while let Ok(wake) = self.woken.try_recv() {
            self.stopping |= wake == Wake::Stop;
        }
    }

    fn write(&mut self, work: Work) -> Result<(), IndexerError> {
        let (run, entries) = match work {
            Work::Sealed(sealed) => (sealed.run, sealed.sorted()),
            Work::Gap(gap) => match self.read(gap)? {
                Some(read) => read,
                None => return Ok(()),
            },
        };
        let Some(segment) = self.shared.segment(run.segment) else {
            // Trimmed meanwhile.
            self.shared.parts.write().trim(self.shared.log.trimmed().sequence());
            self.shared.gaps_changed();
            return Ok(());
        };
        let identity = Identity { log_id: self.shared.log.log_id(), salt: segment.salt, run };
        let fs = &*self.shared.fs;
        let written = write(fs, &self.shared.dir, identity, &entries).map_err(PartError::Io);
        match written.and_then(|path| FilePart::open(fs, &path)) {
            Ok(part) => {
                tracing::debug!(file = %part.path.display(), records = run.records(), "wrote a file of the log's index");
                self.shared.parts.write().add_file(Arc::new(part));
                self.failed_until = None;
                // It may have been trimmed while it was written.
                let gone = self.shared.parts.write().trim(self.shared.log.trimmed().sequence());
                gone.iter().for_each(|part| self.shared.remove(&part.path));
                self.shared.gaps_changed();
            }
            Err(error) => {
                tracing::warn!(dir = %self.shared.dir.display(), ?error, "the index of the log was not written; it is tried again");
                self.failed_until = Some(Instant::now() + RETRY_EVERY);
            }
        }
        Ok(())
    }

    /// The entries of a gap, or of its first [`PART_RECORDS_MAX`] records, in order; None if it was trimmed meanwhile, or
    /// this is to stop.
    fn read(&mut self, gap: Run) -> Result<Option<(Run, Vec<Entry>)>, IndexerError> {
        match self.read_from(gap) {
            Err(IndexerError::Read(ReadError::Trimmed { .. })) => {
                self.shared.parts.write().trim(self.shared.log.trimmed().sequence());
                self.shared.gaps_changed();
                Ok(None)
            }
            other => other,
        }
    }

    fn read_from(&mut self, gap: Run) -> Result<Option<(Run, Vec<Entry>)>, IndexerError> {
        let mut reader = self.shared.log.reader(gap.first.previous())?;
        let last = gap.last.min(gap.first.plus(PART_RECORDS_MAX as u64 - 1));
        let mut entries = Vec::with_capacity(usize::try_from(gap.records()).unwrap_or(0).min(PART_RECORDS_MAX));
        while reader.position() < last {
            self.look_for_stop();
            if self.stopping || !self.read_frame(&mut reader, gap, &mut entries)? {
                return Ok(None);
            }
        }
        entries.sort_unstable();
        Ok(Some((Run { last, ..gap }, entries)))
    }

    /// Takes in the next frame; false if there is none.
    fn read_frame(&self, reader: &mut Reader, gap: Run, entries: &mut Vec<Entry>) -> Result<bool, IndexerError> {
        let Some(frame) = reader.next()? else { return Ok(false) };
        for (sequence, place, bytes) in frame.iter_placed() {
            let index = sequence.get() - gap.first.get();
            if sequence > gap.last || index >= PART_RECORDS_MAX as u64 {
                break;
            }
            let logged = record::decode(&bytes).map_err(|source| IndexerError::Record { sequence, source })?;
            let Logged::Message(record) = logged else { continue };
            let hash = self.shared.hasher.hash(record.subject);
            let index = index as u32;
            entries.push(Entry { hash, id: record.id.get(), index, offset: place.offset, crc: place.crc });
        }
        Ok(true)
    }
}
