//! What is compared. Each makes one batch durable per `commit`, in a directory of its own.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use okaywal::{Configuration, EntryId, LogManager, SegmentReader, WriteAheadLog};
use walcast::wal::format::{FRAME_HEADER_BYTES, RECORD_PREFIX_BYTES};
use walcast::wal::{self, Batch, DiskFileSystem, Log, Opened, Options, Writer};

use crate::Failure;

/// Bytes of every record.
pub const RECORD_BYTES: usize = 256;
/// Bytes of a file of each contender but okaywal with its defaults.
pub const FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Files that the bare loop writes in turn: as many as the log keeps in turn below.
const FILES: usize = 5;
/// What the log keeps for replay here: with the active segment and the two spares it makes `FILES`.
const KEEP_BYTES: u64 = 2 * FILE_BYTES;
const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Makes batches durable.
pub trait Contender {
    /// Makes the records durable.
    fn commit(&mut self, records: &[Vec<u8>]) -> Result<(), Failure>;
}

/// Bytes that a batch of this many records takes in our log, and so in the bare loop.
pub fn commit_bytes(records: usize) -> usize {
    FRAME_HEADER_BYTES + records * (RECORD_PREFIX_BYTES + RECORD_BYTES)
}

/// Different bytes in every record, none of them zero for long.
pub fn records(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| (0..RECORD_BYTES).map(|at| (number * 31 + at * 7 + 1) as u8).collect()).collect()
}

/// One pwrite, one fdatasync.
pub struct Bare {
    files: Vec<File>,
    file: usize,
    offset: u64,
    bytes: Vec<u8>,
}

impl Bare {
    pub fn new(dir: &Path) -> Result<Self, Failure> {
        fs::create_dir(dir)?;
        // In pieces that suit it best over all sizes: they decide the page cache's folios, see `wal/prepare.rs`.
        let zeros = vec![0; 64 * 1024];
        let make = |number| {
            let file = File::options().read(true).write(true).create_new(true).open(dir.join(format!("{number}")))?;
            for offset in (0..FILE_BYTES).step_by(zeros.len()) {
                file.write_all_at(&zeros, offset)?;
            }
            file.sync_all().map(|()| file)
        };
        let files = (0..FILES).map(make).collect::<io::Result<_>>()?;
        Ok(Self { files, file: 0, offset: wal::format::SEGMENT_HEADER_BYTES, bytes: Vec::new() })
    }
}

impl Contender for Bare {
    fn commit(&mut self, records: &[Vec<u8>]) -> Result<(), Failure> {
        let bytes = commit_bytes(records.len());
        if self.bytes.len() != bytes {
            self.bytes = records.concat().into_iter().cycle().take(bytes).collect();
        }
        if self.offset + bytes as u64 > FILE_BYTES {
            self.file = (self.file + 1) % self.files.len();
            self.offset = wal::format::SEGMENT_HEADER_BYTES;
        }
        let file = &self.files[self.file];
        file.write_all_at(&self.bytes, self.offset)?;
        file.sync_data()?;
        self.offset += bytes as u64;
        Ok(())
    }
}

/// What becomes of the records in our log after they are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumer {
    /// A projector that keeps up: segments are trimmed and their files used again.
    KeepsUp,
    /// None: every segment is a new file.
    Gone,
}

/// Our log with the defaults of the broker, but for what it keeps.
pub struct Ours {
    writer: Writer,
    batch: Batch,
    stop: Arc<AtomicBool>,
    releasing: Option<JoinHandle<()>>,
}

impl Ours {
    pub fn new(dir: &Path, consumer: Consumer) -> Result<Self, Failure> {
        let options = Options {
            segment_bytes: FILE_BYTES,
            max_bytes: 64 * 1024 * 1024 * 1024,
            keep_bytes: KEEP_BYTES,
            frame_bytes_max: FRAME_BYTES_MAX,
            ..Options::new(dir)
        };
        let Opened { writer, log, .. } = wal::open(Arc::new(DiskFileSystem), options)?;
        let stop = Arc::new(AtomicBool::new(false));
        let releasing = match consumer {
            Consumer::KeepsUp => Some(release_as_written(log, Arc::clone(&stop))?),
            Consumer::Gone => None,
        };
        let mut ours = Self { writer, batch: Batch::new(FRAME_BYTES_MAX), stop, releasing };
        if consumer == Consumer::KeepsUp {
            // Up to where files are used again, which is where a log spends its life.
            let records = records(8_192);
            for _ in 0..2 * FILES as u64 * FILE_BYTES / commit_bytes(records.len()) as u64 {
                ours.commit(&records)?;
            }
        }
        Ok(ours)
    }
}

fn release_as_written(log: Log, stop: Arc<AtomicBool>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("consumer".to_owned()).spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = log.release(log.durable().sequence()) {
                eprintln!("log: {error}");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    })
}

impl Contender for Ours {
    fn commit(&mut self, records: &[Vec<u8>]) -> Result<(), Failure> {
        self.batch.clear();
        for record in records {
            self.batch.push(|buffer| {
                buffer.extend_from_slice(record);
                Ok::<(), std::convert::Infallible>(())
            })?;
        }
        self.writer.append(&self.batch)?;
        Ok(())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(releasing) = self.releasing.take() {
            drop(releasing.join());
        }
    }
}

/// okaywal, one entry a batch, one chunk a record; its checkpoints have nothing to do.
pub struct Okay(WriteAheadLog);

#[derive(Debug)]
struct Nothing;

impl LogManager for Nothing {
    fn recover(&mut self, _entry: &mut okaywal::Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

impl Okay {
    /// With the library's defaults: files of 1 MB.
    pub fn with_defaults(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(Configuration::default_for(dir).open(Nothing)?))
    }

    /// With files of our size.
    pub fn with_large_files(dir: &Path) -> Result<Self, Failure> {
        let configuration = Configuration::default_for(dir)
            .preallocate_bytes(u32::try_from(FILE_BYTES)?)
            .checkpoint_after_bytes(FILE_BYTES - FRAME_BYTES_MAX as u64);
        Ok(Self(configuration.open(Nothing)?))
    }
}

impl Contender for Okay {
    fn commit(&mut self, records: &[Vec<u8>]) -> Result<(), Failure> {
        let mut entry = self.0.begin_entry()?;
        for record in records {
            entry.write_chunk(record)?;
        }
        entry.commit()?;
        Ok(())
    }
}
