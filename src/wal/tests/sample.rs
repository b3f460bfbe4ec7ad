//! A small log in memory, and the ways to damage it.

use std::path::PathBuf;

use super::*;
use crate::wal::sim::SimFileSystem;

/// A log of small frames in memory: several closed segments and a newest one that `restart` has not touched.
pub(super) struct Sample {
    pub fs: SimFileSystem,
    pub last: u64,
}

pub(super) const DIR: &str = "/log";

pub(super) fn sample() -> Sample {
    let fs = SimFileSystem::new(11);
    let mut opened = open(Arc::new(fs.clone()), tight()).expect("opens");
    append_numbered(&mut opened.writer, 40, 2);
    Sample { fs, last: 80 }
}

pub(super) fn tight() -> Options {
    Options { segment_bytes: 8 * 1024, max_bytes: 800 * 1024, frame_bytes_max: 3 * 1024, ..small(Path::new(DIR)) }
}

impl Sample {
    /// A copy whose files can be changed: what a crash with everything synced leaves.
    pub fn copy(&self) -> SimFileSystem {
        self.fs.after_crash(1)
    }

    pub fn segments(&self) -> Vec<PathBuf> {
        let mut names: Vec<_> = self.fs.names().into_iter().filter(|name| name.ends_with(".wal")).collect();
        names.sort();
        names.into_iter().map(|name| Path::new(DIR).join(name)).collect()
    }

    pub fn newest(&self) -> PathBuf {
        self.segments().pop().expect("there is a segment")
    }

    /// Offset, first sequence and end of each frame of a segment.
    pub fn frames(&self, path: &Path) -> Vec<(u64, u64, u64)> {
        let bytes = content(&self.fs, path);
        let mut salt = [0; 16];
        salt.copy_from_slice(&bytes[40..56]);
        let salted = format::Salted::new(&salt);
        let mut offset = format::SEGMENT_HEADER_BYTES;
        let mut frames = Vec::new();
        while let Some(header) = salted.header(&bytes[offset as usize..]) {
            let end = offset + header.frame_bytes() as u64;
            frames.push((offset, header.first.get(), end));
            offset = end;
        }
        frames
    }
}

pub(super) fn content(fs: &SimFileSystem, path: &Path) -> Vec<u8> {
    let file = fs.open(path).expect("the file is there");
    let mut bytes = vec![0; file.len().expect("has a length") as usize];
    file.read_at(&mut bytes, 0).expect("readable");
    bytes
}

pub(super) fn put(fs: &SimFileSystem, path: &Path, bytes: &[u8]) {
    let file = fs.create(path).expect("can be made");
    file.write_all_at(bytes, 0).expect("can be written");
    file.sync_data().expect("can be synced");
    fs.sync_dir(Path::new(DIR)).expect("can be synced");
}

pub(super) fn flip(fs: &SimFileSystem, path: &Path, bit: u64) {
    let mut bytes = content(fs, path);
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    put(fs, path, &bytes);
}

pub(super) fn try_open(fs: &SimFileSystem) -> Result<Opened, OpenError> {
    open(Arc::new(fs.clone()), tight())
}

/// All files but the lock, with their bytes.
pub(super) fn content_of_all(fs: &SimFileSystem) -> Vec<(String, Vec<u8>)> {
    let names = fs.names().into_iter().filter(|name| !name.ends_with("LOCK"));
    names.map(|name| (name.clone(), content(fs, &Path::new(DIR).join(name)))).collect()
}

/// The damage that stops the opening; checks that no segment was changed by it.
pub(super) fn damage(fs: &SimFileSystem) -> Damage {
    let before = content_of_all(fs);
    let error = try_open(fs).expect_err("must be refused");
    assert_eq!(error.kind(), OpenErrorKind::Damaged);
    assert_eq!(content_of_all(fs), before, "files were changed");
    match error {
        OpenError::Damaged(damage) => damage,
        other => panic!("another error: {other}"),
    }
}
