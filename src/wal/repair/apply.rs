//! Carrying a plan out, so that a crash at any point leaves what another repair can go on from: a segment is replaced by a
//! rename, once its successor and a copy of itself are on the disk; files that have each other's names give them up first.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::RepairError;
use super::candidates::read_whole;
use super::plan::{Plan, Rewrite, Step};
use super::salvage::{self, Part};
use crate::event::Sequence;
use crate::wal::file_system::{FileSystem, LogFile};
use crate::wal::format::{FRAME_HEADER_BYTES, FileName, RECORD_PREFIX_BYTES, Salted, SegmentHeader, segment_name};
use crate::wal::frame::Frame;

/// Most markers of a frame: as many records as the broker puts into one.
const MARKERS_MAX: u64 = 8_192;
/// Bytes gathered before a write.
const WRITE_BYTES: usize = 1024 * 1024;
/// What a segment is called until it is whole. Nobody takes it for one.
const UNFINISHED_SUFFIX: &str = ".repair";

/// What follows the name of a segment that has given its name up, until it gets its own. Another repair takes it for a
/// segment with a wrong name, and goes on.
const MOVING: &str = "moving";

/// Does every step. `lost` is what stands in the place of each lost record. Returns where damaged files are now; None if
/// there are none.
pub(super) fn apply(fs: &dyn FileSystem, dir: &Path, plan: &Plan, lost: &[u8]) -> Result<Option<PathBuf>, RepairError> {
    remove_unfinished(fs, dir).map_err(RepairError::io("clean up", dir))?;
    let mut aside = Aside { fs, dir, folder: None };
    for step in &plan.steps {
        if let Step::MoveAside(path) = step {
            aside.take(path).map_err(RepairError::io("move aside", path))?;
        }
    }
    let moving = give_names_up(fs, dir, &plan.steps)?;
    for step in &plan.steps {
        match step {
            Step::MoveAside(_) => {}
            Step::PutBack { from, to } => {
                let from = moving.get(from).unwrap_or(from);
                must_be_free(fs, from, to)?;
                let renamed = fs.rename(from, to).and_then(|()| fs.sync_dir(dir));
                renamed.map_err(RepairError::io("rename", from))?;
            }
            Step::Write(rewrite) => write(&mut aside, rewrite, &moving, lost)?,
        }
    }
    Ok(aside.folder)
}

/// Every file that has the name of a segment, but not its own, gets one that no segment has: a permutation has no order
/// in which each name is free when it is needed. Returns the new paths by the old ones.
fn give_names_up(fs: &dyn FileSystem, dir: &Path, steps: &[Step]) -> Result<HashMap<PathBuf, PathBuf>, RepairError> {
    let entries = fs.list(dir).map_err(RepairError::io("list", dir))?;
    let mut taken: HashSet<String> = entries.into_iter().map(|entry| entry.name).collect();
    let mut moving = HashMap::new();
    for (from, _) in steps.iter().filter_map(|step| step.moves(dir)) {
        let name = from.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let FileName::Segment(first) = FileName::parse(name) else { continue };
        let names = (1..).map(|number: u64| format!("{:020}.{MOVING}-{number}.wal", first.get()));
        let to = names.into_iter().find(|name| !taken.contains(name)).expect("there are more numbers than files");
        fs.rename(from, &dir.join(&to)).map_err(RepairError::io("rename", from))?;
        moving.insert(from.to_owned(), dir.join(&to));
        taken.insert(to);
    }
    if !moving.is_empty() {
        fs.sync_dir(dir).map_err(RepairError::io("sync", dir))?;
    }
    Ok(moving)
}

/// The last guard: nothing takes the place of a file of which no copy was kept.
fn must_be_free(fs: &dyn FileSystem, from: &Path, to: &Path) -> Result<(), RepairError> {
    match fs.open(to) {
        Ok(_) => Err(RepairError::InTheWay { from: from.to_owned(), to: to.to_owned() }),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(RepairError::io("open", to)(source)),
    }
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

    /// A copy under the name it had, so that the file itself stays until another takes its place.
    fn copy(&mut self, path: &Path, named: &Path) -> io::Result<()> {
        let (to, folder) = self.place(named)?;
        let bytes = read_whole(self.fs, path).map_err(|error| io::Error::other(error.to_string()))?;
        let file = self.fs.create(&to)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        self.fs.sync_dir(&folder)
    }
}

fn write(
    aside: &mut Aside<'_>,
    rewrite: &Rewrite,
    moving: &HashMap<PathBuf, PathBuf>,
    lost: &[u8],
) -> Result<(), RepairError> {
    let (fs, dir) = (aside.fs, aside.dir);
    let name = segment_name(rewrite.header.first);
    let path = dir.join(&name);
    let unfinished = dir.join(format!("{name}{UNFINISHED_SUFFIX}"));
    let mut parts = Vec::new();
    let source_path = rewrite.source.as_ref().map(|source| moving.get(&source.path).unwrap_or(&source.path));
    if let (Some(source), Some(at)) = (&rewrite.source, source_path) {
        let bytes = read_whole(fs, at)?;
        parts = salvage::salvage(&bytes, source.salted, rewrite.header.first, source.last).parts;
    }
    if let Some((first, last)) = rewrite.lost {
        parts.push(Part::Lost { first, records: last.next().get() - first.get() });
    }
    write_segment(fs, &unfinished, &rewrite.header, &parts, lost).map_err(RepairError::io("write", &unfinished))?;
    if let (Some(source), Some(at)) = (&rewrite.source, source_path) {
        aside.copy(at, &source.path).map_err(RepairError::io("copy", at))?;
    }
    if rewrite.replaces {
        aside.copy(&path, &path).map_err(RepairError::io("copy", &path))?;
    } else if source_path != Some(&path) {
        must_be_free(fs, &unfinished, &path)?;
    }
    fs.rename(&unfinished, &path).and_then(|()| fs.sync_dir(dir)).map_err(RepairError::io("replace", &path))?;
    if let Some(at) = source_path.filter(|at| **at != path) {
        // It was misnamed; the folder has a copy of it.
        fs.remove(at).and_then(|()| fs.sync_dir(dir)).map_err(RepairError::io("remove", at))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::sim::SimFileSystem;

    #[test]
    fn a_rename_onto_a_file_that_nobody_keeps_is_refused() {
        let fs = SimFileSystem::new(1);
        let dir = Path::new("/log");
        let (from, to) = (dir.join("x.wal"), dir.join(segment_name(Sequence::new(1))));
        for path in [&from, &to] {
            fs.create(path).expect("made").write_all_at(path.as_os_str().as_encoded_bytes(), 0).expect("written");
        }
        let plan = Plan { steps: vec![Step::PutBack { from: from.clone(), to: to.clone() }], ..Plan::default() };
        let error = apply(&fs, dir, &plan, b"\0").expect_err("in the way");
        assert!(matches!(&error, RepairError::InTheWay { to: at, .. } if *at == to), "{error}");
        for path in [&from, &to] {
            assert_eq!(read_whole(&fs, path).expect("still there"), path.as_os_str().as_encoded_bytes());
        }
    }
}
