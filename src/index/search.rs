//! Finding a message, or a subject's run of messages, in the parts that are in files.
//!
//! A subject's ids rise with the sequences, so the parts that may hold the subject are searched by halves.

use std::sync::Arc;

use crate::wal::FileSystem;

use super::entry::Located;
use super::file::{FilePart, PartError, PartReader};
use super::format::SubjectEntry;

/// A part that did not answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub part: Arc<FilePart>,
    pub error: PartError,
}

/// The parts that may hold the subject, in order.
pub(super) struct Candidates<'a> {
    fs: &'a dyn FileSystem,
    parts: Vec<&'a Arc<FilePart>>,
    hash: u64,
}

impl<'a> Candidates<'a> {
    pub fn new(fs: &'a dyn FileSystem, files: &'a [Arc<FilePart>], hash: u64) -> Self {
        Self { fs, parts: files.iter().filter(|part| part.may_hold(hash)).collect(), hash }
    }

    /// The message with this id; more than one only if hashes collide.
    pub fn find(mut self, id: u32) -> Result<Vec<Located>, Failed> {
        let (mut low, mut high) = (0, self.parts.len());
        while low < high {
            let middle = low.midpoint(high);
            let part = self.parts[middle];
            let found = self.look(part, |reader, subject| {
                if id < subject.first_id || subject.last_id < id {
                    return Ok((subject.last_id < id, None));
                }
                let first = reader.first_from(&subject, id)?;
                let end = subject.at.saturating_add(subject.count);
                let mut located = Vec::new();
                for number in first..end {
                    let entry = reader.entry(subject.hash, number)?;
                    if entry.id != id {
                        break;
                    }
                    located.push(part.run().locate(&entry));
                }
                Ok((false, Some(located)))
            })?;
            match found {
                None => {
                    self.parts.remove(middle);
                    high -= 1;
                }
                Some((_, Some(located))) => return Ok(located),
                Some((true, None)) => low = middle + 1,
                Some((false, None)) => high = middle,
            }
        }
        Ok(Vec::new())
    }

    /// Up to `limit` messages with ids above `after`, in order.
    pub fn after(mut self, after: u32, limit: usize) -> Result<Vec<Located>, Failed> {
        let (mut low, mut high) = (0, self.parts.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.look(self.parts[middle], |_, subject| Ok(subject.last_id > after))? {
                None => {
                    self.parts.remove(middle);
                    high -= 1;
                }
                Some(true) => high = middle,
                Some(false) => low = middle + 1,
            }
        }
        let mut located = Vec::new();
        for part in &self.parts[low..] {
            self.look(part, |reader, subject| {
                let first = reader.first_from(&subject, after.saturating_add(1))?;
                for number in first..subject.at.saturating_add(subject.count) {
                    if located.len() == limit {
                        break;
                    }
                    located.push(part.run().locate(&reader.entry(subject.hash, number)?));
                }
                Ok(())
            })?;
            if located.len() == limit {
                break;
            }
        }
        Ok(located)
    }

    /// What `use_it` says of the subject in this part; None if it is not in it.
    fn look<T>(
        &self,
        part: &Arc<FilePart>,
        use_it: impl FnOnce(&mut PartReader<'_>, SubjectEntry) -> Result<T, PartError>,
    ) -> Result<Option<T>, Failed> {
        let looked = part.reader(self.fs).and_then(|mut reader| match reader.subject(self.hash)? {
            Some(subject) => use_it(&mut reader, subject).map(Some),
            None => Ok(None),
        });
        looked.map_err(|error| Failed { part: Arc::clone(part), error })
    }
}
