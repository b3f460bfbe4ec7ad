//! One batch into the store, exactly once, whatever the store answers.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tracing::warn;

use super::retry::Pauses;
use super::{ApplyError, DeadLetterError, DeadLetters, Row, Store, StoreBatch};
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

impl Applier<'_> {
    /// Applies a batch, however often that takes. Of a batch that is rejected the first half is tried, then the rest, down to
    /// the single row, which becomes a dead letter: 13 attempts find one row of 8,000.
    ///
    /// # Errors
    /// [`ApplierError`] if trying again does not help. The store is at the batch's beginning, its end, or one of its rows.
    pub async fn apply(&self, batch: Arc<StoreBatch>) -> Result<(), ApplierError> {
        // The piece that comes next is the last one. Each half adds one, so there are as many as halvings.
        let mut pieces = vec![batch];
        while let Some(piece) = pieces.pop() {
            let Outcome::Rejected(reason) = self.attempt(&piece).await? else { continue };
            match &piece.rows[..] {
                [] => return Err(ApplierError::Apply(ApplyError::Rejected { reason })),
                [row] => {
                    self.set_aside(row, &reason, piece.previous).await?;
                    pieces.push(Arc::new(StoreBatch { rows: Vec::new(), ..(*piece).clone() }));
                }
                _ => {
                    let (first, rest) = halves(&piece);
                    pieces.extend([Arc::new(rest), Arc::new(first)]);
                }
            }
        }
        Ok(())
    }

    /// Applies a batch or learns that a row of it is rejected, exactly once.
    async fn attempt(&self, batch: &Arc<StoreBatch>) -> Result<Outcome, ApplierError> {
        let mut pauses = Pauses::new();
        let mut tried = false;
        loop {
            match self.store.apply(batch).await {
                Ok(()) => return Ok(Outcome::Applied),
                // An earlier attempt was committed, and only its answer was lost.
                Err(ApplyError::WrongPosition { found, .. }) if tried && found == batch.projected => {
                    return Ok(Outcome::Applied);
                }
                Err(ApplyError::Store(error)) if error.retryable() => {
                    tried = true;
                    self.patience.wait(&error, batch.previous, &mut pauses).await;
                }
                Err(ApplyError::Rejected { reason }) => return Ok(Outcome::Rejected(reason)),
                Err(error) => return Err(ApplierError::Apply(error)),
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
        self.patience.set_aside();
        let (sequence, id) = (row.sequence, row.id);
        warn!(%sequence, %id, reason, "the store does not take a message; it is set aside as a dead letter");
        Ok(())
    }
}

/// Two batches that do together what one does. The marks move with the second: they are of the whole run.
fn halves(batch: &StoreBatch) -> (StoreBatch, StoreBatch) {
    let (first, rest) = batch.rows.split_at(batch.rows.len() / 2);
    let between = first.last().map_or(batch.previous, |row| Projected(row.sequence));
    let first =
        StoreBatch { previous: batch.previous, projected: between, rows: first.to_vec(), high_water_marks: Vec::new() };
    let rest = StoreBatch {
        previous: between,
        projected: batch.projected,
        rows: rest.to_vec(),
        high_water_marks: batch.high_water_marks.clone(),
    };
    (first, rest)
}

impl fmt::Debug for Applier<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Applier").field("store", &self.store).finish_non_exhaustive()
    }
}
