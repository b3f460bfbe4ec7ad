//! Finding a message, or a subject's run of messages, in the parts that are in files.
//!
//! A subject's ids rise with the sequences, so the parts that may hold the subject are searched by guesses and halves.

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

    /// The message with this id; more than one only if hashes collide. `last` is the subject's last id, for a first guess.
    pub fn find(mut self, id: u32, last: u32) -> Result<Vec<Located>, Failed> {
        let (mut low, mut high) = (0, self.parts.len());
        // A subject's messages are spread evenly more often than not: then the second look finds the part. If they are not,
        // halving is never worse than twice as many looks.
        let mut guess = usize::try_from(u64::from(id) * high as u64 / (u64::from(last) + 1)).unwrap_or(0);
        let mut looks = 0;
        while low < high {
            let halve = looks >= 2 && looks % 2 == 0;
            let middle = if halve { low.midpoint(high) } else { guess.clamp(low, high - 1) };
            looks += 1;
            let part = self.parts[middle];
            let found = self.look(part, |reader, subject| {
                if id < subject.first_id || subject.last_id < id {
                    return Ok((subject, None));
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
                Ok((subject, Some(located)))
            })?;
            let Some((subject, located)) = found else {
                self.parts.remove(middle);
                high -= 1;
                continue;
            };
            if let Some(located) = located {
                return Ok(located);
            }
            // From here on, as many parts away as have that many ids of the subject.
            let away = |ids: u32| 1 + (ids.saturating_sub(1) / subject.count.max(1)) as usize;
            if subject.last_id < id {
                low = middle + 1;
                guess = middle.saturating_add(away(id - subject.last_id));
            } else {
                high = middle;
                guess = middle.saturating_sub(away(subject.first_id - id));
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
