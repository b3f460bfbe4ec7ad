//! From frames of the log to a batch for the store.

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use hashbrown::{Equivalent, HashMap};

use super::{Config, ProjectorError};
use crate::event::record::{self, Logged, Record};
use crate::event::{MessageId, Projected, Sequence, Subject, UnixMicros, clock};
use crate::projector::{Row, StoreBatch};
use crate::wal::Reader;

/// A reader of the log that hands out batches. Reads files, so it belongs on a blocking thread.
#[derive(Debug)]
pub(super) struct BatchReader {
    kind: &'static str,
    reader: Reader,
    records_max: usize,
    bytes_max: usize,
    gathered: Builder,
}

/// A batch and what is known of the run it was made from.
#[derive(Debug)]
pub(super) struct ReadBatch {
    /// What the store gets.
    pub(super) batch: StoreBatch,
    /// When the first message was published; now, if all of the run is lost.
    pub(super) oldest: UnixMicros,
}

impl BatchReader {
    pub(super) fn new(kind: &'static str, reader: Reader, config: &Config) -> Self {
        let (records_max, bytes_max) = (config.batch_rows, config.batch_bytes);
        Self { kind, reader, records_max, bytes_max, gathered: Builder::default() }
    }

    /// Adds what is durable and not in the batch yet, up to the bounds, which the last frame may pass. Whether it
    /// is full.
    pub(super) fn fill(&mut self) -> Result<bool, ProjectorError> {
        while !self.is_full() {
            let position = Projected(self.reader.position());
            let frame = self.reader.next().map_err(|error| ProjectorError::read(self.kind, position, error))?;
            let Some(frame) = frame else {
                return Ok(false);
            };
            for (sequence, bytes) in frame.iter() {
                self.gathered.add(sequence, &bytes)?;
            }
        }
        Ok(true)
    }

    /// The batch that was filled, which starts after `previous`; None if it is empty.
    pub(super) fn take(&mut self, previous: Projected) -> Option<ReadBatch> {
        let gathered = std::mem::take(&mut self.gathered);
        if gathered.records == 0 {
            return None;
        }
        let oldest = gathered.oldest.unwrap_or_else(clock::now);
        Some(ReadBatch { batch: gathered.finish(previous, Projected(self.reader.position())), oldest })
    }

    fn is_full(&self) -> bool {
        self.gathered.records >= self.records_max || self.gathered.bytes >= self.bytes_max
    }
}

/// A subject by its text, to look it up without making one.
struct SubjectText<'a>(&'a str);

impl Hash for SubjectText<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As a `Subject` does, which is a `String`.
        self.0.hash(state);
    }
}

impl Equivalent<Subject> for SubjectText<'_> {
    fn equivalent(&self, subject: &Subject) -> bool {
        self.0 == subject.as_str()
    }
}

#[derive(Debug, Default)]
struct Builder {
    rows: Vec<Row>,
    marks: HashMap<Subject, MessageId, foldhash::fast::RandomState>,
    records: usize,
    /// Of subjects and bodies.
    bytes: usize,
    oldest: Option<UnixMicros>,
}

impl Builder {
    fn add(&mut self, sequence: Sequence, bytes: &Bytes) -> Result<(), ProjectorError> {
        let fail = |error| ProjectorError::Record { sequence, error };
        let logged = record::decode(bytes).map_err(fail)?;
        self.records += 1;
        self.bytes += bytes.len();
        let Logged::Message(record) = logged else { return Ok(()) };
        self.oldest.get_or_insert(record.published_at);
        match self.marks.get_mut(&SubjectText(record.subject)) {
            Some(mark) => *mark = record.id,
            None => {
                let subject = Subject::new(record.subject.to_owned())
                    .map_err(|error| fail(record::RecordError::Malformed { reason: error.to_string() }))?;
                self.marks.insert(subject, record.id);
            }
        }
        if !record.expiration.is_fire_and_forget() {
            self.rows.push(self.row(sequence, bytes, &record));
        }
        Ok(())
    }

    fn row(&self, sequence: Sequence, bytes: &Bytes, record: &Record<'_>) -> Row {
        let (subject, _) = self.marks.get_key_value(&SubjectText(record.subject)).expect("`add` put its mark there");
        Row {
            sequence,
            subject: subject.clone(),
            id: record.id,
            published_at: record.published_at,
            expiration: record.expiration,
            // Shares the memory of the reader's buffer for as long as the batch lives.
            body: bytes.slice_ref(record.body),
        }
    }

    fn finish(self, previous: Projected, projected: Projected) -> StoreBatch {
        StoreBatch { previous, projected, rows: self.rows, high_water_marks: self.marks.into_iter().collect() }
    }
}
