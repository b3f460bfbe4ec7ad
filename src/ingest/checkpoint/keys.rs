//! The idempotency keys of a checkpoint, in a file of their own beside the high-water marks. A data directory in which no
//! publish ever had a key has no such file.
//!
//! Layout, little endian: magic (8 bytes), format version `u32`, log id (16 bytes), taken-at sequence `u64`, number of
//! keys `u64`; then for each key, in the order of the log, the hash of subject and key (16 bytes), the hash of the body
//! (16 bytes), the sequence `u64` and the time `i64` of its record in microseconds, its id `u32`; then the CRC32C of all
//! bytes before as `u32`. The keys of one record that were taken over from another node have its sequence all, and each
//! the time of its own message.

use std::io;
use std::path::Path;

use super::blocks::{Input, Output};
use super::{CheckpointError, VERSION};
use crate::event::{MessageId, Sequence, UnixMicros};
use crate::ingest::Window;
use crate::ingest::idempotency::{Entry, Fingerprint, HASH_BYTES, Snapshot};
use crate::wal::{FileSystem, LogId, write_atomically};

const MAGIC: &[u8; 8] = b"WALCAKEY";
const FILE_NAME: &str = "idempotency-keys";
const ENTRY_BYTES: usize = 2 * HASH_BYTES + 8 + 8 + 4;

/// What a file of keys says beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysCheckpoint {
    /// The log that it belongs to.
    pub log_id: LogId,
    /// The keys of all records up to here are in it, but those that were forgotten by then, and no others.
    pub taken_at: Sequence,
    /// How many keys it holds.
    pub keys: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

impl KeysCheckpoint {
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

/// Writes what `snapshot` has up to `taken_at`: a key whose record may still be lost must not be known without it. Gives
/// the size of the file in bytes, 0 if there is none and none is needed.
///
/// # Errors
/// [`CheckpointError::Io`]; the file before it is untouched then.
pub(super) fn write(
    files: &dyn FileSystem,
    directory: &Path,
    (log_id, taken_at): (LogId, Sequence),
    snapshot: &Snapshot,
) -> Result<u64, CheckpointError> {
    let covered = || snapshot.entries().take_while(|entry| entry.sequence <= taken_at);
    let count = covered().count() as u64;
    if count == 0 && Input::open(files, &directory.join(FILE_NAME))?.is_none() {
        return Ok(0);
    }
    write_entries(files, directory, (log_id, taken_at, count), covered)
}

fn write_entries<'a, Entries: Iterator<Item = &'a Entry>>(
    files: &dyn FileSystem,
    directory: &Path,
    (log_id, taken_at, count): (LogId, Sequence, u64),
    entries: impl Fn() -> Entries,
) -> Result<u64, CheckpointError> {
    let mut bytes = 0;
    let written = write_atomically(files, directory, FILE_NAME, &mut |writer| {
        let mut output = Output::to(writer);
        output.put(MAGIC)?;
        output.put(&VERSION.to_le_bytes())?;
        output.put(log_id.as_bytes())?;
        output.put(&taken_at.get().to_le_bytes())?;
        output.put(&count.to_le_bytes())?;
        entries().try_for_each(|entry| put_entry(&mut output, entry))?;
        output.end()?;
        bytes = output.bytes;
        Ok(())
    });
    let path = || directory.join(FILE_NAME);
    written.map(|()| bytes).map_err(|source| CheckpointError::Io { action: "write", path: path(), source })
}

fn put_entry(output: &mut Output<'_>, entry: &Entry) -> io::Result<()> {
    output.put(&entry.print.name)?;
    output.put(&entry.print.body)?;
    output.put(&entry.sequence.get().to_le_bytes())?;
    output.put(&entry.at.as_micros().to_le_bytes())?;
    output.put(&entry.id.get().to_le_bytes())
}

/// The position of the file in `directory`; None if there is none.
///
/// # Errors
/// [`CheckpointError`] if it cannot be read, or is damaged in its head.
pub(super) fn peek(files: &dyn FileSystem, directory: &Path) -> Result<Option<Sequence>, CheckpointError> {
    let path = directory.join(FILE_NAME);
    let Some(mut input) = Input::open(files, &path)? else { return Ok(None) };
    Ok(Some(header(&mut input)?.taken_at))
}

/// Fills `window` from the file in `directory`, as it is at `now`. None if there is none.
///
/// # Errors
/// [`CheckpointError`]; the window is then partly filled and not to be used.
pub fn restore(
    files: &dyn FileSystem,
    directory: &Path,
    window: &mut Window,
    now: UnixMicros,
) -> Result<Option<KeysCheckpoint>, CheckpointError> {
    read(files, directory, |entry| {
        if !window.is_expired(entry.at, now) {
            window.remember(entry, now);
        }
    })
}

/// Takes the keys of records out of the file that a repair of the log gave up: a retry must not be told that a message was
/// published which is nowhere. Gives how many; none if there is no file.
///
/// # Errors
/// [`CheckpointError`]; the file is untouched then.
pub fn forget_lost(
    files: &dyn FileSystem,
    directory: &Path,
    is_lost: impl Fn(Sequence) -> bool,
) -> Result<u64, CheckpointError> {
    let mut kept = Vec::new();
    let found = read(files, directory, |entry| kept.extend((!is_lost(entry.sequence)).then_some(entry)))?;
    let Some(KeysCheckpoint { log_id, taken_at, keys, .. }) = found else { return Ok(0) };
    let count = kept.len() as u64;
    if count < keys {
        write_entries(files, directory, (log_id, taken_at, count), || kept.iter())?;
    }
    Ok(keys - count)
}

struct Header {
    log_id: LogId,
    taken_at: Sequence,
    keys: u64,
}

fn header(input: &mut Input<'_>) -> Result<Header, CheckpointError> {
    input.begin(MAGIC, "it does not begin as a file of idempotency keys")?;
    Ok(Header {
        log_id: LogId::from_bytes(input.take()?),
        taken_at: Sequence::new(u64::from_le_bytes(input.take()?)),
        keys: u64::from_le_bytes(input.take()?),
    })
}

fn read(
    files: &dyn FileSystem,
    directory: &Path,
    mut visit: impl FnMut(Entry),
) -> Result<Option<KeysCheckpoint>, CheckpointError> {
    let path = directory.join(FILE_NAME);
    let Some(mut input) = Input::open(files, &path)? else { return Ok(None) };
    let Header { log_id, taken_at, keys } = header(&mut input)?;
    let mut from = Sequence::ZERO.next();
    for _ in 0..keys {
        let Some(entry) = entry(input.next(ENTRY_BYTES)?, from, taken_at) else {
            return Err(input.damaged("a key is not valid"));
        };
        input.skip(ENTRY_BYTES);
        from = entry.sequence;
        visit(entry);
    }
    input.end()?;
    Ok(Some(KeysCheckpoint { log_id, taken_at, keys, bytes: input.offset() }))
}

/// A key of the records `from` to `last`.
fn entry(bytes: &[u8], from: Sequence, last: Sequence) -> Option<Entry> {
    let (name, bytes) = bytes.split_first_chunk()?;
    let (body, bytes) = bytes.split_first_chunk()?;
    let (sequence, bytes) = bytes.split_first_chunk()?;
    let (at, bytes) = bytes.split_first_chunk()?;
    let sequence = Sequence::new(u64::from_le_bytes(*sequence));
    (from <= sequence && sequence <= last).then_some(())?;
    Some(Entry {
        print: Fingerprint { name: *name, body: *body },
        sequence,
        at: UnixMicros::from_micros(i64::from_le_bytes(*at)),
        id: MessageId::new(u32::from_le_bytes(*bytes.first_chunk()?))?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::event::{Durable, Projected};
    use crate::ingest::{Checkpointer, Keys, SubjectTable, WindowConfig};
    use crate::wal::DiskFileSystem;

    const SECOND: i64 = 1_000_000;
    const LOG: LogId = LogId::from_bytes([1; 16]);

    fn at(seconds: i64) -> UnixMicros {
        UnixMicros::from_micros(seconds * SECOND)
    }

    fn entry_of(number: u64) -> Entry {
        let id = MessageId::new(number as u32).expect("an id");
        let print = Fingerprint::new("s", &number.to_string(), b"x");
        Entry { print, sequence: Sequence::new(number), at: at(number as i64), id }
    }

    fn window(keep_for: u64) -> Window {
        Window::new(WindowConfig { keep_for: Duration::from_secs(keep_for), keys_max: 1_000 })
    }

    /// A checkpoint at `taken_at` of the keys of these records.
    fn take(directory: &Path, numbers: std::ops::RangeInclusive<u64>, taken_at: u64) -> u64 {
        let mut window = window(1_000);
        numbers.map(entry_of).for_each(|entry| window.remember(entry, entry.at));
        let subjects = SubjectTable::new(10);
        subjects.set_marked_through(Durable(Sequence::new(taken_at)));
        let checkpointer = Checkpointer::new(Arc::new(DiskFileSystem), directory.to_owned(), LOG);
        checkpointer.take(&subjects, &Keys::new(window), Projected::default()).expect("written").bytes
    }

    fn restored(directory: &Path, keep_for: u64, now: i64) -> (Option<KeysCheckpoint>, Vec<u64>) {
        let mut window = window(keep_for);
        let found = restore(&DiskFileSystem, directory, &mut window, at(now)).expect("valid");
        (found, window.snapshot().entries().map(|entry| entry.sequence.get()).collect())
    }

    #[test]
    fn restores_what_is_covered_and_has_not_expired() {
        let directory = tempfile::tempdir().expect("a directory");
        let bytes = take(directory.path(), 3..=900, 800);
        let (found, known) = restored(directory.path(), 500, 900);
        let found = found.expect("there is a file");
        assert_eq!((found.log_id, found.taken_at, found.keys), (LOG, Sequence::new(800), 798));
        assert_eq!(found.bytes, 44 + 798 * ENTRY_BYTES as u64 + 4);
        assert!(bytes > found.bytes, "the marks count as well");
        assert_eq!(known, (401..=800).collect::<Vec<_>>());
        assert_eq!(peek(&DiskFileSystem, directory.path()).expect("readable"), Some(Sequence::new(800)));
    }

    #[test]
    fn without_keys_there_is_no_file_and_afterwards_an_empty_one() {
        let directory = tempfile::tempdir().expect("a directory");
        take(directory.path(), 8..=9, 7);
        assert_eq!(restored(directory.path(), 10, 7).0, None, "their records are behind it");
        take(directory.path(), 8..=9, 9);
        assert_eq!(restored(directory.path(), 10, 9).1, [8, 9]);
        take(directory.path(), 30..=30, 20);
        let (found, known) = restored(directory.path(), 10, 30);
        assert_eq!((found.expect("it stays").taken_at.get(), known.len()), (20, 0));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        take(directory.path(), 3..=5, 5);
        let path = directory.path().join(FILE_NAME);
        let good = std::fs::read(&path).expect("there");
        let usable = || {
            let found = restore(&DiskFileSystem, directory.path(), &mut window(10), at(5))?;
            found.expect("there is a file").belongs_to(LOG, directory.path())
        };
        usable().expect("it is sound");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bad).expect("writable");
            assert!(usable().is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            std::fs::write(&path, &good[..cut]).expect("writable");
            assert!(usable().is_err(), "cut at {cut}");
        }
        let mut newer = good;
        newer[8] = 2;
        std::fs::write(&path, newer).expect("writable");
        assert!(matches!(usable(), Err(CheckpointError::NewerVersion { version: 2, .. })));
    }

    #[test]
    fn another_log_s_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("a directory");
        take(directory.path(), 3..=5, 5);
        let found = restored(directory.path(), 10, 5).0.expect("there is a file");
        let foreign = found.belongs_to(LogId::from_bytes([2; 16]), directory.path());
        assert!(matches!(foreign, Err(CheckpointError::ForeignLog { .. })), "{foreign:?}");
    }

    #[test]
    fn the_keys_of_lost_records_are_taken_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let lost = |sequence: Sequence| (4..=5).contains(&sequence.get());
        assert_eq!(forget_lost(&DiskFileSystem, directory.path(), lost).expect("no file is none"), 0);
        take(directory.path(), 3..=7, 7);
        assert_eq!(forget_lost(&DiskFileSystem, directory.path(), lost).expect("written"), 2);
        assert_eq!(restored(directory.path(), 10, 7).1, [3, 6, 7]);
        assert_eq!(forget_lost(&DiskFileSystem, directory.path(), lost).expect("nothing to do"), 0);
    }

    #[test]
    fn keys_of_one_record_share_its_sequence() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut window = window(1_000);
        for (number, sequence) in [(1, 4), (2, 7), (3, 7), (4, 7), (5, 8)] {
            let entry = Entry { sequence: Sequence::new(sequence), ..entry_of(number) };
            window.remember(entry, entry.at);
        }
        let subjects = SubjectTable::new(10);
        let checkpointer = Checkpointer::new(Arc::new(DiskFileSystem), directory.path().to_owned(), LOG);
        for (taken_at, expected) in [(8, &[4, 7, 7, 7, 8][..]), (7, &[4, 7, 7, 7]), (6, &[4])] {
            subjects.set_marked_through(Durable(Sequence::new(taken_at)));
            let keys = Keys::new(self::window(1_000));
            window.snapshot().entries().for_each(|entry| keys.lock().remember(*entry, entry.at));
            checkpointer.take(&subjects, &keys, Projected::default()).expect("written");
            assert_eq!(restored(directory.path(), 1_000, 8).1, expected);
        }
        subjects.set_marked_through(Durable(Sequence::new(8)));
        checkpointer.take(&subjects, &Keys::new(window), Projected::default()).expect("written");
        let of_7 = |sequence: Sequence| sequence.get() == 7;
        assert_eq!(forget_lost(&DiskFileSystem, directory.path(), of_7).expect("written"), 3);
        assert_eq!(restored(directory.path(), 1_000, 8).1, [4, 8]);
    }

    #[test]
    fn sequences_that_fall_or_begin_with_0_are_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        for (sequences, sound) in [([1, 1], true), ([2, 2], true), ([2, 1], false), ([0, 1], false), ([1, 4], false)] {
            let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), LOG.as_bytes()].concat();
            bytes.extend([3_u64, 2].map(u64::to_le_bytes).concat());
            for sequence in sequences {
                bytes.extend([7; 2 * HASH_BYTES]);
                bytes.extend([sequence, 5_u64].map(u64::to_le_bytes).concat());
                bytes.extend(1_u32.to_le_bytes());
            }
            bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
            std::fs::write(directory.path().join(FILE_NAME), bytes).expect("writable");
            let read = restore(&DiskFileSystem, directory.path(), &mut window(1_000), at(0));
            assert_eq!(read.is_ok(), sound, "{sequences:?}: {read:?}");
        }
    }
}
