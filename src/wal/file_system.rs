//! The one seam between the log and the machine: files, the directory, the clock and randomness.

use std::fmt::Debug;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use crate::event::{UnixMicros, clock};

/// A file of the log. All offsets and lengths are in bytes.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait LogFile: Debug + Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the system says; any part may have been written then.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns once the file's data and length survive a power cut.
    ///
    /// # Errors
    /// What the system says. Never to be retried: the kernel may have dropped what it could not write.
    fn sync_data(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or extends the file to `bytes`.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

/// A file found in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name, without the directory.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Holds a lock until dropped.
pub trait FileLock: Debug + Send + Sync {}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Somebody else holds it.
    Held {
        /// The process id found in the file.
        holder: Option<u32>,
    },
    /// The file cannot be made, opened or locked.
    Io(io::Error),
}

/// Room on a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// What an ordinary user can still write.
    pub available: u64,
    /// All of it.
    pub total: u64,
}

/// What the log needs of the machine it runs on.
pub trait FileSystem: Debug + Send + Sync {
    /// Makes the directory and its parents, durably.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// The regular files of the directory, in any order. Names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>>;

    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// What the system says; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// What the system says; `NotFound` if there is none.
    fn open_for_writing(&self, path: &Path) -> io::Result<Arc<dyn LogFile>>;

    /// Makes an empty file, in place of one of that name.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>>;

    /// Renames a file within its directory, in place of one that has the new name. Durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Returns once the names in the directory survive a power cut.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock on the file, makes it if need be, and leaves the process id in it.
    ///
    /// # Errors
    /// [`LockError::Held`] if another open log has it, in this process or another.
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>, LockError>;

    /// Room on the directory's disk.
    ///
    /// # Errors
    /// What the system says.
    fn space(&self, dir: &Path) -> io::Result<DiskSpace>;

    /// Fills the buffer with random bytes that nobody outside can guess.
    ///
    /// # Errors
    /// What the system says.
    fn random(&self, buffer: &mut [u8]) -> io::Result<()> {
        getrandom::fill(buffer).map_err(|error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(error.to_string()),
        })
    }

    /// The wall clock.
    fn now(&self) -> UnixMicros {
        clock::now()
    }
}

/// Bytes gathered before a write of [`write_atomically`] or [`write_unsynced`]: large enough that system calls do not matter.
const WRITE_BUFFER_BYTES: usize = 1024 * 1024;

/// Replaces the small state file `dir/name` as a whole: after a crash at any point it has either its old or its new
/// content. `content` writes the new one; it goes through a buffer to `name.tmp`, is synced, renamed, and the
/// directory synced.
///
/// # Errors
/// What the system or `content` says; the old file is untouched unless only the last step failed.
pub fn write_atomically(
    fs: &dyn FileSystem,
    dir: &Path,
    name: &str,
    content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    write_and_rename(fs, dir, name, &|file| file.sync_data(), content)?;
    fs.sync_dir(dir)
}

/// As [`write_atomically`] while the machine stays up: nothing is synced, so after a power cut the file may be anything.
/// For what carries its own checksums and can be made again.
///
/// # Errors
/// What the system or `content` says; the old file is untouched.
pub fn write_unsynced(
    fs: &dyn FileSystem,
    dir: &Path,
    name: &str,
    content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    write_and_rename(fs, dir, name, &|_| Ok(()), content)
}

fn write_and_rename(
    fs: &dyn FileSystem,
    dir: &Path,
    name: &str,
    finish: &dyn Fn(&dyn LogFile) -> io::Result<()>,
    content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let written = write_to(fs, &temporary, content)
        .and_then(|file| finish(&*file))
        .and_then(|()| fs.rename(&temporary, &dir.join(name)));
    if written.is_err() {
        // The first error is the one to report; a file left behind is replaced by the next attempt.
        drop(fs.remove(&temporary));
    }
    written
}

fn write_to(
    fs: &dyn FileSystem,
    path: &Path,
    content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Arc<dyn LogFile>> {
    let file = fs.create(path)?;
    let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, SequentialWriter { file: &*file, offset: 0 });
    content(&mut writer)?;
    writer.flush()?;
    drop(writer);
    Ok(file)
}

struct SequentialWriter<'a> {
    file: &'a dyn LogFile,
    offset: u64,
}

impl Write for SequentialWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills `buffer` from `offset` on as far as the file goes.
///
/// # Errors
/// What the system says; an interrupted read goes on.
pub fn read_full(file: &dyn LogFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
