//! The bytes of an index file, version 1. All numbers are little endian.
//!
//! | section | bytes |
//! |---|---|
//! | header | 4096 |
//! | entry pages | 4096 each: up to 255 entries of 16 bytes, zeros, at 4092 the CRC32C of bytes 0 to 4091 |
//! | directory pages | 4096 each: up to 170 subjects of 24 bytes, zeros, at 4092 the CRC32C of bytes 0 to 4091 |
//! | fences | 8 each: the hash of the first subject of each directory page |
//! | filter | blocks of 64: see `filter` |
//!
//! | offset | bytes | header |
//! |---|---|---|
//! | 0 | 8 | magic: `\x89WALIDX\n` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | CRC32C of fences and filter |
//! | 16 | 16 | log id |
//! | 32 | 16 | salt of the segment |
//! | 48 | 8 | first sequence of the segment |
//! | 56 | 8 | first sequence that is covered |
//! | 64 | 8 | last sequence that is covered |
//! | 72 | 4 | entries |
//! | 76 | 4 | subjects |
//! | 80 | 4 | bytes of the filter |
//! | 84 | 4 | records that are covered and lost; with the entries and the next field they are all of the run |
//! | 88 | 4 | records that are covered and hold what was taken over from another node |
//! | 92 | 4000 | zeros |
//! | 4092 | 4 | CRC32C of bytes 0 to 4091 |
//!
//! An entry is a message: its id (4), its sequence counted from the first that is covered (4), and of its record the
//! offset in the segment (4) and the CRC32C (4). Entries are in the order of (hash of the subject, id). The hash is
//! XXH3-64 of the subject, seeded with the first 8 bytes of the log id. A subject of the directory is its hash (8), the
//! number of its first entry (4), the number of its entries (4), its first id (4) and its last id (4).

use crate::event::Sequence;
use crate::wal::LogId;
use crate::wal::format::is_numbered;

use super::entry::{Entry, Run};

pub(super) const PAGE_BYTES: usize = 4096;
pub(super) const ENTRY_BYTES: usize = 16;
pub(super) const SUBJECT_BYTES: usize = 24;
pub(super) const ENTRIES_PER_PAGE: usize = (PAGE_BYTES - 4) / ENTRY_BYTES;
pub(super) const SUBJECTS_PER_PAGE: usize = (PAGE_BYTES - 4) / SUBJECT_BYTES;

const MAGIC: [u8; 8] = *b"\x89WALIDX\n";
const VERSION: u32 = 1;
const CRC_AT: usize = PAGE_BYTES - 4;

/// A page as it is in the file.
pub(super) type Page = [u8; PAGE_BYTES];

/// The first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub log_id: LogId,
    /// Of the segment.
    pub salt: [u8; 16],
    pub run: Run,
    pub entries: u32,
    pub subjects: u32,
    pub filter_bytes: u32,
    /// Records of the run that were lost in a repair of the log.
    pub lost: u32,
    /// Records of the run that hold what was taken over from another node.
    pub taken_over: u32,
    /// CRC32C of fences and filter.
    pub resident_crc: u32,
}

/// A subject of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SubjectEntry {
    pub hash: u64,
    /// Number of its first entry.
    pub at: u32,
    pub count: u32,
    pub first_id: u32,
    pub last_id: u32,
}

impl Header {
    pub fn encode(&self) -> Page {
        let mut page = [0; PAGE_BYTES];
        page[..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&self.resident_crc.to_le_bytes());
        page[16..32].copy_from_slice(self.log_id.as_bytes());
        page[32..48].copy_from_slice(&self.salt);
        page[48..56].copy_from_slice(&self.run.segment.get().to_le_bytes());
        page[56..64].copy_from_slice(&self.run.first.get().to_le_bytes());
        page[64..72].copy_from_slice(&self.run.last.get().to_le_bytes());
        page[72..76].copy_from_slice(&self.entries.to_le_bytes());
        page[76..80].copy_from_slice(&self.subjects.to_le_bytes());
        page[80..84].copy_from_slice(&self.filter_bytes.to_le_bytes());
        page[84..88].copy_from_slice(&self.lost.to_le_bytes());
        page[88..92].copy_from_slice(&self.taken_over.to_le_bytes());
        seal(&mut page);
        page
    }

    /// The header, if it is a whole one of this version whose numbers agree.
    pub fn decode(page: &Page) -> Option<Self> {
        if page[..8] != MAGIC || !is_whole(page) || u32_at(page, 8) != VERSION {
            return None;
        }
        let header = Self {
            log_id: LogId::from_bytes(array_at(page, 16)),
            salt: array_at(page, 32),
            run: Run { segment: sequence_at(page, 48), first: sequence_at(page, 56), last: sequence_at(page, 64) },
            entries: u32_at(page, 72),
            subjects: u32_at(page, 76),
            filter_bytes: u32_at(page, 80),
            lost: u32_at(page, 84),
            taken_over: u32_at(page, 88),
            resident_crc: u32_at(page, 12),
        };
        let run = &header.run;
        let sound = run.segment <= run.first
            && run.first <= run.last
            && [header.entries, header.lost, header.taken_over].into_iter().map(u64::from).sum::<u64>()
                == run.records()
            && header.subjects <= header.entries;
        sound.then_some(header)
    }

    pub fn entry_pages(&self) -> u64 {
        u64::from(self.entries).div_ceil(ENTRIES_PER_PAGE as u64)
    }

    pub fn directory_pages(&self) -> u64 {
        u64::from(self.subjects).div_ceil(SUBJECTS_PER_PAGE as u64)
    }

    /// Where directory page `number` begins.
    pub fn directory_page_at(&self, number: u64) -> u64 {
        (1 + self.entry_pages() + number) * PAGE_BYTES as u64
    }

    /// Bytes of fences and filter.
    pub fn resident_bytes(&self) -> u64 {
        self.directory_pages() * 8 + u64::from(self.filter_bytes)
    }

    /// Length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.directory_page_at(self.directory_pages()) + self.resident_bytes()
    }
}

/// Where entry page `number` begins.
pub(super) fn entry_page_at(number: u64) -> u64 {
    (1 + number) * PAGE_BYTES as u64
}

/// Puts the checksum at the end of a page.
pub(super) fn seal(page: &mut Page) {
    let crc = crc32c::crc32c(&page[..CRC_AT]);
    page[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// Whether the checksum at the end of a page is right.
pub(super) fn is_whole(page: &Page) -> bool {
    u32_at(page, CRC_AT) == crc32c::crc32c(&page[..CRC_AT])
}

pub(super) fn put_entry(page: &mut Page, slot: usize, entry: &Entry) {
    let bytes = &mut page[slot * ENTRY_BYTES..][..ENTRY_BYTES];
    bytes[..4].copy_from_slice(&entry.id.to_le_bytes());
    bytes[4..8].copy_from_slice(&entry.index.to_le_bytes());
    bytes[8..12].copy_from_slice(&entry.offset.to_le_bytes());
    bytes[12..].copy_from_slice(&entry.crc.to_le_bytes());
}

/// An entry of the subject with this hash.
pub(super) fn entry_at(page: &Page, slot: usize, hash: u64) -> Entry {
    let at = slot * ENTRY_BYTES;
    Entry {
        hash,
        id: u32_at(page, at),
        index: u32_at(page, at + 4),
        offset: u32_at(page, at + 8),
        crc: u32_at(page, at + 12),
    }
}

pub(super) fn put_subject(page: &mut Page, slot: usize, subject: &SubjectEntry) {
    let bytes = &mut page[slot * SUBJECT_BYTES..][..SUBJECT_BYTES];
    bytes[..8].copy_from_slice(&subject.hash.to_le_bytes());
    bytes[8..12].copy_from_slice(&subject.at.to_le_bytes());
    bytes[12..16].copy_from_slice(&subject.count.to_le_bytes());
    bytes[16..20].copy_from_slice(&subject.first_id.to_le_bytes());
    bytes[20..].copy_from_slice(&subject.last_id.to_le_bytes());
}

pub(super) fn subject_at(page: &Page, slot: usize) -> SubjectEntry {
    let at = slot * SUBJECT_BYTES;
    SubjectEntry {
        hash: u64::from_le_bytes(array_at(page, at)),
        at: u32_at(page, at + 8),
        count: u32_at(page, at + 12),
        first_id: u32_at(page, at + 16),
        last_id: u32_at(page, at + 20),
    }
}

fn sequence_at(page: &Page, at: usize) -> Sequence {
    Sequence::new(u64::from_le_bytes(array_at(page, at)))
}

fn u32_at(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes(array_at(page, at))
}

fn array_at<const N: usize>(page: &Page, at: usize) -> [u8; N] {
    page[at..at + N].try_into().expect("the range is N bytes long")
}

const SUFFIX: &str = ".idx";

/// The name of the file whose part begins at `first`.
pub(super) fn file_name(first: Sequence) -> String {
    format!("{first:020}{SUFFIX}", first = first.get())
}

/// Whether a file of this name is one of the index, half written ones included.
pub(super) fn is_ours(name: &str) -> bool {
    let stem = name.strip_suffix(".tmp").unwrap_or(name).strip_suffix(SUFFIX);
    stem.is_some_and(is_numbered)
}
