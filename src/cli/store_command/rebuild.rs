//! `walcast store rebuild`: the store from the log.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::super::log_command::progress::Progress;
use super::super::log_command::{not_understood, unreadable};
use super::super::output::{self, Output};
use super::super::stopped::applier_failure;
use super::super::waiting::Waiting;
use super::super::{Exit, Failure, client, signals};
use super::Stopped;
use crate::config::Settings;
use crate::event::{Projected, Sequence, clock};
use crate::projector::{self, Applier, BatchBuilder, Opening, StoreBatch};
use crate::wal::Scanner;

/// Fills the store up to the end of the log.
pub(super) fn run(settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    let stop = signals::watch()?;
    client::block_on(async {
        let stopped = Stopped::open(settings, Opening::Take).await?;
        let applier = Applier { store: &*stopped.store, letters: &stopped.letters, patience: &Waiting };
        let begun = tokio::select! {
            begun = begin(&stopped, applier) => begun?,
            () = stop.cancelled() => return Err(interrupted(stopped.projected)),
        };
        let last = stopped.inspection.last();
        if begun.sequence() > last {
            let message = format!("the store is at sequence {begun}, and the log ends at {last}: it is of another log");
            return Err(Failure::new(Exit::Failed, message));
        }
        let total = last.get() - begun.sequence().get();
        let scanner = stopped.inspection.scanner(begun.sequence());
        let mut rebuild = Rebuild { applier, scanner, at: begun, progress: Progress::new("records", total), rows: 0 };
        let done = rebuild.run(last, &stop).await;
        rebuild.progress.end();
        let (records, rows) = (rebuild.at.sequence().get() - begun.sequence().get(), rebuild.rows);
        output.line(format!("{records} records read, {rows} rows written; the store is at sequence {}", rebuild.at))?;
        done
    })
}

/// Where the store begins: an empty one at what the log no longer holds.
async fn begin(stopped: &Stopped, applier: Applier<'_>) -> Result<Projected, Failure> {
    let (at, first) = (stopped.projected, stopped.first());
    if at.sequence().next() >= first {
        return Ok(at);
    }
    if at != Projected::default() {
        let message = format!(
            "the store is at sequence {at}, and the log begins at {first}: what lies between is in neither; restore a newer \
             copy of the store, or empty it to have it filled with what the log holds"
        );
        return Err(Failure::new(Exit::Failed, message));
    }
    output::note(&format!(
        "the log begins at sequence {first}: what was before is trimmed, and will not be in the store"
    ));
    let start = Projected(first.previous());
    let nothing = StoreBatch { previous: at, projected: start, ..StoreBatch::default() };
    applier.apply(Arc::new(nothing)).await.map_err(|error| applier_failure(&error))?;
    Ok(start)
}

struct Rebuild<'a> {
    applier: Applier<'a>,
    scanner: Scanner,
    at: Projected,
    progress: Progress,
    rows: u64,
}

impl Rebuild<'_> {
    async fn run(&mut self, last: Sequence, stop: &CancellationToken) -> Result<(), Failure> {
        let begun = self.at.sequence().get();
        while self.at.sequence() < last {
            let batch = Arc::new(self.gather()?);
            tokio::select! {
                applied = self.applier.apply(Arc::clone(&batch)) => {
                    applied.map_err(|error| applier_failure(&error))?;
                }
                // Applied or not: the next run asks the store where it is.
                () = stop.cancelled() => return Err(interrupted(self.at)),
            }
            self.at = batch.projected;
            self.rows += batch.rows.len() as u64;
            self.progress.set(self.at.sequence().get() - begun);
            if stop.is_cancelled() && self.at.sequence() < last {
                return Err(interrupted(self.at));
            }
        }
        Ok(())
    }

    /// The next batch, of the projector's size; empty only if the log ends sooner than it was said to.
    fn gather(&mut self) -> Result<StoreBatch, Failure> {
        let bounds = projector::Config::default();
        let mut builder = BatchBuilder::default();
        let mut through = self.at.sequence();
        while builder.records() < bounds.batch_rows && builder.bytes() < bounds.batch_bytes {
            let Some(frame) = self.scanner.next().map_err(|error| unreadable(&error))? else { break };
            for (sequence, bytes) in frame.iter() {
                builder.add(sequence, &bytes).map_err(|error| not_understood(sequence, &error))?;
            }
            through = frame.last();
        }
        if builder.records() == 0 {
            return Err(Failure::new(Exit::Failed, format!("the log ends at sequence {through}, sooner than before")));
        }
        // What has expired would only be written to be dropped again.
        Ok(builder.without_expired(clock::now()).finish(self.at, Projected(through)))
    }
}

fn interrupted(at: Projected) -> Failure {
    let message = format!("interrupted: the store is at sequence {at}; the same command goes on from there");
    Failure::new(Exit::Interrupted, message)
}
