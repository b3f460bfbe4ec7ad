//! The checkpoint of ingest: every subject's high-water mark in one local file, and the idempotency keys that are known in
//! another (`keys.rs`), which is not there before there are any.
//!
//! With it a restart needs neither the store nor the part of the log that was trimmed: marks are the
//! checkpoint's, raised by what the log holds after [`Checkpoint::taken_at`]. So the log is never trimmed
//! beyond a checkpoint, and a checkpoint may be fuzzy: marks of later messages do no harm, they only rise.
//!
//! Layout, little endian: magic (8 bytes), format version `u32`, log id (16 bytes), taken-at sequence `u64`,
//! projected sequence `u64`; then per subject its length `u8` (1 to 255), its bytes, its last id `u32`;
//! then a zero byte, the number of subjects `u64`, and the CRC32C of all bytes before as `u32`.

mod blocks;
mod keys;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{IdsExhausted, Keys, SubjectTable};
use crate::event::{MessageId, Projected, Sequence};
use crate::wal::{FileSystem, LogId, write_atomically};
use blocks::{Input, Output};

pub use keys::{KeysCheckpoint, forget_lost, restore as restore_keys};

const MAGIC: &[u8; 8] = b"WALCAIDS";
const VERSION: u32 = 1;
const FILE_NAME: &str = "high-water-marks";

/// What a checkpoint says beside the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log that it belongs to.
    pub log_id: LogId,
    /// Every message up to here is in the marks. It was durable when the checkpoint was taken.
    pub taken_at: Sequence,
    /// Everything up to here was in the store.
    pub projected: Projected,
    /// How many subjects it holds.
    pub subjects: u64,
    /// Size of the file in bytes; of one that was just taken, with that of the keys.
    pub bytes: u64,
}

/// Why the checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// In verb form.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{} is damaged at offset {offset}: {reason}; restore the file from a backup of the data directory", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Bytes from its start.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The file belongs to another log.
    #[error("{} belongs to log {found}, not to {expected}; the data directory mixes two brokers", path.display())]
    ForeignLog {
        /// The file.
        path: PathBuf,
        /// Its log.
        found: LogId,
        /// The log it is used with.
        expected: LogId,
    },
    /// Written by a newer walcast.
    #[error("{} has format version {version}, this walcast knows {VERSION}; use a newer walcast", path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// More subjects than the settings allow.
    #[error("restore {}: {source}; raise limits.subjects", path.display())]
    TooManySubjects {
        /// The file.
        path: PathBuf,
        /// The limit.
        source: IdsExhausted,
    },
}

impl Checkpoint {
    /// Whether it is the log's own.
    ///
    /// # Errors
    /// [`CheckpointError::ForeignLog`] if not; `directory` is where it was found.
    pub fn belongs_to(&self, log_id: LogId, directory: &Path) -> Result<(), CheckpointError> {
        if self.log_id == log_id {
            return Ok(());
        }
        let path = directory.join(FILE_NAME);
        Err(CheckpointError::ForeignLog { path, found: self.log_id, expected: log_id })
    }
}

/// Reads and writes the checkpoint of one data directory.
#[derive(Debug, Clone)]
pub struct Checkpointer {
    files: Arc<dyn FileSystem>,
    directory: PathBuf,
    log_id: LogId,
}

impl Checkpointer {
    /// For the directory `ids` of a data directory, which exists.
    pub fn new(files: Arc<dyn FileSystem>, directory: PathBuf, log_id: LogId) -> Self {
        Self { files, directory, log_id }
    }

    /// The position of the checkpoint in `directory`, read before the log is opened so that a log which
    /// lost its end is noticed. None if there is no checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`] if the file cannot be read, or is damaged in its head.
    pub fn peek(files: &dyn FileSystem, directory: &Path) -> Result<Option<Sequence>, CheckpointError> {
        let path = directory.join(FILE_NAME);
        let Some(mut input) = Input::open(files, &path)? else { return Ok(None) };
        Ok(Some(input.header()?.taken_at))
    }

    /// A record up to which the log must reach: a checkpoint says that it was durable.
    ///
    /// # Errors
    /// As [`Self::peek`].
    pub fn durable_at_least(files: &dyn FileSystem, directory: &Path) -> Result<Sequence, CheckpointError> {
        let of_keys = keys::peek(files, directory)?;
        Ok(Self::peek(files, directory)?.max(of_keys).unwrap_or(Sequence::ZERO))
    }

    /// Fills `subjects` from the checkpoint in `directory`. None if there is none. May run while the log is being
    /// opened; [`Checkpoint::belongs_to`] is asked then.
    ///
    /// # Errors
    /// [`CheckpointError`]; the table is then partly filled and not to be used.
    pub fn restore(
        files: &dyn FileSystem,
        directory: &Path,
        subjects: &SubjectTable,
    ) -> Result<Option<Checkpoint>, CheckpointError> {
        let path = directory.join(FILE_NAME);
        let Some(mut input) = Input::open(files, &path)? else { return Ok(None) };
        let Header { log_id, taken_at, projected } = input.header()?;
        subjects.reserve(input.likely_subjects());
        let count = input.entries(subjects)?;
        input.trailer(count)?;
        Ok(Some(Checkpoint { log_id, taken_at, projected, subjects: count, bytes: input.offset() }))
    }

    /// Writes a checkpoint that replaces the one before it, crash-safe.
    ///
    /// # Errors
    /// [`CheckpointError::Io`]; the checkpoint before it is untouched then.
    pub fn take(
        &self,
        subjects: &SubjectTable,
        known: &Keys,
        projected: Projected,
    ) -> Result<Checkpoint, CheckpointError> {
        // Read before marks and keys are: they may be ahead of it, never behind.
        let taken_at = subjects.marked_through().sequence();
        // The keys first, so that they are never behind the marks. Without a file there were none up to there.
        let keys_bytes = keys::write(&*self.files, &self.directory, (self.log_id, taken_at), &known.snapshot())?;
        let (mut count, mut bytes) = (0, 0);
        write_atomically(&*self.files, &self.directory, FILE_NAME, &mut |writer| {
            let mut output = Output::to(writer);
            output.put(MAGIC)?;
            output.put(&VERSION.to_le_bytes())?;
            output.put(self.log_id.as_bytes())?;
            output.put(&taken_at.get().to_le_bytes())?;
            output.put(&projected.sequence().get().to_le_bytes())?;
            subjects.for_each(|name, id| {
                count += 1;
                // A subject has at most 255 bytes.
                output.put(&[name.len() as u8])?;
                output.put(name)?;
                output.put(&id.get().to_le_bytes())
            })?;
            output.put(&[0])?;
            output.put(&u64::to_le_bytes(count))?;
            output.end()?;
            bytes = output.bytes;
            Ok(())
        })
        .map_err(|source| CheckpointError::Io {
            action: "write",
            path: self.directory.join(FILE_NAME),
            source,
        })?;
        Ok(Checkpoint { log_id: self.log_id, taken_at, projected, subjects: count, bytes: bytes + keys_bytes })
    }
}

struct Header {
    log_id: LogId,
    taken_at: Sequence,
    projected: Projected,
}

/// Bytes of the smallest entry: a name of one byte, its length, its id.
const ENTRY_BYTES_MIN: u64 = 6;

/// Number of subjects and checksum.
const TRAILER_BYTES: u64 = 12;

impl Input<'_> {
    /// The number of subjects that the trailer names, before anything is checked: good for reserving memory only,
    /// so no more than the file can hold, and 0 if it cannot be read.
    fn likely_subjects(&self) -> usize {
        let length = self.length();
        let mut count = [0; 8];
        let read = length.checked_sub(TRAILER_BYTES).map(|at| self.read_at(&mut count, at));
        let named = if matches!(read, Some(Ok(8))) { u64::from_le_bytes(count) } else { 0 };
        usize::try_from(named.min(length / ENTRY_BYTES_MIN)).unwrap_or(0)
    }

    fn header(&mut self) -> Result<Header, CheckpointError> {
        self.begin(MAGIC, "it does not begin as a file of high-water marks")?;
        Ok(Header {
            log_id: LogId::from_bytes(self.take()?),
            taken_at: Sequence::new(u64::from_le_bytes(self.take()?)),
            projected: Projected(Sequence::new(u64::from_le_bytes(self.take()?))),
        })
    }

    fn entries(&mut self, subjects: &SubjectTable) -> Result<u64, CheckpointError> {
        let mut count = 0;
        loop {
            let [len] = self.take()?;
            if len == 0 {
                return Ok(count);
            }
            let entry = self.next(usize::from(len) + size_of::<u32>())?;
            let bytes = entry.len();
            let restored = entry.split_last_chunk().and_then(|(name, id)| {
                let name = std::str::from_utf8(name).ok()?;
                Some(subjects.restore(name, MessageId::new(u32::from_le_bytes(*id))?))
            });
            match restored {
                Some(Ok(_key)) => {}
                Some(Err(source)) => {
                    return Err(CheckpointError::TooManySubjects { path: self.path().to_owned(), source });
                }
                None => return Err(self.damaged("a subject or its last id is not valid")),
            }
            self.skip(bytes);
            count += 1;
        }
    }

    fn trailer(&mut self, count: u64) -> Result<(), CheckpointError> {
        if u64::from_le_bytes(self.take()?) != count {
            return Err(self.damaged("the number of subjects is another one"));
        }
        self.end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Window, WindowConfig};
    use super::blocks::READ_BYTES;
    use super::*;
    use crate::event::Durable;
    use crate::wal::DiskFileSystem;

    fn checkpointer(directory: &Path, log: u8) -> Checkpointer {
        Checkpointer::new(Arc::new(DiskFileSystem), directory.to_owned(), LogId::from_bytes([log; 16]))
    }

    fn no_keys() -> Keys {
        Keys::new(Window::new(WindowConfig { keep_for: Duration::from_secs(60), keys_max: 10 }))
    }

    fn table(names: &[(&str, u32)]) -> SubjectTable {
        let table = SubjectTable::new(1_000);
        for (name, id) in names {
            table.restore(name, MessageId::new(*id).expect("an id")).expect("room");
        }
        table
    }

    fn restore(directory: &Path, table: &SubjectTable) -> Result<Option<Checkpoint>, CheckpointError> {
        Checkpointer::restore(&DiskFileSystem, directory, table)
    }

    /// Restores as a start does.
    fn usable(directory: &Path) -> Result<(), CheckpointError> {
        restore(directory, &table(&[]))?.expect("there is a file").belongs_to(LogId::from_bytes([1; 16]), directory)
    }

    fn taken(directory: &Path) -> Checkpoint {
        let table = table(&[("a", 3), ("größe", 1)]);
        table.set_marked_through(Durable(Sequence::new(9)));
        checkpointer(directory, 1).take(&table, &no_keys(), Projected(Sequence::new(5))).expect("written")
    }

    #[test]
    fn restores_what_was_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(Checkpointer::peek(&DiskFileSystem, directory.path()).expect("readable"), None);
        let written = taken(directory.path());
        assert_eq!(Checkpointer::peek(&DiskFileSystem, directory.path()).expect("readable"), Some(Sequence::new(9)));
        let restored = table(&[]);
        assert_eq!(restore(directory.path(), &restored).expect("valid"), Some(written));
        assert_eq!(written.subjects, 2);
        assert_eq!(restored.high_water_mark("a").map(|(_, id)| id.get()), Some(3));
        assert_eq!(restored.high_water_mark("größe").map(|(_, id)| id.get()), Some(1));
        assert_eq!(restored.len(), 2);
    }

    #[test]
    fn restores_what_is_larger_than_a_block() {
        let directory = tempfile::tempdir().expect("a directory");
        let names: Vec<String> = (0..60_000).map(|n| format!("{n}-{}", "x".repeat(n % 200))).collect();
        let many = SubjectTable::new(names.len());
        for (name, id) in names.iter().zip(1..) {
            many.restore(name, MessageId::new(id).expect("an id")).expect("room");
        }
        let written = checkpointer(directory.path(), 1).take(&many, &no_keys(), Projected::default()).expect("written");
        assert!(written.bytes > 3 * READ_BYTES as u64);
        let restored = SubjectTable::new(names.len());
        assert_eq!(restore(directory.path(), &restored).expect("valid"), Some(written));
        for (name, id) in names.iter().zip(1..) {
            assert_eq!(restored.high_water_mark(name).map(|(_, last)| last.get()), Some(id));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        taken(directory.path());
        let path = directory.path().join(FILE_NAME);
        let good = std::fs::read(&path).expect("there");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bad).expect("writable");
            assert!(usable(directory.path()).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            std::fs::write(&path, &good[..cut]).expect("writable");
            assert!(usable(directory.path()).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn refuses_another_log_and_a_newer_version_by_name() {
        let directory = tempfile::tempdir().expect("a directory");
        taken(directory.path());
        let found = restore(directory.path(), &table(&[])).expect("readable").expect("there");
        let foreign = found.belongs_to(LogId::from_bytes([2; 16]), directory.path());
        assert!(matches!(foreign, Err(CheckpointError::ForeignLog { .. })), "{foreign:?}");
        let path = directory.path().join(FILE_NAME);
        let mut newer = std::fs::read(&path).expect("there");
        newer[8] = 2;
        std::fs::write(&path, newer).expect("writable");
        let newer = usable(directory.path());
        assert!(matches!(newer, Err(CheckpointError::NewerVersion { version: 2, .. })), "{newer:?}");
    }
}
