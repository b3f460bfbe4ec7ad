//! Where the next batch comes from, and on which thread it is made.

use super::ProjectorError;
use super::batch::{BatchReader, ReadBatch};
use crate::event::{Projected, UnixMicros, clock};
use crate::projector::StoreBatch;
use crate::wal::Log;

/// Where batches come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The log's records. None while a blocking thread has the reader.
    Records(Option<Box<BatchReader>>),
    /// A store without history needs only the position: the log is not read.
    Positions(Log),
}

impl Source {
    /// Takes in what is durable and not in the batch yet; whether that has filled it.
    pub(super) async fn fill(&mut self) -> Result<bool, ProjectorError> {
        let Self::Records(reader) = self else {
            return Ok(true);
        };
        let mut taken = reader.take().ok_or_else(|| ProjectorError::ReaderLost("it has no reader".to_owned()))?;
        let read = tokio::task::spawn_blocking(move || {
            let full = taken.fill();
            (taken, full)
        });
        let (back, full) = read.await.map_err(|error| ProjectorError::ReaderLost(error.to_string()))?;
        *reader = Some(back);
        full
    }

    /// When the first record was published that was taken in and is in no batch yet.
    pub(super) fn oldest(&self) -> Option<UnixMicros> {
        match self {
            Self::Records(reader) => reader.as_ref()?.oldest(),
            Self::Positions(_) => None,
        }
    }

    /// The batch from `projected` on, unless there is nothing in it.
    pub(super) fn take(&mut self, projected: Projected) -> Option<ReadBatch> {
        match self {
            Self::Records(reader) => reader.as_mut()?.take(projected),
            Self::Positions(log) => {
                let next = Projected(log.durable().sequence());
                let batch = StoreBatch { previous: projected, projected: next, ..StoreBatch::default() };
                (next > projected).then(|| ReadBatch { batch, oldest: clock::now(), newest: None, traced: Vec::new() })
            }
        }
    }
}
