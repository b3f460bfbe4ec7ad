//! The layout in the data directory: `cluster/layout`, one line of head and one of JSON (docs/cluster.md).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::moves::Moved;
use crate::event::SlotSet;
use crate::wal::{FileSystem, read_full, write_atomically};

const FILE_NAME: &str = "layout";

/// Begins the file; the number is the version of its format.
const HEAD: &str = "walcast layout 1 crc32c ";

/// The largest file that is read: 64 nodes with the longest names and 1,024 slots in single ranges have 30 KB.
const BYTES_MAX: usize = 256 * 1024;

/// Why the kept layout cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The system refuses.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The thread that writes it ended in the middle; a defect.
    #[error("writing the layout ended in the middle: {0}")]
    Lost(String),
    /// The file is not as it was written.
    #[error("the layout in {} is damaged: {reason}; restore the file from a backup of the data directory", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a node keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The node whose data directory it is.
    pub node: String,
    /// The layout that it last started with, and what has moved since.
    pub layout: Layout,
    /// Slots that others own and that the log or the marks may have subjects of: given away, or about to be taken over.
    pub copies: SlotSet,
    /// What was handed over to this node as a whole: it owns these slots as soon as it learns that they have moved so.
    pub ready: Vec<Moved>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    node: String,
    version: u64,
    nodes: BTreeMap<String, String>,
    slots: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moved: Vec<WrittenMove>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    copies: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ready: Vec<WrittenMove>,
}

#[derive(Serialize, Deserialize)]
struct WrittenMove {
    slots: String,
    to: String,
    number: u32,
}

impl From<&Moved> for WrittenMove {
    fn from(Moved { slots, to, number }: &Moved) -> Self {
        Self { slots: slots.to_string(), to: to.clone(), number: *number }
    }
}

impl WrittenMove {
    fn read(self) -> Result<Moved, String> {
        let Self { slots, to, number } = self;
        Ok(Moved { slots: slots.parse().map_err(|error: super::SlotSetError| error.to_string())?, to, number })
    }
}

/// Reads it; None if this was never the data directory of a cluster's node.
pub(super) fn read(files: &dyn FileSystem, directory: &Path) -> Result<Option<Kept>, KeptError> {
    let path = directory.join(FILE_NAME);
    let failed = |source| KeptError::Io { action: "read", path: path.clone(), source };
    let file = match files.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = vec![0; BYTES_MAX + 1];
    let length = read_full(&*file, &mut bytes, 0).map_err(failed)?;
    parse(&bytes[..length]).map(Some).map_err(|reason| KeptError::Damaged { path, reason })
}

fn parse(bytes: &[u8]) -> Result<Kept, String> {
    if bytes.len() > BYTES_MAX {
        return Err("it is too long".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let (head, body) = text.split_once('\n').ok_or_else(|| "it has no first line".to_owned())?;
    let sum = head.strip_prefix(HEAD).ok_or_else(|| "it does not begin as a layout of this version".to_owned())?;
    if sum != checksum(body) {
        return Err("its checksum is another one".to_owned());
    }
    let written: Written = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let Written { node, version, nodes, slots, moved, copies, ready } = written;
    let moves = |written: Vec<WrittenMove>| written.into_iter().map(WrittenMove::read).collect::<Result<Vec<_>, _>>();
    let layout = Layout::new(version, &nodes, &slots).map_err(|error| error.to_string())?;
    let layout = layout.with_moves(&moves(moved)?).map_err(|error| error.to_string())?;
    let copies = copies.parse().map_err(|error: super::SlotSetError| error.to_string())?;
    Ok(Kept { node, layout, copies, ready: moves(ready)? })
}

fn checksum(body: &str) -> String {
    format!("{:08x}", crc32c::crc32c(body.as_bytes()))
}

/// Writes it in place of the one before, crash-safe.
pub(super) fn write(files: &dyn FileSystem, directory: &Path, kept: &Kept) -> Result<(), KeptError> {
    let Kept { node, layout, copies, ready } = kept;
    let with = |value: &dyn Fn(usize) -> String| {
        layout.nodes().iter().enumerate().map(|(at, node)| (node.name.clone(), value(at))).collect()
    };
    let written = Written {
        node: node.clone(),
        version: layout.version().configured,
        nodes: with(&|at| layout.nodes()[at].address.clone()),
        slots: with(&|at| layout.configured_slots(at).to_string()),
        moved: layout.moved().iter().map(WrittenMove::from).collect(),
        copies: copies.to_string(),
        ready: ready.iter().map(WrittenMove::from).collect(),
    };
    let failed = |source| KeptError::Io { action: "write", path: directory.join(FILE_NAME), source };
    let mut body = serde_json::to_string(&written).map_err(|error| failed(error.into()))?;
    body.push('\n');
    files.create_dir_all(directory).map_err(failed)?;
    let text = format!("{HEAD}{}\n{body}", checksum(&body));
    write_atomically(files, directory, FILE_NAME, &mut |file| file.write_all(text.as_bytes())).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::DiskFileSystem;

    fn kept() -> Kept {
        let nodes = [("a", "h:1"), ("b", "h:2")].map(|(name, address)| (name.to_owned(), address.to_owned()));
        let layout = Layout::new(7, &BTreeMap::from(nodes), &BTreeMap::new()).expect("a layout");
        Kept { node: "b".to_owned(), layout, copies: SlotSet::default(), ready: Vec::new() }
    }

    fn slots(text: &str) -> SlotSet {
        text.parse().expect("slots")
    }

    /// With everything in it.
    fn moved() -> Kept {
        let layout = kept().layout.after_move(&slots("0-9+1023"), 1).after_move(&slots("5-6"), 0);
        let ready = Moved { slots: slots("12"), to: "b".to_owned(), number: 1 };
        Kept { layout, copies: slots("5-6+12"), ready: vec![ready], ..kept() }
    }

    #[test]
    fn what_is_written_is_read_and_replaced_as_a_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cluster");
        assert_eq!(read(&DiskFileSystem, &path).expect("readable"), None);
        for node in ["b", "a"] {
            let kept = Kept { node: node.to_owned(), ..kept() };
            write(&DiskFileSystem, &path, &kept).expect("written");
            assert_eq!(read(&DiskFileSystem, &path).expect("readable"), Some(kept));
        }
        write(&DiskFileSystem, &path, &moved()).expect("written");
        assert_eq!(read(&DiskFileSystem, &path).expect("readable"), Some(moved()));
    }

    #[test]
    fn one_of_before_slots_could_move_is_read() {
        let body = "{\"node\":\"b\",\"version\":7,\"nodes\":{\"a\":\"h:1\",\"b\":\"h:2\"},\"slots\":{\"a\":\"0-511\",\"b\":\"512-1023\"}}\n";
        let text = format!("{HEAD}{}\n{body}", checksum(body));
        assert_eq!(parse(text.as_bytes()), Ok(kept()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        write(&DiskFileSystem, directory.path(), &moved()).expect("written");
        let good = std::fs::read(directory.path().join(FILE_NAME)).expect("there");
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_err(), "cut at {length}");
        }
        assert_eq!(parse(&good), Ok(moved()));
    }
}
