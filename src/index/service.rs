//! The handle of the index.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flume::{Receiver, Sender};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::event::record::{self, Logged};
use crate::event::{MessageId, Sequence, Subject};
use crate::wal::{FileSystem, Log, Place, PlaceError, SegmentInfo};

use super::entry::{Entry, Located, Run, SubjectHasher};
use super::error::IndexError;
use super::file::{FilePart, PartError};
use super::format::{file_name, is_ours};
use super::indexer::Indexer;
use super::parts::Parts;
use super::search::{Candidates, Failed};

/// A durable message, as it is added to the index.
#[derive(Debug, Clone, Copy)]
pub struct Appended<'a> {
    /// Its subject.
    pub subject: &'a str,
    /// Its id.
    pub id: MessageId,
    /// Its sequence.
    pub sequence: Sequence,
    /// Its place.
    pub place: Place,
}

/// What the index says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The log has it: the record's bytes, which are of this subject and id.
    Found(Bytes),
    /// The log does not have it.
    Absent,
    /// Some of the log is not indexed yet; see [`Index::complete`].
    Unknown,
}

/// The index of one log; a clone is the same.
#[derive(Debug, Clone)]
pub struct Index {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub log: Log,
    pub hasher: SubjectHasher,
    pub parts: RwLock<Parts>,
    /// Gaps that are left.
    gaps: watch::Sender<usize>,
    /// Wakes the indexer; one wake-up in the channel is enough.
    wake: Sender<()>,
    /// Tells the indexer to end.
    pub stopping: AtomicBool,
}

impl Index {
    /// Opens the index of `log` in `dir`, which exists. What is there and does not fit the log is removed; what is missing
    /// is built by the [`Indexer`], newest first.
    ///
    /// # Errors
    /// [`IndexError::Io`] if the folder cannot be read.
    pub fn open(fs: Arc<dyn FileSystem>, dir: PathBuf, log: Log) -> Result<(Self, Indexer), IndexError> {
        let found = existing(&*fs, &dir, &log)?;
        let mut parts = Parts::default();
        let mut runs = found.iter().map(|part| part.run()).peekable();
        for segment in log.segments() {
            let mut next = segment.first;
            while let Some(run) = runs.next_if(|run| run.segment == segment.first) {
                if next < run.first {
                    parts.gaps.push(Run { segment: segment.first, first: next, last: run.first.previous() });
                }
                next = run.last.next();
            }
            if next <= segment.last {
                parts.gaps.push(Run { segment: segment.first, first: next, last: segment.last });
            }
        }
        parts.set_files(found);
        let (wake, woken) = flume::bounded(1);
        tracing::debug!(files = parts.files.len(), gaps = parts.gaps.len(), "opened the index of the log");
        let (gaps, _) = watch::channel(parts.gaps.len());
        let hasher = SubjectHasher::new(log.log_id());
        let shared = Arc::new(Shared {
            fs,
            dir,
            log,
            hasher,
            parts: RwLock::new(parts),
            gaps,
            wake,
            stopping: AtomicBool::new(false),
        });
        Ok((Self { shared: Arc::clone(&shared) }, Indexer::new(shared, woken)))
    }

    /// Adds the messages of a durable frame: each record after the last one that was added, and all of one segment.
    pub fn append<'a>(&self, messages: impl Iterator<Item = Appended<'a>>) {
        self.add(|parts| {
            for Appended { subject, id, sequence, place } in messages {
                let hash = self.shared.hasher.hash(subject);
                let entry = Entry { hash, id: id.get(), index: 0, offset: place.offset, crc: place.crc };
                parts.active_for(sequence, &place).push(entry);
            }
        });
    }

    /// Passes over a durable record that holds what was taken over from another node: the one after the last that was
    /// added.
    pub fn append_taken_over(&self, sequence: Sequence, place: &Place) {
        self.add(|parts| parts.active_for(sequence, place).pass());
    }

    fn add(&self, add: impl FnOnce(&mut Parts)) {
        let mut parts = self.shared.parts.write();
        let sealed = parts.sealed.len();
        let gaps = parts.gaps.len();
        add(&mut parts);
        let changed = (sealed, gaps) != (parts.sealed.len(), parts.gaps.len());
        drop(parts);
        if changed {
            self.shared.changed();
        }
    }

    /// The message `id` of `subject`, whose last id is `last`, if the log has it. Reads files, so call it where blocking is allowed.
    ///
    /// # Errors
    /// [`IndexError`] if the system refuses a read. Damage is none: it becomes [`Lookup::Unknown`], and the indexer finds
    /// out whether the index or the log was damaged.
    pub fn message(&self, subject: &Subject, id: MessageId, last: MessageId) -> Result<Lookup, IndexError> {
        let hash = self.shared.hasher.hash(subject.as_str());
        let (located, files, complete) = {
            let parts = self.shared.parts.read();
            (parts.find_in_memory(hash, id.get()), Arc::clone(&parts.files), parts.gaps.is_empty())
        };
        let absent = || if complete { Lookup::Absent } else { Lookup::Unknown };
        let located = match located.is_empty() {
            false => located,
            true => match Candidates::new(&*self.shared.fs, &files, hash).find(id.get(), last.get()) {
                Ok(located) => located,
                Err(failed) => return self.shared.failed(failed).map(|()| Lookup::Unknown),
            },
        };
        let mut other = None;
        for Located { sequence, place, .. } in located {
            match self.shared.log.record_at(sequence, place) {
                Ok(bytes) => {
                    let name = subject.as_str();
                    if let Ok(Logged::Message(record)) = record::decode(&bytes)
                        && (record.subject, record.id) == (name, id)
                    {
                        return Ok(Lookup::Found(bytes));
                    }
                    other = Some(sequence);
                }
                Err(PlaceError::Trimmed { .. }) => {}
                Err(error @ PlaceError::Mismatch { .. }) => {
                    self.shared.distrust(sequence, &error);
                    return Ok(Lookup::Unknown);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(sequence) = other {
            // Another subject with the same hash would be listed beside it.
            self.shared.distrust(sequence, &"the record there is another message");
            return Ok(Lookup::Unknown);
        }
        Ok(absent())
    }

    /// Where up to `limit` messages of `subject` with ids above `after` stand, in the order of their ids; None while some
    /// of the log is not indexed. Reads files, so call it where blocking is allowed.
    ///
    /// # Errors
    /// [`IndexError`] if the system refuses a read.
    pub fn after(&self, subject: &Subject, after: u32, limit: usize) -> Result<Option<Vec<Located>>, IndexError> {
        let hash = self.shared.hasher.hash(subject.as_str());
        let (newest, files, complete) = {
            let parts = self.shared.parts.read();
            (parts.after_in_memory(hash, after, limit), Arc::clone(&parts.files), parts.gaps.is_empty())
        };
        if !complete {
            return Ok(None);
        }
        match Candidates::new(&*self.shared.fs, &files, hash).after(after, limit) {
            Ok(mut located) => {
                located.extend(newest);
                // A part that is in memory because it could not be written may be older than one that is in a file.
                located.sort_unstable_by_key(|located| located.sequence);
                located.truncate(limit);
                Ok(Some(located))
            }
            Err(failed) => self.shared.failed(failed).map(|()| None),
        }
    }

    /// Waits until there is no gap.
    pub async fn complete(&self) {
        // The sender is in `shared`: it does not go away.
        drop(self.shared.gaps.subscribe().wait_for(|gaps| *gaps == 0).await);
    }

    /// Drops what covers records that the log no longer has. Removes files.
    pub fn trim(&self) {
        self.shared.trim();
    }

    /// Tells the indexer to write what is in memory and to end.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Full means that it is awake already, and looks.
        let _awake_already = self.shared.wake.try_send(());
    }

    /// Records of the log that are indexed and lost: where they stand, ids of any subject may be missing.
    pub fn lost_records(&self) -> u64 {
        self.shared.parts.read().lost_records()
    }

    /// Records of the log that are indexed and hold what was taken over from another node: a subject may begin with any id
    /// behind one, and lack ids before it.
    pub fn taken_over_records(&self) -> u64 {
        self.shared.parts.read().taken_over_records()
    }

    /// Records of the log that are not indexed yet.
    pub fn gap_records(&self) -> u64 {
        self.shared.parts.read().gap_records()
    }

    /// Bytes of memory, without fences.
    pub fn memory_bytes(&self) -> usize {
        self.shared.parts.read().memory_bytes()
    }

    /// Bytes of its files.
    pub fn file_bytes(&self) -> u64 {
        self.shared.parts.read().file_bytes()
    }
}

impl Shared {
    /// Wakes the indexer.
    pub fn changed(&self) {
        self.gaps_changed();
        // Full means that it is awake already.
        let _awake_already = self.wake.try_send(());
    }

    /// Drops what covers records that the log no longer has, and removes the files of it.
    pub fn trim(&self) {
        let gone = self.parts.write().trim(self.log.trimmed().sequence());
        for part in gone {
            self.remove(&part.path);
        }
        self.gaps_changed();
    }

    pub fn gaps_changed(&self) {
        self.gaps.send_if_modified(|before| {
            // Counted here, where one comes after the other.
            let gaps = self.parts.read().gaps.len();
            std::mem::replace(before, gaps) != gaps
        });
    }

    /// A part did not answer: it is built again, unless the system refused to read it.
    fn failed(&self, failed: Failed) -> Result<(), IndexError> {
        let Failed { part, error } = failed;
        if part.run().last <= self.log.trimmed().sequence() {
            return Ok(());
        }
        match error {
            PartError::Io(source) if passes(&source) => {
                return Err(IndexError::Io { action: "read", path: part.path.clone(), source });
            }
            PartError::Io(_) | PartError::Damaged => {
                if self.parts.write().forget_file(&part) {
                    tracing::warn!(file = %part.path.display(), "a file of the log's index is missing or damaged; it is built again");
                }
            }
        }
        self.changed();
        Ok(())
    }

    /// The place of this record is wrong, or the log is damaged there: reading its frames tells.
    pub(super) fn distrust(&self, sequence: Sequence, error: &dyn std::fmt::Display) {
        tracing::warn!(sequence = sequence.get(), %error, "the index of the log does not fit the log; it is built again");
        self.parts.write().forget(sequence);
        self.changed();
    }

    /// Removes a file that is of no use. If that fails it is overwritten later, or removed at the next start.
    pub fn remove(&self, path: &std::path::Path) {
        if let Err(error) = self.fs.remove(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(file = %path.display(), %error, "a file of the log's index was not removed");
        }
    }

    /// The segment that begins at `first`.
    pub fn segment(&self, first: Sequence) -> Option<SegmentInfo> {
        self.log.segments().into_iter().find(|segment| segment.first == first)
    }
}

/// Whether the failure passes: something is short. Any other makes the file as good as damaged.
fn passes(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    error.kind() == io::ErrorKind::OutOfMemory || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// The parts in `dir` that fit the log, in order; removes the others.
fn existing(fs: &dyn FileSystem, dir: &std::path::Path, log: &Log) -> Result<Vec<Arc<FilePart>>, IndexError> {
    let segments = log.segments();
    let fits = |part: &FilePart| {
        let run = part.run();
        let segment = segments.binary_search_by_key(&run.segment, |segment| segment.first);
        let segment = segment.ok().and_then(|at| segments.get(at));
        part.header.log_id == log.log_id()
            && segment.is_some_and(|segment| segment.salt == part.header.salt && run.last <= segment.last)
    };
    let listed = fs.list(dir).map_err(|source| IndexError::Io { action: "list", path: dir.to_owned(), source })?;
    let mut names: Vec<String> = listed.into_iter().map(|file| file.name).collect();
    names.retain(|name| is_ours(name));
    names.sort_unstable();
    let mut parts: Vec<Arc<FilePart>> = Vec::new();
    for name in names {
        let path = dir.join(&name);
        match FilePart::open(fs, &path) {
            // By its own name only: the file that is built for a gap takes the name of its run.
            Ok(part)
                if fits(&part)
                    && name == file_name(part.run().first)
                    && parts.last().is_none_or(|before| before.run().last < part.run().first) =>
            {
                parts.push(Arc::new(part));
            }
            // Best effort: what stays is removed at the next start.
            Ok(_) | Err(PartError::Damaged) => drop(fs.remove(&path)),
            Err(PartError::Io(error)) => {
                tracing::warn!(file = %path.display(), %error, "a file of the log's index cannot be read; it is built again");
            }
        }
    }
    Ok(parts)
}

/// What the indexer is woken by.
pub(super) type Woken = Receiver<()>;
