//! A data directory as it stands: to see that nothing in it was deleted or changed, and to put it back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every file below a directory with its length and checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, (u64, u32)>);

impl Snapshot {
    /// Reads everything below `root`, except the lock file, in which each broker leaves its process id, and the embedded store:
    /// a start may open it before it is refused, and its database then removes what it has replaced.
    pub fn of(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    if !path.ends_with("store") {
                        folders.push(path);
                    }
                } else if path.file_name().is_some_and(|name| name != "LOCK" && name != "lock") {
                    let bytes = fs::read(&path).expect("readable");
                    files.insert(path, (bytes.len() as u64, crc32c::crc32c(&bytes)));
                }
            }
        }
        Self(files)
    }

    /// Reads the segments below `root` up to their last record: space that was only taken ahead does not count.
    pub fn of_records(root: &Path) -> Self {
        let records = |path: PathBuf| {
            let mut bytes = fs::read(&path).expect("readable");
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1));
            (path, (bytes.len() as u64, crc32c::crc32c(&bytes)))
        };
        Self(segments(root).into_iter().map(records).collect())
    }

    /// Leaves out the files that were not there before.
    #[must_use]
    pub fn without_new(mut self, before: &Self) -> Self {
        self.0.retain(|path, _| before.0.contains_key(path));
        self
    }

    /// What is another than before, one word a file.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gone =
            before.0.keys().filter(|path| !self.0.contains_key(*path)).map(|path| format!("{} is gone", name(path)));
        let new =
            self.0.keys().filter(|path| !before.0.contains_key(*path)).map(|path| format!("{} is new", name(path)));
        let changed = self.0.iter().filter(|(path, found)| before.0.get(*path).is_some_and(|old| old != *found));
        gone.chain(new).chain(changed.map(|(path, _)| format!("{} was changed", name(path)))).collect()
    }
}

/// Copies a directory with all that is in it, in place of what is there.
pub fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("it is ours");
    }
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "cp failed");
}

/// The segments of a data directory, oldest first.
pub fn segments(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("log")).expect("the log").map(|entry| entry.expect("readable").path());
    let mut segments: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|found| found == "wal")).collect();
    segments.sort();
    segments
}
