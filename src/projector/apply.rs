//! One batch into the store, exactly once, whatever the store answers.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tracing::warn;

use super::retry::Pauses;
use super::{ApplyError, DeadLetterError, DeadLetters, HighWaterMark, Row, Store, StoreBatch};
use crate::event::Projected;

/// Why a batch cannot be applied by waiting.
#[derive(Debug, thiserror::Error)]
pub enum ApplierError {
    /// The store refuses for good.
    #[error("cannot apply a batch: {0}")]
    Apply(ApplyError),
    /// A row that the store rejects cannot be kept.
    #[error("cannot keep a dead letter: {0}")]
    DeadLetter(DeadLetterError),
    /// The thread that writes a dead letter ended in the middle; a defect.
    #[error("keeping a dead letter ended in the middle: {0}")]
    Lost(String),
}

/// Whoever waits for the store.
#[async_trait]
pub trait Patience: Send + Sync {
    /// An attempt failed in passing. Waits before the next one; the store is at `at`.
    async fn wait(&self, error: &(dyn fmt::Display + Sync), at: Projected, pauses: &mut Pauses);

    /// A row became a dead letter.
    fn set_aside(&self);
}

/// Applies batches.
#[derive(Clone, Copy)]
pub struct Applier<'a> {
    /// Where rows go.
    pub store: &'a dyn Store,
    /// Where those go that it rejects.
    pub letters: &'a DeadLetters,
    /// Who waits.
    pub patience: &'a dyn Patience,
}

/// What came of one attempt.
enum Outcome {
    Applied,
    /// A row of it is not taken; what the store said.
    Rejected(String),
}

/// What is written as a whole, or cut in two where the store rejects a row of it.
enum Piece {
    /// A run of the log, which moves the position.
    Run(Arc<StoreBatch>),
    /// Rows that the store is past.
    Again(Arc<Vec<Row>>),
}

impl Piece {
    fn rows(&self) -> &[Row] {
        match self {
            Self::Run(batch) => &batch.rows,
            Self::Again(rows) => rows,
        }
    }

    /// Where the store is while it is tried.
    fn at(&self) -> Projected {
        match self {
            Self::Run(batch) => batch.previous,
            Self::Again(rows) => rows.first().map_or_else(Projected::default, |row| Projected(row.sequence)),
        }
    }

    fn halves(&self) -> [Self; 2] {
        match self {
            Self::Run(batch) => halves(batch).map(|half| Self::Run(Arc::new(half))),
            Self::Again(rows) => {
                let (first, rest) = rows.split_at(rows.len() / 2);
                [first, rest].map(|half| Self::Again(Arc::new(half.to_vec())))
            }
        }
    }

    /// What is still to be written once its rows are not: the position and the marks of a run.
    fn without_rows(&self) -> Option<Self> {
        match self {
            Self::Run(batch) => Some(Self::Run(Arc::new(StoreBatch { rows: Vec::new(), ..(**batch).clone() }))),
            Self::Again(_) => None,
        }
    }
}

impl Applier<'_> {
    /// Applies a batch, however often that takes. Of a batch that is rejected the first half is tried, then the rest, down to
    /// the single row, which becomes a dead letter: 13 attempts find one row of 8,000.
    ///
    /// # Errors
    /// [`ApplierError`] if trying again does not help. The store is at the batch's beginning, its end, or one of its rows.
    pub async fn apply(&self, batch: Arc<StoreBatch>) -> Result<(), ApplierError> {
        self.write(Piece::Run(batch)).await
    }

    /// Writes rows again, however often that takes; those that the store rejects become dead letters, if they are none yet.
    ///
    /// # Errors
    /// [`ApplierError`] if trying again does not help; any of the rows may be there then.
    pub async fn rewrite(&self, rows: Arc<Vec<Row>>) -> Result<(), ApplierError> {
        self.write(Piece::Again(rows)).await
    }

    async fn write(&self, whole: Piece) -> Result<(), ApplierError> {
        // The piece that comes next is the last one. Each half adds one, so there are as many as halvings.
        let mut pieces = vec![whole];
        let mut pauses = Pauses::new();
        while let Some(piece) = pieces.pop() {
            let Outcome::Rejected(reason) = self.attempt(&piece).await? else { continue };
            match piece.rows() {
                // What it does not take is no row but a mark, or the position: nothing can be set aside.
                [] => {
                    self.patience.wait(&ApplyError::Rejected { reason }, piece.at(), &mut pauses).await;
                    pieces.push(piece);
                }
                [row] => {
                    self.set_aside(row, &reason, piece.at()).await?;
                    pieces.extend(piece.without_rows());
                }
                _ => {
                    let [first, rest] = piece.halves();
                    pieces.extend([rest, first]);
                }
            }
        }
        Ok(())
    }

    /// Writes a piece or learns that a row of it is rejected, exactly once.
    async fn attempt(&self, piece: &Piece) -> Result<Outcome, ApplierError> {
        let mut pauses = Pauses::new();
        let mut tried = false;
        loop {
            let (written, end) = match piece {
                Piece::Run(batch) => (self.store.apply(batch).await, Some(batch.projected)),
                Piece::Again(rows) => (self.store.rewrite(rows).await, None),
            };
            match written {
                Ok(()) => return Ok(Outcome::Applied),
                // An earlier attempt was committed, and only its answer was lost.
                Err(ApplyError::WrongPosition { found, .. }) if tried && Some(found) == end => {
                    return Ok(Outcome::Applied);
                }
                Err(ApplyError::Store(error)) if error.retryable() => {
                    tried = true;
                    self.patience.wait(&error, piece.at(), &mut pauses).await;
                }
                Err(ApplyError::Rejected { reason }) => return Ok(Outcome::Rejected(reason)),
                Err(error) => return Err(ApplierError::Apply(error)),
            }
        }
    }

    /// Tells a store that several nodes share that it lacks the row, before its position passes it.
    async fn note_lacking(&self, row: &Row, at: Projected) -> Result<(), ApplierError> {
        let lacking = [(row.subject.clone(), row.expiration.expires_at(row.published_at))];
        let mut pauses = Pauses::new();
        loop {
            match self.store.note_lacking(&lacking).await {
                Ok(()) => return Ok(()),
                Err(error) if error.retryable() => self.patience.wait(&error, at, &mut pauses).await,
                Err(error) => return Err(ApplierError::Apply(error.into())),
            }
        }
    }

    /// Keeps a row as a dead letter; waits until there is room for it.
    async fn set_aside(&self, row: &Row, reason: &str, at: Projected) -> Result<(), ApplierError> {
        let mut pauses = Pauses::new();
        loop {
            let (letters, kept, why) = (self.letters.clone(), row.clone(), reason.to_owned());
            let added = tokio::task::spawn_blocking(move || letters.add(&kept, &why)).await;
            match added.map_err(|error| ApplierError::Lost(error.to_string()))? {
                Ok(()) => break,
                Err(error @ (DeadLetterError::Full { .. } | DeadLetterError::Io { .. })) => {
                    self.patience.wait(&error, at, &mut pauses).await;
                }
                Err(error) => return Err(ApplierError::DeadLetter(error)),
            }
        }
        self.note_lacking(row, at).await?;
        self.patience.set_aside();
        let (sequence, id) = (row.sequence, row.id);
        warn!(
            sequence = sequence.get(),
            id = id.get(),
            reason,
            "the store does not take a message; it is set aside as a dead letter"
        );
        Ok(())
    }
}

/// Two batches that do together what one does. A mark moves with the first if its message is in that part of the run: when
/// only the first is applied, the log is read again from there, and a subject that is not in the rest would stay without.
fn halves(batch: &StoreBatch) -> [StoreBatch; 2] {
    let (first, rest) = batch.rows.split_at(batch.rows.len() / 2);
    let between = first.last().map_or(batch.previous, |row| Projected(row.sequence));
    let of_first = |mark: &HighWaterMark| mark.sequence <= between.sequence();
    let (marks, other_marks) = batch.high_water_marks.iter().cloned().partition(of_first);
    let first =
        StoreBatch { previous: batch.previous, projected: between, rows: first.to_vec(), high_water_marks: marks };
    let rest = StoreBatch {
        previous: between,
        projected: batch.projected,
        rows: rest.to_vec(),
        high_water_marks: other_marks,
    };
    [first, rest]
}

impl fmt::Debug for Applier<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Applier").field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{Expiration, MessageId, Sequence, Subject, UnixMicros};

    fn row(sequence: u64, subject: &str, id: u32) -> Row {
        Row {
            sequence: Sequence::new(sequence),
            subject: Subject::new(subject.to_owned()).expect("valid"),
            id: MessageId::new(id).expect("an id"),
            published_at: UnixMicros::from_micros(1),
            expiration: Expiration::from_wire(60).expect("not negative"),
            body: Bytes::new(),
        }
    }

    #[test]
    fn marks_move_with_the_part_of_a_batch_that_has_their_message() {
        let rows = vec![row(1, "a", 1), row(2, "b", 1), row(4, "a", 2), row(5, "b", 2)];
        let mark = |text: &str, id, sequence| HighWaterMark {
            subject: Subject::new(text.to_owned()).expect("valid"),
            id: MessageId::new(id).expect("an id"),
            sequence: Sequence::new(sequence),
        };
        // Of "early" there is nothing in the second half, of "late" a fire and forget one after the last row.
        let marks = vec![mark("a", 2, 4), mark("b", 2, 5), mark("early", 7, 2), mark("late", 9, 6)];
        let projected = Projected(Sequence::new(6));
        let batch = StoreBatch { previous: Projected::default(), projected, rows, high_water_marks: marks };
        let [first, rest] = halves(&batch);
        assert_eq!((first.previous, first.projected), (batch.previous, Projected(Sequence::new(2))));
        assert_eq!((rest.previous, rest.projected), (first.projected, projected));
        assert_eq!(first.high_water_marks, [mark("early", 7, 2)]);
        assert_eq!(rest.high_water_marks, [mark("a", 2, 4), mark("b", 2, 5), mark("late", 9, 6)]);
    }
}
