//! `none`: the store of pure pub/sub. Messages live in the log, for as long as it keeps them.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{ApplyError, Row, Store, StoreBatch, StoreError, StoredMessage};
use crate::event::{MessageId, Projected, Subject, UnixMicros};

/// A store that keeps a position and nothing else.
#[derive(Debug)]
pub struct NoneStore {
    projected: Mutex<Projected>,
}

impl NoneStore {
    /// A store that takes everything up to `projected` as done. The position is not kept over a restart:
    /// pass the log's durable end at start, because what is before it could not be fetched anyway.
    pub const fn starting_at(projected: Projected) -> Self {
        Self { projected: Mutex::new(projected) }
    }
}

#[async_trait]
impl Store for NoneStore {
    fn kind(&self) -> &'static str {
        "none"
    }

    fn keeps_history(&self) -> bool {
        false
    }

    async fn projected(&self) -> Result<Projected, StoreError> {
        Ok(*self.projected.lock())
    }

    async fn apply(&self, batch: &Arc<StoreBatch>) -> Result<(), ApplyError> {
        let mut projected = self.projected.lock();
        if *projected != batch.previous {
            return Err(ApplyError::WrongPosition { found: *projected, expected: batch.previous });
        }
        *projected = batch.projected;
        Ok(())
    }

    async fn rewrite(&self, _rows: &Arc<Vec<Row>>) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn fetch(
        &self,
        _subject: &Subject,
        _id: MessageId,
        _now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        Ok(None)
    }

    async fn after(
        &self,
        _subject: &Subject,
        _after: u32,
        _messages_max: usize,
        _bytes_max: usize,
        _now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        Ok(Vec::new())
    }

    async fn high_water_mark(&self, _subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        Ok(None)
    }

    async fn expire(&self, _now: UnixMicros) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projector::conformance::{self, Harness, Place};

    struct Memory;

    #[async_trait]
    impl Harness for Memory {
        async fn create(&self) -> Result<Box<dyn Place>, String> {
            Ok(Box::new(Self))
        }
    }

    #[async_trait]
    impl Place for Memory {
        async fn open(&self, _log_id: u128) -> Result<Box<dyn Store>, String> {
            Ok(Box::new(NoneStore::starting_at(Projected::default())))
        }
    }

    #[tokio::test]
    async fn passes_the_checks_of_a_store_without_history() {
        conformance::without_history(&Memory).await.expect("conforms");
    }
}
