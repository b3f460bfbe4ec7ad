//! Writing a part to a file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::wal::{FileSystem, LogId, write_unsynced};

use super::entry::{Entry, Run};
use super::filter::Filter;
use super::format::{
    ENTRIES_PER_PAGE, Header, PAGE_BYTES, SUBJECTS_PER_PAGE, SubjectEntry, file_name, put_entry, put_subject, seal,
};

/// What a part is written with, beside its entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub log_id: LogId,
    /// Of the segment.
    pub salt: [u8; 16],
    pub run: Run,
    /// Records of the run that are lost. All others without an entry hold what was taken over from another node.
    pub lost: u32,
}

/// Writes the part of these entries, which are in order, and names it. Nothing is synced: what a crash leaves of it does
/// not pass its checksums, and is built again.
pub(super) fn write(fs: &dyn FileSystem, dir: &Path, identity: Identity, entries: &[Entry]) -> io::Result<PathBuf> {
    let name = file_name(identity.run.first);
    let mut content = |writer: &mut dyn Write| write_to(writer, identity, entries);
    match write_unsynced(fs, dir, &name, &mut content) {
        // Somebody has removed the folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs.create_dir_all(dir)?;
            write_unsynced(fs, dir, &name, &mut content)?;
        }
        other => other?,
    }
    Ok(dir.join(name))
}

fn write_to(writer: &mut dyn Write, identity: Identity, entries: &[Entry]) -> io::Result<()> {
    let subjects = subjects(entries);
    let mut filter = Filter::for_subjects(subjects.len());
    subjects.iter().for_each(|subject| filter.insert(subject.hash));
    let fences = subjects.chunks(SUBJECTS_PER_PAGE).flat_map(|page| page[0].hash.to_le_bytes());
    let resident: Vec<u8> = fences.chain(filter.bytes().iter().copied()).collect();
    let Identity { log_id, salt, run, lost } = identity;
    // A part has at most `PART_RECORDS_MAX` entries, and a filter about as many bytes.
    let header = Header {
        log_id,
        salt,
        run,
        entries: entries.len() as u32,
        subjects: subjects.len() as u32,
        filter_bytes: filter.bytes().len() as u32,
        lost,
        taken_over: (run.records() - entries.len() as u64) as u32 - lost,
        resident_crc: crc32c::crc32c(&resident),
    };
    writer.write_all(&header.encode())?;
    write_pages(writer, entries.chunks(ENTRIES_PER_PAGE), put_entry)?;
    write_pages(writer, subjects.chunks(SUBJECTS_PER_PAGE), put_subject)?;
    writer.write_all(&resident)
}

fn write_pages<'a, T: 'a>(
    writer: &mut dyn Write,
    pages: impl Iterator<Item = &'a [T]>,
    put: impl Fn(&mut [u8; PAGE_BYTES], usize, &T),
) -> io::Result<()> {
    for items in pages {
        let mut page = [0; PAGE_BYTES];
        items.iter().enumerate().for_each(|(slot, item)| put(&mut page, slot, item));
        seal(&mut page);
        writer.write_all(&page)?;
    }
    Ok(())
}

fn subjects(entries: &[Entry]) -> Vec<SubjectEntry> {
    let mut subjects: Vec<SubjectEntry> = Vec::new();
    for (at, entry) in (0..).zip(entries) {
        match subjects.last_mut() {
            Some(last) if last.hash == entry.hash => {
                last.count += 1;
                last.last_id = entry.id;
            }
            _ => subjects.push(SubjectEntry { hash: entry.hash, at, count: 1, first_id: entry.id, last_id: entry.id }),
        }
    }
    subjects
}
