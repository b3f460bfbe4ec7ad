//! A file system in memory that can crash, for tests.
//!
//! What a program writes is in the cache until the file is synced, and names are until the directory is. A crash
//! keeps what was synced and an arbitrary part of the rest: any subset of the name changes, and of each write all,
//! nothing, the bytes up to anywhere, or any of its sectors. A failed sync drops the dirty data, as Linux does: the
//! cache still shows it, and a second sync succeeds without writing it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::file_system::{DiskSpace, FileEntry, FileLock, FileSystem, LockError, LogFile};
use crate::event::UnixMicros;

const SECTOR: usize = 512;

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    /// From 0 up to, not including, `sides`, which is not 0.
    pub fn roll(&mut self, sides: usize) -> usize {
        (self.next() % sides as u64) as usize
    }
}

/// What the file system only pretends to do: the negative controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pretend {
    Nothing,
    SyncData,
    SyncDir,
}

/// What happens at one operation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The power goes: this and everything after it fails.
    Crash,
    /// This operation fails, the ones after it work.
    Error(i32),
}

#[derive(Debug, Clone)]
pub(crate) struct SimFileSystem(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    reads: u64,
    read_fault: Option<u64>,
    crashed: bool,
    pretend: Pretend,
    available: u64,
    random: Random,
    now: i64,
    /// Of all operations so far, their places, lengths and outcomes.
    fingerprint: u32,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    cache: Vec<u8>,
    disk: Vec<u8>,
    dirty: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf, u64),
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    inode: u64,
}

#[derive(Debug)]
struct SimLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl FileLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.state.lock().locks.remove(&self.path);
    }
}

impl SimFileSystem {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            locks: BTreeSet::new(),
            operations: 0,
            fault: None,
            reads: 0,
            read_fault: None,
            crashed: false,
            pretend: Pretend::Nothing,
            available: u64::MAX,
            random: Random::new(seed),
            now: 1_700_000_000_000_000,
            fingerprint: 0,
        })))
    }

    pub fn pretend(&self, pretend: Pretend) {
        self.0.lock().pretend = pretend;
    }

    /// Whether the power has gone.
    pub fn is_crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Lets one of the reads to come fail with EIO: the next one, or as many later.
    pub fn fail_read_after(&self, reads: u64) {
        let mut state = self.0.lock();
        state.read_fault = Some(state.reads + reads);
    }

    /// Whether something is still to fail.
    pub fn has_fault(&self) -> bool {
        let state = self.0.lock();
        state.fault.is_some_and(|(at, _)| at >= state.operations)
            || state.read_fault.is_some_and(|at| at >= state.reads)
    }

    /// Lets no further operation meet a fault.
    pub fn heal(&self) {
        let mut state = self.0.lock();
        (state.fault, state.read_fault) = (None, None);
    }

    /// The same for the same operations with the same outcomes in the same order.
    pub fn fingerprint(&self) -> u32 {
        self.0.lock().fingerprint
    }

    /// Changes a bit of what the file holds, behind everybody's back.
    pub fn flip(&self, path: &Path, bit: usize) {
        let mut state = self.0.lock();
        let inode = state.find(path).expect("the file is there");
        let inode = state.inode(inode);
        for content in [&mut inode.cache, &mut inode.disk] {
            if let Some(byte) = content.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Lets the operation with this number, from 0, meet the fault.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.0.lock().fault = Some((operation, fault));
    }

    pub fn set_available(&self, bytes: u64) {
        self.0.lock().available = bytes;
    }

    pub fn advance_clock(&self, seconds: i64) {
        self.0.lock().now += seconds * 1_000_000;
    }

    /// What is found after the power is back.
    pub fn after_crash(&self, seed: u64) -> Self {
        let state = self.0.lock();
        let fresh = Self::new(seed ^ 0x5EED);
        {
            let mut after = fresh.0.lock();
            after.random = Random::new(seed);
            after.fingerprint = state.fingerprint;
            let mut names = state.durable_names.clone();
            for change in &state.pending_names {
                if after.random.roll(2) == 0 {
                    change.apply(&mut names);
                }
            }
            let named: BTreeSet<u64> = names.values().copied().collect();
            for (number, inode) in state.inodes.iter().filter(|(number, _)| named.contains(number)) {
                let mut disk = inode.disk.clone();
                for change in &inode.dirty {
                    after.tear(change, &mut disk);
                }
                after.inodes.insert(*number, Inode { cache: disk.clone(), disk, dirty: Vec::new() });
            }
            after.next_inode = state.next_inode;
            after.names = names.clone();
            after.durable_names = names;
            after.now = state.now;
            after.pretend = state.pretend;
        }
        fresh
    }

    /// The names of the files there are.
    pub fn names(&self) -> Vec<String> {
        let state = self.0.lock();
        state.names.keys().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
    }
}

impl State {
    fn tear(&mut self, change: &Change, disk: &mut Vec<u8>) {
        let Change::Write { offset, bytes } = change else {
            if self.random.roll(2) == 0 {
                change.apply(disk);
            }
            return;
        };
        match self.random.roll(4) {
            0 => {}
            1 => change.apply(disk),
            2 => {
                let kept = self.random.roll(bytes.len() + 1);
                Change::Write { offset: *offset, bytes: bytes[..kept].to_vec() }.apply(disk);
            }
            _ => {
                let mut start = *offset;
                while start < offset + bytes.len() {
                    let end = ((start / SECTOR + 1) * SECTOR).min(offset + bytes.len());
                    if self.random.roll(2) == 0 {
                        let sector = bytes[start - offset..end - offset].to_vec();
                        Change::Write { offset: start, bytes: sector }.apply(disk);
                    }
                    start = end;
                }
            }
        }
    }

    /// Counts a changing operation. `Err` says that it meets a fault.
    fn operation(&mut self, what: std::fmt::Arguments<'_>) -> io::Result<()> {
        if self.crashed {
            return Err(io::Error::from_raw_os_error(5));
        }
        let number = self.operations;
        self.operations += 1;
        let outcome = match self.fault {
            Some((at, fault)) if at == number => match fault {
                Fault::Crash => {
                    self.crashed = true;
                    Err(io::Error::from_raw_os_error(5))
                }
                Fault::Error(code) => Err(io::Error::from_raw_os_error(code)),
            },
            _ => Ok(()),
        };
        let line = format!("{what} {}", outcome.is_ok());
        self.fingerprint = crc32c::crc32c_append(self.fingerprint, line.as_bytes());
        outcome
    }

    /// Counts a read. `Err` says that it meets a fault.
    fn read(&mut self) -> io::Result<()> {
        let number = self.reads;
        self.reads += 1;
        if self.read_fault == Some(number) {
            self.fingerprint = crc32c::crc32c_append(self.fingerprint, b"read error");
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("inodes are never removed")
    }

    fn change(&mut self, inode: u64, change: Change) {
        let inode = self.inode(inode);
        change.apply(&mut inode.cache);
        inode.dirty.push(change);
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { bytes, .. } if bytes.is_empty() => {}
            Self::Write { offset, bytes } => {
                content.resize(content.len().max(offset + bytes.len()), 0);
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetLen(length) => content.resize(*length, 0),
        }
    }
}

impl NameChange {
    /// A file never leaves its directory.
    fn path(&self) -> &Path {
        match self {
            Self::Create(path, _) | Self::Rename(path, _, _) | Self::Remove(path, _) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            Self::Remove(path, inode) => {
                if names.get(path) == Some(inode) {
                    names.remove(path);
                }
            }
        }
    }
}

impl LogFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.read()?;
        let cache = &state.inode(self.inode).cache;
        let rest = cache.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let alive = !state.crashed;
        let outcome = state.operation(format_args!("write {} {offset} {}", self.inode, bytes.len()));
        // A write that meets a fault may still have reached the cache.
        if alive {
            state.change(self.inode, Change::Write { offset: offset as usize, bytes: bytes.to_vec() });
        }
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let alive = !state.crashed;
        let outcome = state.operation(format_args!("sync {}", self.inode));
        let (crashed, pretend) = (state.crashed, state.pretend);
        let inode = state.inode(self.inode);
        match &outcome {
            Ok(()) if pretend == Pretend::SyncData => {}
            Ok(()) => {
                for change in std::mem::take(&mut inode.dirty) {
                    change.apply(&mut inode.disk);
                }
            }
            Err(_) if alive && !crashed => inode.dirty.clear(),
            Err(_) => {}
        }
        outcome
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().inode(self.inode).cache.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operation(format_args!("set length {} {bytes}", self.inode))?;
        state.change(self.inode, Change::SetLen(bytes as usize));
        Ok(())
    }
}

impl FileSystem for SimFileSystem {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.lock().operation(format_args!("make {}", dir.display()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        let state = self.0.lock();
        let here = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, inode): (&PathBuf, &u64)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(FileEntry { name, bytes: state.inodes[inode].cache.len() as u64 })
        };
        Ok(here.filter_map(entry).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let inode = self.0.lock().find(path)?;
        Ok(Arc::new(SimFile { state: Arc::clone(&self.0), inode }))
    }

    fn open_for_writing(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        self.0.lock().operation(format_args!("open {}", path.display()))?;
        self.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn LogFile>> {
        let mut state = self.0.lock();
        state.operation(format_args!("create {}", path.display()))?;
        state.next_inode += 1;
        let inode = state.next_inode;
        state.inodes.insert(inode, Inode::default());
        state.change_name(NameChange::Create(path.to_owned(), inode));
        Ok(Arc::new(SimFile { state: Arc::clone(&self.0), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operation(format_args!("rename {} {}", from.display(), to.display()))?;
        let inode = state.find(from)?;
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operation(format_args!("remove {}", path.display()))?;
        let inode = state.find(path)?;
        state.change_name(NameChange::Remove(path.to_owned(), inode));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operation(format_args!("sync names {}", dir.display()))?;
        if state.pretend != Pretend::SyncDir {
            let pending = std::mem::take(&mut state.pending_names);
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                pending.into_iter().partition(|change| change.path().parent() == Some(dir));
            state.pending_names = elsewhere;
            for change in here {
                change.apply(&mut state.durable_names);
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>, LockError> {
        if self.0.lock().locks.insert(path.to_owned()) {
            Ok(Box::new(SimLock { state: Arc::clone(&self.0), path: path.to_owned() }))
        } else {
            Err(LockError::Held { holder: None })
        }
    }

    fn space(&self, _dir: &Path) -> io::Result<DiskSpace> {
        Ok(DiskSpace { available: self.0.lock().available, total: u64::MAX })
    }

    fn random(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        buffer.iter_mut().for_each(|byte| *byte = state.random.next() as u8);
        Ok(())
    }

    fn now(&self) -> UnixMicros {
        let mut state = self.0.lock();
        state.now += 1_000;
        UnixMicros::from_micros(state.now)
    }
}
