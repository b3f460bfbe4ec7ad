//! Reading batches from a running log.

use super::{Config, ProjectorError};
use crate::event::{Projected, UnixMicros, clock};
use crate::projector::{BatchBuilder, StoreBatch};
use crate::telemetry::traces::Member;
use crate::wal::Reader;

/// A reader of the log that hands out batches. Reads files, so it belongs on a blocking thread.
#[derive(Debug)]
pub(super) struct BatchReader {
    kind: &'static str,
    reader: Reader,
    records_max: usize,
    bytes_max: usize,
    gathered: BatchBuilder,
    new_builder: fn() -> BatchBuilder,
}

/// A batch and what is known of the run it was made from.
#[derive(Debug)]
pub(super) struct ReadBatch {
    /// What the store gets.
    pub(super) batch: StoreBatch,
    /// When the first message was published; now, if all of the run is lost.
    pub(super) oldest: UnixMicros,
    /// When the last one was; None if all of the run is lost, or not read.
    pub(super) newest: Option<UnixMicros>,
    /// Its rows that are traced; none if nothing is.
    pub(super) traced: Vec<Member>,
}

impl BatchReader {
    pub(super) fn new(kind: &'static str, reader: Reader, config: &Config, tracing: bool) -> Self {
        let (records_max, bytes_max) = (config.batch_rows, config.batch_bytes);
        let new_builder = if tracing { BatchBuilder::tracing } else { BatchBuilder::default };
        Self { kind, reader, records_max, bytes_max, gathered: new_builder(), new_builder }
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
                self.gathered.add(sequence, &bytes).map_err(|error| ProjectorError::Record { sequence, error })?;
            }
        }
        Ok(true)
    }

    /// The batch that was filled, which starts after `previous`; None if it is empty.
    pub(super) fn take(&mut self, previous: Projected) -> Option<ReadBatch> {
        if self.gathered.records() == 0 {
            return None;
        }
        let mut gathered = std::mem::replace(&mut self.gathered, (self.new_builder)());
        let traced = gathered.take_traced();
        let (oldest, newest) = (gathered.oldest().unwrap_or_else(clock::now), gathered.newest());
        let batch = gathered.finish(previous, Projected(self.reader.position()));
        Some(ReadBatch { batch, oldest, newest, traced })
    }

    /// When the first message that was filled in was published.
    pub(super) fn oldest(&self) -> Option<UnixMicros> {
        self.gathered.oldest()
    }

    fn is_full(&self) -> bool {
        self.gathered.records() >= self.records_max || self.gathered.bytes() >= self.bytes_max
    }
}
