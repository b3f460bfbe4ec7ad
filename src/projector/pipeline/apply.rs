//! One batch into the store, exactly once, whatever the store answers.

use std::sync::Arc;

use tracing::warn;

use super::retry::Pauses;
use super::{Projector, ProjectorError};
use crate::event::{Projected, UnixMicros};
use crate::projector::{ApplyError, DeadLetterError, Row, StoreBatch};

/// What came of one batch.
enum Outcome {
    Applied,
    /// A row of it is not taken; what the store said.
    Rejected(String),
}

impl Projector {
    /// Applies a batch, however often that takes. Of a batch that is rejected the first half is tried, then the rest, down to
    /// the single row, which becomes a dead letter: 13 attempts find one row of 8,000.
    pub(super) async fn apply(&self, batch: Arc<StoreBatch>, oldest: UnixMicros) -> Result<(), ProjectorError> {
        // The piece that comes next is the last one. Each half adds one, so there are as many as halvings.
        let mut pieces = vec![batch];
        while let Some(piece) = pieces.pop() {
            let Outcome::Rejected(reason) = self.attempt(&piece, oldest).await? else { continue };
            match &piece.rows[..] {
                [] => return Err(ProjectorError::Apply(ApplyError::Rejected { reason })),
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
    async fn attempt(&self, batch: &Arc<StoreBatch>, oldest: UnixMicros) -> Result<Outcome, ProjectorError> {
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
                    self.metrics.retries.inc();
                    self.lag_seconds(oldest);
                    self.lag_records(batch.previous);
                    self.stall(&error, &mut pauses).await;
                }
                Err(ApplyError::Rejected { reason }) => return Ok(Outcome::Rejected(reason)),
                Err(error) => return Err(ProjectorError::Apply(error)),
            }
        }
    }

    /// Keeps a row as a dead letter; waits until there is room for it.
    async fn set_aside(&self, row: &Row, reason: &str, projected: Projected) -> Result<(), ProjectorError> {
        let mut pauses = Pauses::new();
        loop {
            let (letters, kept, why) = (self.letters.clone(), row.clone(), reason.to_owned());
            let added = tokio::task::spawn_blocking(move || letters.add(&kept, &why)).await;
            match added.map_err(|error| ProjectorError::ReaderLost(error.to_string()))? {
                Ok(()) => break,
                Err(error @ (DeadLetterError::Full { .. } | DeadLetterError::Io { .. })) => {
                    self.lag_records(projected);
                    self.stall(&error, &mut pauses).await;
                }
                Err(error) => return Err(ProjectorError::DeadLetter(error)),
            }
        }
        self.count_letters();
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
