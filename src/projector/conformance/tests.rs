//! The suite must fail stores that break the contract.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::event::{MessageId, Projected, Subject, UnixMicros};
use crate::projector::{ApplyError, HighWaterMark, Row, StoreBatch, StoreError, StoredMessage};

/// What a memory store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The position is saved, the rows only live until the store is dropped.
    ForgetsRows,
    /// The position moves even if the batch is refused afterwards.
    PositionFirst,
    KeepsExpired,
    ExpiresAMicrosecondEarly,
    LossyBodies,
    FoldsCase,
    IgnoresThePosition,
    AnyLog,
    ExpireDropsTooMuch,
    MarksOnlyOfRows,
    NeverRewrites,
    RewriteMovesThePosition,
    AfterInAnyOrder,
    AfterSkipsOne,
}

#[derive(Debug, Default)]
struct State {
    log_id: Option<u128>,
    projected: Projected,
    rows: HashMap<(String, u32), StoredMessage>,
    marks: HashMap<String, MessageId>,
}

#[derive(Debug)]
struct MemoryStore {
    fault: Fault,
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    fn name(&self, subject: &Subject) -> String {
        if self.fault == Fault::FoldsCase { subject.as_str().to_lowercase() } else { subject.as_str().to_owned() }
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        if self.fault == Fault::ForgetsRows {
            self.state.lock().rows.clear();
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn projected(&self) -> Result<Projected, StoreError> {
        Ok(self.state.lock().projected)
    }

    async fn apply(&self, batch: &Arc<StoreBatch>) -> Result<(), ApplyError> {
        let mut state = self.state.lock();
        let found = state.projected;
        if self.fault == Fault::PositionFirst {
            state.projected = batch.projected;
        }
        if found != batch.previous && self.fault != Fault::IgnoresThePosition {
            return Err(ApplyError::WrongPosition { found, expected: batch.previous });
        }
        for row in &batch.rows {
            let body = match self.fault {
                Fault::LossyBodies => String::from_utf8_lossy(&row.body).into_owned().into(),
                _ => row.body.clone(),
            };
            let message = StoredMessage { published_at: row.published_at, expiration: row.expiration, body };
            state.rows.insert((self.name(&row.subject), row.id.get()), message);
        }
        if self.fault == Fault::MarksOnlyOfRows {
            for row in &batch.rows {
                state.marks.insert(self.name(&row.subject), row.id);
            }
        } else {
            for HighWaterMark { subject, id, .. } in &batch.high_water_marks {
                state.marks.insert(self.name(subject), *id);
            }
        }
        state.projected = batch.projected;
        Ok(())
    }

    async fn rewrite(&self, rows: &Arc<Vec<Row>>) -> Result<(), ApplyError> {
        if self.fault == Fault::NeverRewrites {
            return Ok(());
        }
        let mut state = self.state.lock();
        for row in rows.iter() {
            let message =
                StoredMessage { published_at: row.published_at, expiration: row.expiration, body: row.body.clone() };
            state.rows.insert((self.name(&row.subject), row.id.get()), message);
            if self.fault == Fault::RewriteMovesThePosition {
                state.projected = state.projected.max(Projected(row.sequence));
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        let now = match self.fault {
            Fault::KeepsExpired => UnixMicros::from_micros(i64::MIN),
            Fault::ExpiresAMicrosecondEarly => UnixMicros::from_micros(now.as_micros() + 1),
            _ => now,
        };
        let state = self.state.lock();
        let found = state.rows.get(&(self.name(subject), id.get()));
        Ok(found.filter(|row| now < row.expiration.expires_at(row.published_at)).cloned())
    }

    async fn after(
        &self,
        subject: &Subject,
        after: u32,
        messages_max: usize,
        bytes_max: usize,
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        let state = self.state.lock();
        let name = self.name(subject);
        let live = |row: &StoredMessage| now < row.expiration.expires_at(row.published_at);
        let mut found: Vec<(MessageId, StoredMessage)> = (state.rows.iter())
            .filter(|((of, id), row)| *of == name && *id > after && live(row))
            .filter_map(|((_, id), row)| Some((MessageId::new(*id)?, row.clone())))
            .collect();
        if self.fault != Fault::AfterInAnyOrder {
            found.sort_unstable_by_key(|(id, _)| *id);
        }
        let mut bytes = 0;
        let mut taken = found.into_iter().take_while(|(_, row)| {
            let goes_on = bytes < bytes_max;
            bytes += row.body.len();
            goes_on
        });
        if self.fault == Fault::AfterSkipsOne {
            taken.next();
        }
        Ok(taken.take(messages_max).collect())
    }

    async fn high_water_mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        Ok(self.state.lock().marks.get(&self.name(subject)).copied())
    }

    async fn expire(&self, now: UnixMicros) -> Result<(), StoreError> {
        let now = if self.fault == Fault::ExpireDropsTooMuch { now.plus_seconds(10) } else { now };
        self.state.lock().rows.retain(|_, row| now < row.expiration.expires_at(row.published_at));
        Ok(())
    }
}

struct Memory(Fault);

struct MemoryPlace {
    fault: Fault,
    state: Arc<Mutex<State>>,
}

#[async_trait]
impl Harness for Memory {
    async fn create(&self) -> Result<Box<dyn Place>, String> {
        Ok(Box::new(MemoryPlace { fault: self.0, state: Arc::default() }))
    }
}

#[async_trait]
impl Place for MemoryPlace {
    async fn open(&self, log_id: u128) -> Result<Box<dyn Store>, String> {
        let mut state = self.state.lock();
        let owner = *state.log_id.get_or_insert(log_id);
        if owner != log_id && self.fault != Fault::AnyLog {
            return Err(format!("belongs to {owner:x}, not {log_id:x}"));
        }
        Ok(Box::new(MemoryStore { fault: self.fault, state: Arc::clone(&self.state) }))
    }
}

#[tokio::test]
async fn passes_a_store_that_keeps_the_contract() {
    assert_eq!(failures(&Memory(Fault::None)).await, []);
}

#[tokio::test]
async fn fails_each_broken_store_by_the_check_that_is_about_it() {
    for (fault, check) in [
        (Fault::ForgetsRows, "remembers_when_opened_again"),
        (Fault::PositionFirst, "refuses_without_a_trace"),
        (Fault::KeepsExpired, "finds_until_it_expires"),
        (Fault::ExpiresAMicrosecondEarly, "finds_until_it_expires"),
        (Fault::LossyBodies, "keeps_bodies_byte_for_byte"),
        (Fault::FoldsCase, "tells_odd_subjects_apart"),
        (Fault::IgnoresThePosition, "applies_in_order_and_once"),
        (Fault::AnyLog, "refuses_another_log"),
        (Fault::ExpireDropsTooMuch, "frees_what_expired_and_keeps_the_rest"),
        (Fault::MarksOnlyOfRows, "keeps_high_water_marks"),
        (Fault::NeverRewrites, "writes_rows_again"),
        (Fault::RewriteMovesThePosition, "writes_rows_again"),
        (Fault::AfterInAnyOrder, "reads_a_subject_in_the_order_of_its_ids"),
        (Fault::AfterSkipsOne, "reads_a_subject_in_the_order_of_its_ids"),
    ] {
        let failures = failures(&Memory(fault)).await;
        assert!(failures.iter().any(|failure| failure.check == check), "{fault:?} got through: {failures:?}");
    }
}
