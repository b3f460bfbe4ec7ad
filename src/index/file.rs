//! A part in a file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::wal::{FileSystem, LogFile, read_full};

use super::entry::{Entry, Run};
use super::filter::Filter;
use super::format::{
    ENTRIES_PER_PAGE, Header, PAGE_BYTES, Page, SUBJECTS_PER_PAGE, SubjectEntry, entry_at, entry_page_at, is_whole,
    subject_at,
};

/// A part in a file. In memory are 8 bytes for every 170 subjects, and the filter with a byte for each while there is
/// room for it.
#[derive(Debug)]
pub(super) struct FilePart {
    pub path: PathBuf,
    pub header: Header,
    fences: Box<[u64]>,
    filter: RwLock<Option<Filter>>,
}

/// Why a part does not answer.
#[derive(Debug)]
pub(super) enum PartError {
    /// The system refused.
    Io(io::Error),
    /// The file is not what was written: it is to be built again.
    Damaged,
}

impl fmt::Display for PartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(formatter),
            Self::Damaged => formatter.write_str("the file is not what was written"),
        }
    }
}

impl From<io::Error> for PartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl FilePart {
    /// Opens the file; [`PartError::Damaged`] if it is not a whole part.
    pub fn open(fs: &dyn FileSystem, path: &Path) -> Result<Self, PartError> {
        let file = fs.open(path)?;
        let mut page = [0; PAGE_BYTES];
        fill(&*file, &mut page, 0)?;
        let header = Header::decode(&page).ok_or(PartError::Damaged)?;
        if file.len()? != header.file_bytes() {
            return Err(PartError::Damaged);
        }
        let mut resident = vec![0; usize::try_from(header.resident_bytes()).map_err(|_| PartError::Damaged)?];
        fill(&*file, &mut resident, header.directory_page_at(header.directory_pages()))?;
        if crc32c::crc32c(&resident) != header.resident_crc {
            return Err(PartError::Damaged);
        }
        let filter = resident.split_off(resident.len() - header.filter_bytes as usize);
        let filter = Filter::from_bytes(filter).ok_or(PartError::Damaged)?;
        let (fences, _) = resident.as_chunks();
        let fences = fences.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        Ok(Self { path: path.to_owned(), header, fences, filter: RwLock::new(Some(filter)) })
    }

    pub fn run(&self) -> Run {
        self.header.run
    }

    /// Whether the subject may be in the part.
    pub fn may_hold(&self, hash: u64) -> bool {
        self.filter.read().as_ref().is_none_or(|filter| filter.may_hold(hash))
    }

    /// Bytes of the filter in memory.
    pub fn filter_bytes(&self) -> usize {
        self.filter.read().as_ref().map_or(0, |filter| filter.bytes().len())
    }

    /// Frees the filter's memory: from now on every subject may be there.
    pub fn drop_filter(&self) {
        *self.filter.write() = None;
    }

    /// The part with its file open, for some reads.
    pub fn reader(&self, fs: &dyn FileSystem) -> Result<PartReader<'_>, PartError> {
        Ok(PartReader { part: self, file: fs.open(&self.path)?, page: None })
    }
}

/// Reads of one part.
#[derive(Debug)]
pub(super) struct PartReader<'a> {
    part: &'a FilePart,
    file: Arc<dyn LogFile>,
    /// The last page that was read, and where it begins.
    page: Option<(u64, Box<Page>)>,
}

impl PartReader<'_> {
    /// The subject, if it is in the part: one read.
    pub fn subject(&mut self, hash: u64) -> Result<Option<SubjectEntry>, PartError> {
        let Some(number) = self.part.fences.partition_point(|first| *first <= hash).checked_sub(1) else {
            return Ok(None);
        };
        let header = &self.part.header;
        let slots = slots(number as u64, header.subjects, SUBJECTS_PER_PAGE);
        let page = self.page(header.directory_page_at(number as u64))?;
        let (mut low, mut high) = (0, slots);
        while low < high {
            let middle = low.midpoint(high);
            let subject = subject_at(page, middle);
            match subject.hash.cmp(&hash) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(subject)),
            }
        }
        Ok(None)
    }

    /// Number of the subject's first entry whose id is not below `id`; ids are dense unless messages were lost, so this
    /// is one read in practice.
    pub fn first_from(&mut self, subject: &SubjectEntry, id: u32) -> Result<u32, PartError> {
        let (mut low, mut high) = (subject.at, subject.at.saturating_add(subject.count));
        let mut guess = subject.at.saturating_add(id.saturating_sub(subject.first_id));
        while low < high {
            let probe = guess.clamp(low, high - 1);
            if self.entry(subject.hash, probe)?.id < id {
                low = probe + 1;
            } else if probe > low && self.entry(subject.hash, probe - 1)?.id >= id {
                high = probe;
            } else {
                return Ok(probe);
            }
            guess = low.midpoint(high);
        }
        Ok(low)
    }

    /// The entry of this number.
    pub fn entry(&mut self, hash: u64, number: u32) -> Result<Entry, PartError> {
        if number >= self.part.header.entries {
            return Err(PartError::Damaged);
        }
        let page = self.page(entry_page_at(u64::from(number) / ENTRIES_PER_PAGE as u64))?;
        Ok(entry_at(page, number as usize % ENTRIES_PER_PAGE, hash))
    }

    fn page(&mut self, offset: u64) -> Result<&Page, PartError> {
        let page = match self.page.take() {
            Some((at, page)) if at == offset => page,
            other => {
                let mut page = other.map_or_else(|| Box::new([0; PAGE_BYTES]), |(_, page)| page);
                fill(&*self.file, page.as_mut_slice(), offset)?;
                if !is_whole(&page) {
                    return Err(PartError::Damaged);
                }
                page
            }
        };
        Ok(&self.page.insert((offset, page)).1)
    }
}

/// How many slots of page `number` are in use.
fn slots(number: u64, items: u32, per_page: usize) -> usize {
    let before = number * per_page as u64;
    u64::from(items).saturating_sub(before).min(per_page as u64) as usize
}

/// Fills the buffer; a file that ends before is damaged.
fn fill(file: &dyn LogFile, buffer: &mut [u8], offset: u64) -> Result<(), PartError> {
    let read = read_full(file, buffer, offset)?;
    if read == buffer.len() { Ok(()) } else { Err(PartError::Damaged) }
}
