//! Which part covers what.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::Sequence;
use crate::wal::Place;

use super::entry::{Entry, Located, Run};
use super::file::FilePart;
use super::memory::{MemoryPart, SealedPart};

/// Sealed parts that wait to be written, at most: three of 6 MiB. A disk that takes no more index costs a part that is
/// read again from the log later, not memory.
const SEALED_MAX: usize = 3;

/// Bytes of filters in memory, at most: 16 million subjects in all parts together. Beyond it the oldest parts go without,
/// and every question about an old message may cost a read of each of them.
const FILTERS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// All parts and gaps of a log: together they cover what is in it and durable.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// In order. Replaced as a whole, so that a search keeps what it began with.
    pub files: Arc<Vec<Arc<FilePart>>>,
    /// Oldest first.
    pub sealed: VecDeque<SealedPart>,
    pub active: Option<MemoryPart>,
    /// In order; each within one segment.
    pub gaps: Vec<Run>,
}

impl Parts {
    /// The growing part, for a record of this sequence; seals the one before if that is complete.
    pub fn active_for(&mut self, sequence: Sequence, place: &Place) -> &mut MemoryPart {
        let complete = self.active.as_ref().is_some_and(|part| part.run.segment != place.segment || part.is_full());
        if complete {
            self.seal();
        }
        let part = self.active.get_or_insert_with(|| MemoryPart::new(place.segment, sequence));
        assert!(part.run.last.next() == sequence, "records are indexed in log order");
        part
    }

    /// Whether there is something to seal, and seals it.
    pub fn seal(&mut self) -> bool {
        let Some(part) = self.active.take().filter(|part| part.run.records() > 0) else { return false };
        if self.sealed.len() < SEALED_MAX {
            self.sealed.push_back(Arc::new(part));
        } else {
            self.add_gap(part.run);
        }
        true
    }

    pub fn add_gap(&mut self, run: Run) {
        let at = self.gaps.partition_point(|gap| gap.first < run.first);
        self.gaps.insert(at, run);
    }

    /// Adds a part in a file, in place of what covered its run.
    pub fn add_file(&mut self, part: Arc<FilePart>) {
        let run = part.run();
        self.sealed.retain(|sealed| sealed.run.first != run.first);
        if let Some(at) = self.gaps.iter().position(|gap| gap.first == run.first) {
            let gap = self.gaps.remove(at);
            if run.last < gap.last {
                self.add_gap(Run { first: run.last.next(), ..gap });
            }
        }
        let mut files = self.files.to_vec();
        let at = files.partition_point(|other| other.run().first < run.first);
        files.insert(at, part);
        self.set_files(files);
    }

    /// Takes these files, which are in order, as the parts in files.
    pub fn set_files(&mut self, files: Vec<Arc<FilePart>>) {
        let mut bytes: usize = files.iter().map(|part| part.filter_bytes()).sum();
        for oldest in &files {
            if bytes <= FILTERS_BYTES_MAX {
                break;
            }
            bytes -= oldest.filter_bytes();
            oldest.drop_filter();
        }
        self.files = Arc::new(files);
    }

    /// Turns a gap, or its beginning, that was read and could not be written into a sealed part, if one more may wait.
    pub fn keep_in_memory(&mut self, part: MemoryPart) {
        let run = part.run;
        if self.sealed.len() >= SEALED_MAX {
            return;
        }
        let Some(at) = self.gaps.iter().position(|gap| gap.first == run.first) else { return };
        let gap = self.gaps.remove(at);
        if run.last < gap.last {
            self.add_gap(Run { first: run.last.next(), ..gap });
        }
        let at = self.sealed.partition_point(|sealed| sealed.run.first < run.first);
        self.sealed.insert(at, Arc::new(part));
    }

    /// Turns a part that is not to be trusted into a gap. False if it is not one of these any more.
    pub fn forget_file(&mut self, part: &Arc<FilePart>) -> bool {
        let mut files = self.files.to_vec();
        let before = files.len();
        files.retain(|other| !Arc::ptr_eq(other, part));
        if files.len() == before {
            return false;
        }
        self.files = Arc::new(files);
        self.add_gap(part.run());
        true
    }

    /// Turns whatever covers this sequence into a gap.
    pub fn forget(&mut self, sequence: Sequence) {
        let covers = |run: &Run| run.first <= sequence && sequence <= run.last;
        if let Some(part) = self.files.iter().find(|part| covers(&part.run())).cloned() {
            self.forget_file(&part);
        }
        if self.active.as_ref().is_some_and(|part| covers(&part.run)) {
            self.seal();
        }
        if let Some(at) = self.sealed.iter().position(|part| covers(&part.run)) {
            let run = self.sealed.remove(at).expect("it was just found").run;
            self.add_gap(run);
        }
    }

    /// Drops what lies up to `trimmed`, and says which files are of no use any more.
    pub fn trim(&mut self, trimmed: Sequence) -> Vec<Arc<FilePart>> {
        self.gaps.retain(|gap| gap.last > trimmed);
        self.sealed.retain(|part| part.run.last > trimmed);
        let kept = self.files.partition_point(|part| part.run().last <= trimmed);
        let gone = self.files[..kept].to_vec();
        if !gone.is_empty() {
            self.files = Arc::new(self.files[kept..].to_vec());
        }
        gone
    }

    /// The parts in memory, oldest first.
    fn in_memory(&self) -> impl Iterator<Item = &MemoryPart> {
        self.sealed.iter().map(|part| &**part).chain(&self.active)
    }

    /// The message, if a part in memory has it.
    pub fn find_in_memory(&self, hash: u64, id: u32) -> Vec<Located> {
        let locate = |part: &MemoryPart| -> Vec<Located> {
            part.find(hash, id).iter().map(|entry: &Entry| part.run.locate(entry)).collect()
        };
        self.in_memory().map(locate).find(|located| !located.is_empty()).unwrap_or_default()
    }

    /// Up to `limit` of the subject's messages above `after` in the parts in memory, in order.
    pub fn after_in_memory(&self, hash: u64, after: u32, limit: usize) -> Vec<Located> {
        let mut located = Vec::new();
        for part in self.in_memory() {
            let entries = part.after(hash, after, limit - located.len());
            located.extend(entries.iter().map(|entry| part.run.locate(entry)));
            if located.len() == limit {
                break;
            }
        }
        located
    }

    pub fn memory_bytes(&self) -> usize {
        let parts: usize = self.in_memory().map(MemoryPart::bytes).sum();
        parts + self.files.iter().map(|part| part.filter_bytes()).sum::<usize>()
    }

    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|part| part.header.file_bytes()).sum()
    }

    /// Records that are covered and lost. A part with such records is in a file, or a gap, and never in memory only.
    pub fn lost_records(&self) -> u64 {
        self.files.iter().map(|part| u64::from(part.header.lost)).sum()
    }

    /// Records that are covered and hold what was taken over from another node.
    pub fn taken_over_records(&self) -> u64 {
        let in_files: u64 = self.files.iter().map(|part| u64::from(part.header.taken_over)).sum();
        in_files + self.in_memory().map(MemoryPart::taken_over).sum::<u64>()
    }

    /// Records that no part covers.
    pub fn gap_records(&self) -> u64 {
        self.gaps.iter().map(Run::records).sum()
    }
}
