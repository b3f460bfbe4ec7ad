//! From records of the log to a batch for the store.

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use hashbrown::{Equivalent, HashMap};

use super::{HighWaterMark, Row, StoreBatch};
use crate::event::record::{self, Logged, Record, RecordError};
use crate::event::{MessageId, Projected, Sequence, Subject, UnixMicros};
use crate::telemetry::traces::{Member, SpanPlace};

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

/// Gathers records of the log, which come in order, into a batch.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    rows: Vec<Row>,
    marks: HashMap<Subject, (MessageId, Sequence), foldhash::fast::RandomState>,
    records: usize,
    bytes: usize,
    oldest: Option<UnixMicros>,
    newest: Option<UnixMicros>,
    /// Rows that are traced, if anybody wants to know.
    traced: Option<Vec<Member>>,
}

impl BatchBuilder {
    /// One that keeps which rows are traced, for [`Self::take_traced`].
    pub fn tracing() -> Self {
        Self { traced: Some(Vec::new()), ..Self::default() }
    }

    /// Adds a record. Its body is shared, not copied: `bytes` live as long as the batch.
    ///
    /// # Errors
    /// [`RecordError`] if it is not one that this build understands; nothing was added then.
    pub fn add(&mut self, sequence: Sequence, bytes: &Bytes) -> Result<(), RecordError> {
        let logged = record::decode(bytes)?;
        self.records += 1;
        self.bytes += bytes.len();
        // Nothing of it is a row: it was lost, or the store has what was taken over from the node that had it.
        let Logged::Message(record) = logged else { return Ok(()) };
        self.oldest.get_or_insert(record.published_at);
        self.newest = Some(record.published_at);
        match self.marks.get_mut(&SubjectText(record.subject)) {
            Some(mark) => *mark = (record.id, sequence),
            None => {
                let subject = Subject::new(record.subject.to_owned())
                    .map_err(|error| RecordError::Malformed { reason: error.to_string() })?;
                self.marks.insert(subject, (record.id, sequence));
            }
        }
        if !record.expiration.is_fire_and_forget() {
            let row = self.row(sequence, bytes, &record);
            if let (Some(traced), Some(traceparent)) = (&mut self.traced, record.traceparent) {
                let member = |place| Member { place, subject: row.subject.clone(), id: row.id };
                traced.extend(SpanPlace::sampled(traceparent).map(member));
            }
            self.rows.push(row);
        }
        Ok(())
    }

    /// The rows that are traced.
    pub fn take_traced(&mut self) -> Vec<Member> {
        self.traced.take().unwrap_or_default()
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

    /// Records that were added, also those that are no messages.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Bytes of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the first message was published; None if no record is a message.
    pub fn oldest(&self) -> Option<UnixMicros> {
        self.oldest
    }

    /// When the last message was published; None if no record is a message.
    pub fn newest(&self) -> Option<UnixMicros> {
        self.newest
    }

    /// The same without the rows that have expired at `now`; their marks stay.
    pub fn without_expired(mut self, now: UnixMicros) -> Self {
        self.rows.retain(|row| row.expiration.expires_at(row.published_at) > now);
        self
    }

    /// The batch from `previous` to `projected`, which is the last record that was added.
    pub fn finish(self, previous: Projected, projected: Projected) -> StoreBatch {
        let marks = self.marks.into_iter();
        let high_water_marks = marks.map(HighWaterMark::from).collect();
        StoreBatch { previous, projected, rows: self.rows, high_water_marks }
    }
}
