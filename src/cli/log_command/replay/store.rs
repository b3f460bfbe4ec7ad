//! Into the history store: rows that it is past are written again, and without a filter it goes on to the end of the log.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::super::stopped::applier_failure;
use super::super::super::waiting::Waiting;
use super::super::super::{Exit, Failure};
use super::Replay;
use super::checkpoint::Ranges;
use super::source::{Chunk, Selected};
use crate::event::{MessageId, Projected, Sequence, Subject, clock};
use crate::projector::{self, Applier, ApplierError, DeadLetters, HighWaterMark, Row, Store, StoreBatch};

/// Writes what is wanted, in batches of the projector's size. What the store does not take becomes a dead letter.
pub(super) async fn replay(
    replay: &mut Replay,
    store: Arc<dyn Store>,
    letters: DeadLetters,
    projected: Projected,
) -> Result<Ranges, Failure> {
    let bounds = projector::Config::default();
    let moves_on = replay.checkpoint.filter.takes_all();
    if moves_on && projected.sequence().get() < replay.after {
        let (at, after) = (projected, replay.after);
        let message = format!(
            "the store is at sequence {at}, the checkpoint at {after}: it is of another store; remove the file"
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    let letters_before = letters.count();
    let mut target = Into { store, letters, projected, moves_on, batch: Gathered::new(Sequence::new(replay.after)) };
    'frames: while let Some(chunk) = replay.next().await {
        let chunk = chunk?;
        target.refuse_gap(&chunk)?;
        for selected in chunk.selected.iter() {
            if let Some(turn) = replay.pace.wait() {
                replay.pause(turn).await;
            }
            if replay.stop.is_cancelled() {
                break 'frames;
            }
            target.add(selected, replay);
        }
        target.batch.through = chunk.through;
        if target.batch.rows.len() + target.batch.again.len() >= bounds.batch_rows
            || target.batch.bytes >= bounds.batch_bytes
        {
            target.commit(replay).await?;
        }
        if replay.stop.is_cancelled() {
            break;
        }
    }
    // Also what was gathered when it was to end.
    target.commit(replay).await?;
    if target.letters.count() > letters_before {
        let message = "the store does not take some of the messages; `walcast store status` lists them as dead letters";
        return Err(Failure::new(Exit::Failed, message));
    }
    Ok(Ranges::default())
}

struct Gathered {
    /// What the store is past already, or is not to be moved to.
    again: Vec<Row>,
    /// What comes after its position.
    rows: Vec<Row>,
    marks: HashMap<Subject, (MessageId, Sequence)>,
    bytes: usize,
    records: u64,
    through: Sequence,
}

impl Gathered {
    fn new(through: Sequence) -> Self {
        Self { again: Vec::new(), rows: Vec::new(), marks: HashMap::new(), bytes: 0, records: 0, through }
    }
}

struct Into {
    store: Arc<dyn Store>,
    letters: DeadLetters,
    projected: Projected,
    /// Whether the store goes on to the end of the log.
    moves_on: bool,
    batch: Gathered,
}

impl Into {
    /// The store cannot go on where the log no longer holds what comes next.
    fn refuse_gap(&self, chunk: &Chunk) -> Result<(), Failure> {
        let first = chunk.first;
        let next = self.projected.sequence().max(self.batch.through).next();
        if self.moves_on && first > next {
            let message = format!(
                "the store is at sequence {}, and the log begins at {first}: what lies between is in neither",
                self.projected
            );
            return Err(Failure::new(Exit::Failed, message));
        }
        Ok(())
    }

    fn add(&mut self, selected: &Selected, replay: &mut Replay) {
        let Selected { sequence, message } = selected;
        self.batch.through = *sequence;
        let new = self.moves_on && *sequence > self.projected.sequence();
        self.batch.records += 1;
        if new {
            self.batch.marks.insert(message.subject.clone(), (message.id, *sequence));
        }
        if message.expiration.is_fire_and_forget() {
            return;
        }
        if message.expiration.expires_at(message.published_at) <= clock::now() {
            replay.expired += 1;
            return;
        }
        self.batch.bytes += message.body.len();
        let row = Row {
            sequence: *sequence,
            subject: message.subject.clone(),
            id: message.id,
            published_at: message.published_at,
            expiration: message.expiration,
            body: message.body.clone(),
        };
        if new { self.batch.rows.push(row) } else { self.batch.again.push(row) }
    }

    async fn commit(&mut self, replay: &mut Replay) -> Result<(), Failure> {
        let through = self.batch.through;
        let batch = std::mem::replace(&mut self.batch, Gathered::new(through));
        let stopped = replay.stop.clone();
        let flush_within = projector::Config::default().flush_within;
        let applier = Applier { store: &*self.store, letters: &self.letters, patience: &Waiting };
        let write = async {
            if !batch.again.is_empty() {
                applier.rewrite(Arc::new(batch.again)).await?;
            }
            if !self.moves_on || through <= self.projected.sequence() {
                return Ok(self.projected);
            }
            let run = StoreBatch {
                previous: self.projected,
                projected: Projected(through),
                rows: batch.rows,
                high_water_marks: batch.marks.into_iter().map(HighWaterMark::from).collect(),
            };
            applier.apply(Arc::new(run)).await?;
            Ok(Projected(through))
        };
        self.projected = tokio::select! {
            written = write => written.map_err(|error: ApplierError| applier_failure(&error))?,
            // What was gathered is written, as at a broker's stop, if the store takes it in time. If not, the next run asks the store where it is.
            () = async { stopped.cancelled().await; tokio::time::sleep(flush_within).await } => return Ok(()),
        };
        replay.arrived += batch.records;
        replay.reached(through, Ranges::default)
    }
}
