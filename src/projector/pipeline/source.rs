//! Where the next batch comes from, and on which thread it is made.

use super::ProjectorError;
use super::batch::{BatchReader, ReadBatch};
use crate::event::{Projected, clock};
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
    /// The next batch, if there is anything durable after `projected`.
    pub(super) async fn next(&mut self, projected: Projected) -> Result<Option<ReadBatch>, ProjectorError> {
        match self {
            Self::Records(reader) => {
                let lost = || ProjectorError::ReaderLost("it has no reader".to_owned());
                let mut taken = reader.take().ok_or_else(lost)?;
                let read = tokio::task::spawn_blocking(move || {
                    let read = taken.next();
                    (taken, read)
                });
                let (back, read) = read.await.map_err(|error| ProjectorError::ReaderLost(error.to_string()))?;
                *reader = Some(back);
                read
            }
            Self::Positions(log) => {
                let next = Projected(log.durable().sequence());
                let batch = StoreBatch { previous: projected, projected: next, ..StoreBatch::default() };
                let read = ReadBatch { batch, oldest: clock::now(), full: false };
                Ok((next > projected).then_some(read))
            }
        }
    }
}
