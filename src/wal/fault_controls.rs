//! What the log must never do, done on purpose: the negative controls of the fault rigs.
//!
//! Compiled with the feature `fault-controls` only, which no release has. A rig that finds nothing wrong with a broker
//! that misbehaves like this proves nothing about one that behaves.
//!
//! | `WALCAST_FAULT_CONTROL` | what goes wrong |
//! |---|---|
//! | `skip-fsync` | appended frames are acknowledged without an fdatasync; headers, spares and names are still synced |
//! | `retry-fsync` | a failed fdatasync of any file is tried once more, and the second answer believed |
//! | `ignore-checksum` | a frame is taken whatever its two checksums are |
//! | `reuse-salt` | a trimmed file becomes a segment with the salt that its old frames have |

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::event::UnixMicros;

use super::error::OpenError;
use super::file_system::{DiskSpace, FileEntry, FileLock, FileSystem, LockError, LogFile, read_full};
use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// The environment variable that turns one of them on.
pub const VARIABLE: &str = "WALCAST_FAULT_CONTROL";

/// One way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultControl {
    /// Acknowledges what is not on the disk.
    SkipFsync,
    /// Believes the second fdatasync after the first has failed.
    RetryFsync,
    /// Takes damaged frames.
    IgnoreChecksum,
    /// Starts a segment with the salt of the old bytes in its file.
    ReuseSalt,
}

const ALL: [(&str, FaultControl); 4] = [
    ("skip-fsync", FaultControl::SkipFsync),
    ("retry-fsync", FaultControl::RetryFsync),
    ("ignore-checksum", FaultControl::IgnoreChecksum),
    ("reuse-salt", FaultControl::ReuseSalt),
];

impl fmt::Display for FaultControl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = ALL.iter().find(|(_, control)| control == self);
        formatter.write_str(named.map_or("unknown", |(name, _)| name))
    }
}

/// The control that the environment asks for; the value itself if there is none of that name.
fn asked_for() -> Result<Option<FaultControl>, String> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    ALL.iter().find(|(name, _)| *name == value).map(|(_, control)| Some(*control)).ok_or(value)
}

/// The control that is on. A name that does not exist has stopped the log from opening.
fn active() -> Option<FaultControl> {
    asked_for().ok().flatten()
}

/// The file system that misbehaves as the environment asks, and says so; `fs` itself if it asks for nothing.
///
/// # Errors
/// [`OpenError::Config`] if it asks for something unknown: a control that is not on proves nothing either.
pub(super) fn around(fs: Arc<dyn FileSystem>) -> Result<Arc<dyn FileSystem>, OpenError> {
    let control = asked_for().map_err(|value| {
        let known = ALL.map(|(name, _)| name).join(", ");
        OpenError::Config { setting: VARIABLE, reason: format!("there is no {value:?}; one of {known}") }
    })?;
    let Some(control) = control else { return Ok(fs) };
    tracing::warn!(
        %control,
        "THIS BROKER LOSES DATA ON PURPOSE: it is a control of the fault rigs, never to be used for anything else"
    );
    Ok(Arc::new(FaultyFileSystem { fs, control }))
}

/// Whether wrong checksums are to be taken for right ones.
pub(super) fn ignores_checksums() -> bool {
    active() == Some(FaultControl::IgnoreChecksum)
}

/// Puts the salt of the segment that `file` was back in place of the new one.
pub(super) fn reuse_salt(file: &dyn LogFile, salt: &mut [u8; 16]) {
    if active() != Some(FaultControl::ReuseSalt) {
        return;
    }
    let mut block = [0; SEGMENT_HEADER_BYTES as usize];
    if let Ok(read) = read_full(file, &mut block, 0)
        && read == block.len()
        && let Ok(old) = SegmentHeader::decode(&block)
    {
        *salt = old.salt;
    }
}

#[derive(Debug)]
struct FaultyFileSystem {
    fs: Arc<dyn FileSystem>,
    control: FaultControl,
}

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn LogFile>,
    control: FaultControl,
    /// Whether frames were written since the file was opened or cut.
    appended: AtomicBool,
}

impl FaultyFileSystem {
    fn wrap(&self, file: Arc<dyn LogFile>) -> Arc<dyn LogFile> {
        Arc::new(FaultyFile { file, control: self.control, appended: AtomicBool::new(false) })
    }
}

impl LogFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset >= SEGMENT_HEADER_BYTES {
            self.appended.store(true, Ordering::Relaxed);
        }
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.control {
            FaultControl::SkipFsync if self.appended.load(Ordering::Relaxed) => Ok(()),
            FaultControl::RetryFsync => self.file.sync_data().or_else(|_believed_to_pass| self.file.sync_data()),
            _ => self.file.sync_data(),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.appended.store(false, Ordering::Relaxed);
        self.file.set_len(bytes)
    }
}

impl FileSystem for FaultyFileSystem {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.fs.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        self.fs.list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.fs.open(path)
    }

    fn open_for_writing(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.fs.open_for_writing(path).map(|file| self.wrap(file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let file = self.fs.create(path)?;
        // A file that is being made is no segment: nothing in it is acknowledged.
        Ok(if self.control == FaultControl::SkipFsync { file } else { self.wrap(file) })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fs.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fs.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>, LockError> {
        self.fs.lock(path)
    }

    fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        self.fs.space(dir)
    }

    fn random(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.fs.random(buffer)
    }

    fn now(&self) -> UnixMicros {
        self.fs.now()
    }
}
