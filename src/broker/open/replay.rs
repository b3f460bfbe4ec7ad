//! What a start takes from checkpoints and log: every subject's last id, and the idempotency keys that are known.

use std::collections::HashSet;
use std::path::Path;

use super::OpenDataError;
use crate::event::record::{self, Logged, Record, TakenOver};
use crate::event::{MessageId, Sequence, clock};
use crate::ingest::{IdsExhausted, Keys, SubjectKey, SubjectTable, Window, restore_keys};
use crate::wal::{FileSystem, Log};

/// What was found beside the marks.
#[derive(Debug)]
pub(super) struct Replayed {
    pub keys: Keys,
    /// Size of their file in bytes.
    pub keys_bytes: u64,
    /// Records behind the checkpoints.
    pub records: u64,
}

/// Restores the keys from their checkpoint in `directory`, and raises marks and keys by what the log holds behind the
/// checkpoints. `marked` is the position of that of the marks, which are in `subjects` already; `gives_ids` tells of which subjects
/// this log gives the ids.
pub(super) fn replay(
    (files, directory): (&dyn FileSystem, &Path),
    log: &Log,
    subjects: &SubjectTable,
    marked: Sequence,
    mut window: Window,
    gives_ids: impl Fn(&[u8]) -> bool,
) -> Result<Replayed, OpenDataError> {
    let now = clock::now();
    let found = restore_keys(files, directory, &mut window, now)?;
    if let Some(found) = &found {
        found.belongs_to(log.log_id(), directory)?;
        if found.taken_at < log.trimmed().sequence() {
            let (checkpoint, trimmed) = (found.taken_at, log.trimmed());
            return Err(OpenDataError::KeysMissing { path: directory.to_owned(), checkpoint, trimmed });
        }
    }
    // Without the file no record up to the marks had a key.
    let keyed = found.map_or(marked, |found| found.taken_at);
    let (mut marks, mut records) = (Marks::new(subjects), 0);
    let mut reader = log.reader(marked.min(keyed))?;
    while let Some(frame) = reader.next()? {
        for (sequence, bytes) in frame.iter() {
            records += 1;
            let logged = record::decode(&bytes).map_err(|source| OpenDataError::Record { sequence, source })?;
            if sequence > marked {
                marks.raise(&logged)?;
            }
            if sequence > keyed {
                match &logged {
                    Logged::Message(record) => window.replay(sequence, record, now),
                    Logged::TakenOver(TakenOver::Keys(keys)) => window.replay_taken_over(sequence, keys.iter(), now),
                    Logged::TakenOver(TakenOver::Marks(_)) | Logged::Lost => {}
                }
            }
        }
    }
    marks.finish(gives_ids);
    subjects.set_marked_through(log.durable());
    Ok(Replayed { keys: Keys::new(window), keys_bytes: found.map_or(0, |found| found.bytes), records })
}

/// Raises the marks by what the log holds after the checkpoint.
///
/// A record that was lost there may have had the next id of any subject. A subject whose records go on behind it says so
/// itself; of every other the ids that may be lost are passed over, so that none is given twice. One limit stays: a
/// subject of which no record and no mark is left starts at 1 again. One that was taken over from another node is such a
/// one if the record with its mark is lost before a checkpoint has it.
struct Marks<'a> {
    subjects: &'a SubjectTable,
    lost: u64,
    /// Subjects with a record behind the last lost one.
    told: HashSet<SubjectKey>,
}

impl<'a> Marks<'a> {
    fn new(subjects: &'a SubjectTable) -> Self {
        Self { subjects, lost: 0, told: HashSet::new() }
    }

    fn raise(&mut self, logged: &Logged<'_>) -> Result<(), IdsExhausted> {
        match logged {
            Logged::Message(Record { subject, id, .. }) => self.tell(subject, *id)?,
            // An owner's word on the last id, as good as the record that has it.
            Logged::TakenOver(TakenOver::Marks(marks)) => {
                marks.iter().try_for_each(|(subject, id)| self.tell(subject, id))?;
            }
            // Their ids are not above the marks that came with them.
            Logged::TakenOver(TakenOver::Keys(_)) => {}
            Logged::Lost => {
                self.lost += 1;
                self.told.clear();
            }
        }
        Ok(())
    }

    fn tell(&mut self, subject: &str, id: MessageId) -> Result<(), IdsExhausted> {
        let subject = self.subjects.restore(subject, id)?;
        if self.lost > 0 {
            self.told.insert(subject);
        }
        Ok(())
    }

    /// The next ids of another node's subject were given by that node, and their messages may still come from there: passed over they
    /// would be taken for known.
    fn finish(self, gives_ids: impl Fn(&[u8]) -> bool) {
        if self.lost > 0 {
            let is_silent = |subject: SubjectKey, name: &[u8]| !self.told.contains(&subject) && gives_ids(name);
            let raised = self.subjects.pass_over(self.lost, is_silent);
            tracing::info!(
                records = self.lost,
                subjects = raised,
                "records after the ids checkpoint were lost in a repair of the log; ids that they may have had are passed over"
            );
        }
    }
}
