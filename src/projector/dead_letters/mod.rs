//! Dead letters: rows that the store does not take for what is in them, each in a file of its own beside the log.
//!
//! They are on the local disk and not in the store, because the store is what refused; so they look the same whatever
//! store is behind, and nobody can lose them by dropping a table. A letter is durable before the store's position passes
//! its record, and it is complete: the log may trim the record, Fetch finds the message here, and
//! `walcast store retry` puts it into the store once the cause is gone.
//!
//! Owns the files in its directory ([`mod@file`] is their format). Must never drop a letter whose message has not expired.

mod file;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Row, StoredMessage};
use crate::event::{MessageId, Sequence, Subject, UnixMicros, clock};
use crate::wal::{FileSystem, read_full, write_atomically};

pub use file::FileError;

/// How much is kept, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterBounds {
    /// Letters. Default 1,000: a store that rejects more than this has something against all of them, an altered table
    /// and not odd rows. Then projection waits, and the log keeps what comes.
    pub letters: usize,
    /// Bytes of their files. Default 64 MiB: an eighth of the 512 MiB that the log keeps free on its disk.
    pub bytes: u64,
}

impl Default for LetterBounds {
    fn default() -> Self {
        Self { letters: 1_000, bytes: 64 * 1024 * 1024 }
    }
}

/// Bytes of one file that are read: a body of 16 MiB, the largest that there can be, in base64, and the rest. What is longer does
/// not decode.
const LETTER_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Bytes of a reason that are kept: a few sentences. Some servers quote the whole row.
const REASON_BYTES_MAX: usize = 4 * 1024;

/// A row that the store did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The row, complete.
    pub row: Row,
    /// What the store said.
    pub reason: String,
    /// When.
    pub set_aside_at: UnixMicros,
}

/// Why dead letters cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// No room for another one.
    #[error(
        "there are {letters} dead letters of {bytes} bytes already, at most {} of {} bytes are kept in {}; mend what the \
         store has against its rows, then run `walcast store retry`", bounds.letters, bounds.bytes, dir.display()
    )]
    Full {
        /// How many there are.
        letters: usize,
        /// Bytes of their files.
        bytes: u64,
        /// How much is kept.
        bounds: LetterBounds,
        /// Where they are.
        dir: PathBuf,
    },
    /// A file is not a dead letter.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The dead letters of one data directory; a clone is the same.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    bounds: LetterBounds,
    /// Held while files are written or removed: letters are rare, and they come one after the other.
    writing: Mutex<()>,
    /// What is there. Never held over a file, because every Fetch of what the store does not have asks it.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    places: HashMap<(Subject, MessageId), Place>,
    bytes: u64,
}

/// One letter's file.
#[derive(Debug, Clone, Copy)]
struct Place {
    sequence: Sequence,
    bytes: u64,
    expires_at: UnixMicros,
}

impl DeadLetters {
    /// Reads what is in `dir`; makes nothing there before the first letter.
    ///
    /// # Errors
    /// [`DeadLetterError`]: a file that does not decode is one, because it stands for a message that nobody else may have.
    pub fn open(fs: Arc<dyn FileSystem>, dir: PathBuf, bounds: LetterBounds) -> Result<Self, DeadLetterError> {
        let mut known = Known::default();
        for (letter, bytes) in read_all(&*fs, &dir)? {
            known.insert(&letter.row, bytes);
        }
        let (writing, known) = (Mutex::new(()), Mutex::new(known));
        Ok(Self { shared: Arc::new(Shared { fs, dir, bounds, writing, known }) })
    }

    /// Keeps a row, durably. Once it is kept, it is kept again without a change.
    ///
    /// # Errors
    /// [`DeadLetterError::Full`] or [`DeadLetterError::Io`]; the row is not kept then.
    pub fn add(&self, row: &Row, reason: &str) -> Result<(), DeadLetterError> {
        let Shared { fs, dir, bounds, writing, known } = &*self.shared;
        let _one_at_a_time = writing.lock();
        if self.place(&row.subject, row.id).is_some() {
            return Ok(());
        }
        let reason = reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned();
        let letter = DeadLetter { row: row.clone(), reason, set_aside_at: clock::now() };
        let content = file::encode(&letter);
        let bytes = content.len() as u64;
        let (letters, held) = {
            let known = known.lock();
            (known.places.len(), known.bytes)
        };
        if letters >= bounds.letters || held + bytes > bounds.bytes {
            return Err(DeadLetterError::Full { letters, bytes: held, bounds: *bounds, dir: dir.clone() });
        }
        let io = |action, source| DeadLetterError::Io { action, path: dir.clone(), source };
        fs.create_dir_all(dir).map_err(|source| io("make", source))?;
        write_atomically(&**fs, dir, &file::name(row.sequence), &mut |out| out.write_all(&content))
            .map_err(|source| io("write a dead letter to", source))?;
        known.lock().insert(row, bytes);
        Ok(())
    }

    /// The message, if it is a dead letter that is not expired at `now`. Reads a file, so call it where blocking is allowed.
    ///
    /// # Errors
    /// [`DeadLetterError`] if the file cannot be read.
    pub fn find(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, DeadLetterError> {
        let Shared { fs, dir, .. } = &*self.shared;
        let Some(place) = self.place(subject, id) else { return Ok(None) };
        if place.expires_at <= now {
            return Ok(None);
        }
        let (DeadLetter { row, .. }, _) = read(&**fs, &dir.join(file::name(place.sequence)))?;
        Ok(Some(StoredMessage { published_at: row.published_at, expiration: row.expiration, body: row.body }))
    }

    /// The ids of the subject's letters above `after` and up to `through`, in order. Looks at every letter, without a file.
    pub fn ids_of(&self, subject: &Subject, after: u32, through: u32) -> Vec<MessageId> {
        let known = self.shared.known.lock();
        let of_subject =
            known.places.keys().filter(|(of, id)| of == subject && after < id.get() && id.get() <= through);
        let mut ids: Vec<MessageId> = of_subject.map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// All letters, in the order of the log.
    ///
    /// # Errors
    /// [`DeadLetterError`] if one cannot be read.
    pub fn all(&self) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let letters = read_all(&*self.shared.fs, &self.shared.dir)?;
        Ok(letters.into_iter().map(|(letter, _)| letter).collect())
    }

    /// Forgets a row that the store has by now, durably.
    ///
    /// # Errors
    /// [`DeadLetterError::Io`]; it may come again then.
    pub fn remove(&self, row: &Row) -> Result<(), DeadLetterError> {
        let Shared { fs, dir, writing, known, .. } = &*self.shared;
        let _one_at_a_time = writing.lock();
        let Some(place) = self.place(&row.subject, row.id) else { return Ok(()) };
        let path = dir.join(file::name(place.sequence));
        let removed = gone(fs.remove(&path)).and_then(|()| fs.sync_dir(dir));
        removed.map_err(|source| DeadLetterError::Io { action: "remove", path, source })?;
        known.lock().remove(&(row.subject.clone(), row.id));
        Ok(())
    }

    /// Removes letters whose messages have expired at `now`; returns how many. Call it where blocking is allowed.
    ///
    /// # Errors
    /// [`DeadLetterError::Io`].
    pub fn expire(&self, now: UnixMicros) -> Result<usize, DeadLetterError> {
        let Shared { fs, dir, writing, known, .. } = &*self.shared;
        let _one_at_a_time = writing.lock();
        let over = known.lock().expired(now);
        for (key, sequence) in &over {
            let path = dir.join(file::name(*sequence));
            gone(fs.remove(&path)).map_err(|source| DeadLetterError::Io { action: "remove", path, source })?;
            known.lock().remove(key);
        }
        Ok(over.len())
    }

    /// The subject of each letter that is not expired at `now`, and when it expires. Looks into no file.
    pub fn live(&self, now: UnixMicros) -> Vec<(Subject, UnixMicros)> {
        let known = self.shared.known.lock();
        let live = known.places.iter().filter(|(_, place)| place.expires_at > now);
        live.map(|((subject, _), place)| (subject.clone(), place.expires_at)).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.known.lock().places.len()
    }

    fn place(&self, subject: &Subject, id: MessageId) -> Option<Place> {
        self.shared.known.lock().places.get(&(subject.clone(), id)).copied()
    }
}

impl Known {
    fn expired(&self, now: UnixMicros) -> Vec<((Subject, MessageId), Sequence)> {
        let expired = self.places.iter().filter(|(_, place)| place.expires_at <= now);
        expired.map(|(key, place)| (key.clone(), place.sequence)).collect()
    }

    fn insert(&mut self, row: &Row, bytes: u64) {
        let expires_at = row.expiration.expires_at(row.published_at);
        let place = Place { sequence: row.sequence, bytes, expires_at };
        self.places.insert((row.subject.clone(), row.id), place);
        self.bytes += bytes;
    }

    fn remove(&mut self, key: &(Subject, MessageId)) {
        self.bytes -= self.places.remove(key).map_or(0, |place| place.bytes);
    }
}

/// A file that somebody else has removed is removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// All letters in `dir`, which need not exist, in the order of the log; each with the length of its file.
///
/// # Errors
/// [`DeadLetterError`] if one cannot be read.
fn read_all(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<(DeadLetter, u64)>, DeadLetterError> {
    let mut files = match fs.list(dir) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(DeadLetterError::Io { action: "list", path: dir.to_owned(), source }),
    };
    files.retain(|entry| file::is_letter(&entry.name));
    files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    files.iter().map(|entry| read(fs, &dir.join(&entry.name))).collect()
}

fn read(fs: &dyn FileSystem, path: &Path) -> Result<(DeadLetter, u64), DeadLetterError> {
    let io = |source| DeadLetterError::Io { action: "read", path: path.to_owned(), source };
    let file = fs.open(path).map_err(io)?;
    let bytes = file.len().map_err(io)?.min(LETTER_BYTES_MAX);
    let mut content = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let read = read_full(&*file, &mut content, 0).map_err(io)?;
    let letter = file::decode(&content[..read]);
    letter.map(|letter| (letter, bytes)).map_err(|source| DeadLetterError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
