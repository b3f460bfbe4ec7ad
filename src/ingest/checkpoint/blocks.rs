//! Files of a checkpoint, written and read in one pass with the checksum of all their bytes.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::{CheckpointError, VERSION};
use crate::wal::{FileSystem, LogFile};

/// Counts and sums what is written.
pub(super) struct Output<'a> {
    writer: &'a mut dyn Write,
    crc: u32,
    /// Written so far.
    pub bytes: u64,
}

impl<'a> Output<'a> {
    pub fn to(writer: &'a mut dyn Write) -> Self {
        Self { writer, crc: 0, bytes: 0 }
    }

    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        self.writer.write_all(bytes)
    }

    /// Writes the checksum of everything before it, which is the last.
    pub fn end(&mut self) -> io::Result<()> {
        let crc = self.crc;
        self.put(&crc.to_le_bytes())
    }
}

/// Bytes read at once: a million subjects are 30 to 40 MB.
pub(super) const READ_BYTES: usize = 1024 * 1024;

/// The file from its start on, in blocks, with the checksum of what was taken.
pub(super) struct Input<'a> {
    file: Arc<dyn LogFile>,
    path: &'a Path,
    /// Where the block is in the file.
    block_at: u64,
    block: Vec<u8>,
    /// How much of the block was taken.
    taken: usize,
    /// How much of it is in `crc`.
    summed: usize,
    crc: u32,
}

impl<'a> Input<'a> {
    pub fn open(files: &dyn FileSystem, path: &'a Path) -> Result<Option<Self>, CheckpointError> {
        match files.open(path) {
            Ok(file) => Ok(Some(Self { file, path, block_at: 0, block: Vec::new(), taken: 0, summed: 0, crc: 0 })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CheckpointError::Io { action: "open", path: path.to_owned(), source }),
        }
    }

    pub fn offset(&self) -> u64 {
        self.block_at + self.taken as u64
    }

    /// The next `count` bytes, which are not taken yet.
    pub fn next(&mut self, count: usize) -> Result<&[u8], CheckpointError> {
        while self.block.len() - self.taken < count {
            self.sum();
            self.block_at += self.taken as u64;
            self.block.drain(..self.taken);
            (self.taken, self.summed) = (0, 0);
            let kept = self.block.len();
            // No more than there is, and a byte more so that the end is seen.
            let left =
                self.file.len().map_or(u64::MAX, |length| length.saturating_sub(self.block_at + kept as u64) + 1);
            self.block.resize(kept + usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES), 0);
            let read = self.file.read_at(&mut self.block[kept..], self.block_at + kept as u64);
            self.block.truncate(kept + read.as_ref().map_or(0, |read| *read));
            match read {
                Ok(0) => return Err(self.damaged("the file ends early")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(CheckpointError::Io { action: "read", path: self.path.to_owned(), source });
                }
            }
        }
        Ok(&self.block[self.taken..self.taken + count])
    }

    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.next(N)?);
        self.taken += N;
        Ok(bytes)
    }

    /// Brings the checksum up to what was taken.
    fn sum(&mut self) -> u32 {
        self.crc = crc32c::crc32c_append(self.crc, &self.block[self.summed..self.taken]);
        self.summed = self.taken;
        self.crc
    }

    pub fn damaged(&self, reason: &str) -> CheckpointError {
        CheckpointError::Damaged { path: self.path.to_owned(), offset: self.offset(), reason: reason.to_owned() }
    }

    /// Takes what [`Self::next`] has shown.
    pub fn skip(&mut self, count: usize) {
        self.taken += count;
    }

    pub fn path(&self) -> &Path {
        self.path
    }

    /// Length of the file in bytes; 0 if it cannot be told.
    pub fn length(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }

    /// Bytes from somewhere else, of which nothing is proven.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    /// Takes magic and version; `reason` is what a wrong magic says.
    pub fn begin(&mut self, magic: &[u8; 8], reason: &str) -> Result<(), CheckpointError> {
        if &self.take::<8>()? != magic {
            return Err(self.damaged(reason));
        }
        let version = u32::from_le_bytes(self.take()?);
        if version > VERSION {
            return Err(CheckpointError::NewerVersion { path: self.path.to_owned(), version });
        }
        if version != VERSION {
            return Err(self.damaged("format version 0 was never written"));
        }
        Ok(())
    }

    /// Takes the checksum, behind which nothing follows.
    pub fn end(&mut self) -> Result<(), CheckpointError> {
        let crc = self.sum();
        if u32::from_le_bytes(self.take()?) != crc {
            return Err(self.damaged("the checksum does not match"));
        }
        match self.next(1) {
            Err(CheckpointError::Damaged { .. }) => Ok(()),
            Ok(_) => Err(self.damaged("there is something behind the end")),
            Err(error) => Err(error),
        }
    }
}
