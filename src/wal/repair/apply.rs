//! Carrying a plan out, so that a crash at any point leaves what another repair can go on from: a segment is replaced by a
//! rename, once its successor and a copy of itself are on the disk.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::RepairError;
use super::candidates::read_whole;
use super::plan::{Plan, Rewrite, Step};
use super::salvage::{self, Part};
use crate::event::Sequence;
use crate::wal::file_system::{FileSystem, LogFile};
use crate::wal::format::{FRAME_HEADER_BYTES, RECORD_PREFIX_BYTES, Salted, SegmentHeader, segment_name};
use crate::wal::frame::Frame;

/// Most markers of a frame: as many records as the broker puts into one.
const MARKERS_MAX: u64 = 8_192;
/// Bytes gathered before a write.
const WRITE_BYTES: usize = 1024 * 1024;
/// What a segment is called until it is whole. Nobody takes it for one.
const UNFINISHED_SUFFIX: &str = ".repair";

/// Does every step. `lost` is what stands in the place of each lost record. Returns where damaged files are now; None if
/// there are none.
pub(super) fn apply(fs: &dyn FileSystem, dir: &Path, plan: &Plan, lost: &[u8]) -> Result<Option<PathBuf>, RepairError> {
    remove_unfinished(fs, dir).map_err(RepairError::io("clean up", dir))?;
    let mut aside = Aside { fs, dir, folder: None };
    for step in &plan.steps {
        match step {
            Step::MoveAside(path) => aside.take(path).map_err(RepairError::io("move aside", path))?,
            Step::PutBack { from, to } => {
                let renamed = fs.rename(from, to).and_then(|()| fs.sync_dir(dir));
                renamed.map_err(RepairError::io("rename", from))?;
            }
            Step::Write(rewrite) => write(&mut aside, rewrite, lost)?,
        }
    }
    Ok(aside.folder)
}

fn remove_unfinished(fs: &dyn FileSystem, dir: &Path) -> io::Result<()> {
    for entry in fs.list(dir)?.into_iter().filter(|entry| entry.name.ends_with(UNFINISHED_SUFFIX)) {
        fs.remove(&dir.join(entry.name))?;
    }
    Ok(())
}

/// The folder of damaged files, made when the first one comes.
struct Aside<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    folder: Option<PathBuf>,
}

impl Aside<'_> {
    fn folder(&mut self) -> io::Result<PathBuf> {
        if let Some(folder) = &self.folder {
            return Ok(folder.clone());
        }
        let now = jiff::Timestamp::from_microsecond(self.fs.now().as_micros()).map_err(io::Error::other)?;
        let name = format!("damaged-{}", now.strftime("%Y%m%dT%H%M%SZ"));
        let taken = |folder: &Path| self.fs.list(folder).is_ok_and(|entries| !entries.is_empty());
        let mut folder = self.dir.join(&name);
        for number in 2.. {
            if !taken(&folder) {
                break;
            }
            folder = self.dir.join(format!("{name}-{number}"));
        }
        self.fs.create_dir_all(&folder)?;
        self.folder = Some(folder.clone());
        Ok(folder)
    }

    fn place(&mut self, path: &Path) -> io::Result<(PathBuf, PathBuf)> {
        let folder = self.folder()?;
        let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok((folder.join(name), folder))
    }

    fn take(&mut self, path: &Path) -> io::Result<()> {
        let (to, folder) = self.place(path)?;
        self.fs.rename(path, &to)?;
        self.fs.sync_dir(&folder)?;
        self.fs.sync_dir(self.dir)
    }

    /// A copy, so that the file keeps its name until another takes it.
    fn copy(&mut self, path: &Path) -> io::Result<()> {
        let (to, folder) = self.place(path)?;
        let bytes = read_whole(self.fs, path).map_err(|error| io::Error::other(error.to_string()))?;
        let file = self.fs.create(&to)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        self.fs.sync_dir(&folder)
    }
}

fn write(aside: &mut Aside<'_>, rewrite: &Rewrite, lost: &[u8]) -> Result<(), RepairError> {
    let (fs, dir) = (aside.fs, aside.dir);
    let name = segment_name(rewrite.header.first);
    let path = dir.join(&name);
    let unfinished = dir.join(format!("{name}{UNFINISHED_SUFFIX}"));
    let mut parts = Vec::new();
    if let Some(source) = &rewrite.source {
        let bytes = read_whole(fs, &source.path)?;
        parts = salvage::salvage(&bytes, source.salted, rewrite.header.first, source.last).parts;
    }
    if let Some((first, last)) = rewrite.lost {
        parts.push(Part::Lost { first, records: last.next().get() - first.get() });
    }
    write_segment(fs, &unfinished, &rewrite.header, &parts, lost).map_err(RepairError::io("write", &unfinished))?;
    if let Some(source) = &rewrite.source {
        aside.copy(&source.path).map_err(RepairError::io("copy", &source.path))?;
    }
    fs.rename(&unfinished, &path).and_then(|()| fs.sync_dir(dir)).map_err(RepairError::io("replace", &path))?;
    if let Some(source) = rewrite.source.as_ref().filter(|source| source.path != path) {
        // It was misnamed; the folder has a copy of it.
        let removed = fs.remove(&source.path).and_then(|()| fs.sync_dir(dir));
        removed.map_err(RepairError::io("remove", &source.path))?;
    }
    Ok(())
}

fn write_segment(
    fs: &dyn FileSystem,
    path: &Path,
    header: &SegmentHeader,
    parts: &[Part],
    lost: &[u8],
) -> io::Result<()> {
    let mut header = SegmentHeader { reused: false, ..header.clone() };
    fs.random(&mut header.salt)?;
    let file = fs.create(path)?;
    let mut out = Out { file: &*file, salted: Salted::new(&header.salt), offset: 0, buffer: header.encode() };
    for part in parts {
        match part {
            Part::Kept(frame) => out.frame(frame)?,
            Part::Lost { first, records } => {
                for done in (0..*records).step_by(MARKERS_MAX as usize) {
                    out.frame(&markers(first.plus(done), (records - done).min(MARKERS_MAX), lost))?;
                }
            }
        }
    }
    out.flush()?;
    file.sync_data()
}

/// A frame of nothing but markers.
fn markers(first: Sequence, count: u64, lost: &[u8]) -> Frame {
    let mut record = (lost.len() as u32).to_le_bytes().to_vec();
    record.extend_from_slice(lost);
    debug_assert_eq!(record.len(), RECORD_PREFIX_BYTES + lost.len());
    // At most `MARKERS_MAX`.
    Frame::new(first, count as u32, Bytes::from(record.repeat(count as usize))).expect("it is made of whole records")
}

struct Out<'a> {
    file: &'a dyn LogFile,
    salted: Salted,
    offset: u64,
    buffer: Vec<u8>,
}

impl Out<'_> {
    fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        let start = self.buffer.len();
        self.buffer.resize(start + FRAME_HEADER_BYTES, 0);
        self.buffer.extend_from_slice(&frame.payload);
        self.salted.seal(&mut self.buffer[start..], frame.records, frame.first);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
