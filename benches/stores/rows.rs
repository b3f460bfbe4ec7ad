//! What is written into the stores.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use walcast::event::{Expiration, MessageId, Projected, Sequence, Subject, UnixMicros, clock};
use walcast::projector::{HighWaterMark, Row, StoreBatch};

use crate::Failure;

/// Rows and bytes of a batch, as the projector's defaults are.
const BATCH_ROWS: usize = 8_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Subjects of the mixed rows, in turn.
pub const SUBJECTS: u64 = 100;

/// Rows that follow each other in the log.
#[derive(Debug, Clone)]
pub struct Run {
    /// The position that the store is at before.
    pub previous: u64,
    /// How many.
    pub count: u64,
    /// Bytes of each body. No two bodies are the same, and none compresses.
    pub body_bytes: usize,
    /// How long they are kept, in seconds.
    pub life_seconds: i32,
    /// What the names of their subjects begin with.
    pub subjects: &'static str,
    /// How many subjects, in turn.
    pub subject_count: u64,
}

impl Run {
    /// The subject and id of a row, by its number from 0.
    ///
    /// # Errors
    /// More rows on a subject than there are ids.
    pub fn key(&self, number: u64) -> Result<(Subject, MessageId), Failure> {
        let subject = Subject::new(format!("{}.{}", self.subjects, number % self.subject_count))?;
        let id = MessageId::new(u32::try_from(number / self.subject_count + 1)?).ok_or("an id")?;
        Ok((subject, id))
    }

    /// The position of the store after all of them.
    pub fn end(&self) -> u64 {
        self.previous + self.count
    }

    /// As the batches that the projector would make, published now.
    ///
    /// # Errors
    /// More rows on a subject than there are ids.
    pub fn batches(&self) -> Result<Vec<Arc<StoreBatch>>, Failure> {
        self.batches_of(clock::now())
    }

    /// As the batches that the projector would make, all published at one instant.
    ///
    /// # Errors
    /// More rows on a subject than there are ids.
    pub fn batches_of(&self, published_at: UnixMicros) -> Result<Vec<Arc<StoreBatch>>, Failure> {
        let rows_max = (BATCH_BYTES / self.body_bytes).clamp(1, BATCH_ROWS) as u64;
        let mut random = StdRng::seed_from_u64(self.previous);
        let starts = (0..self.count).step_by(usize::try_from(rows_max)?);
        let end = |first: u64| self.count.min(first + rows_max);
        starts.map(|first| self.batch(first..end(first), published_at, &mut random)).collect()
    }

    fn batch(
        &self,
        numbers: Range<u64>,
        published_at: UnixMicros,
        random: &mut StdRng,
    ) -> Result<Arc<StoreBatch>, Failure> {
        let at = |number| Sequence::new(self.previous + number);
        let expiration = Expiration::from_wire(self.life_seconds).ok_or("an expiration")?;
        let mut rows = Vec::new();
        let mut marks = std::collections::BTreeMap::new();
        for number in numbers.clone() {
            let (subject, id) = self.key(number)?;
            let sequence = at(number + 1);
            let mut body = vec![0; self.body_bytes];
            random.fill_bytes(&mut body);
            marks.insert(subject.clone(), (id, sequence));
            rows.push(Row { sequence, subject, id, published_at, expiration, body: Bytes::from(body) });
        }
        let high_water_marks = marks.into_iter().map(HighWaterMark::from).collect();
        let (previous, projected) = (Projected(at(numbers.start)), Projected(at(numbers.end)));
        Ok(Arc::new(StoreBatch { previous, projected, rows, high_water_marks }))
    }
}
