//! The embedded store: a fjall database in a directory of its own.
//!
//! One write batch holds the rows, the high-water marks and the position of a [`StoreBatch`], and is
//! committed with one fdatasync of fjall's journal. Rows lie in time buckets ([`super::bucket`]), one keyspace
//! each, dropped as a whole once everything in them has expired.
//!
//! fjall is synchronous: a commit takes milliseconds and a cold read may wait for the disk. So every call
//! runs on tokio's blocking threads, writes one at a time, reads at most [`READS_MAX`] at once.
//!
//! Owns everything below its directory, and the directory's format ([`codec`]).
//!
//! Must never block an async worker, or judge expiry by anything but the row's own times.

mod codec;
mod config;
mod engine;
mod errors;
mod open;
mod space;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore};

use self::engine::{Engine, Writer};
use super::{ApplyError, Row, Store, StoreBatch, StoreError, StoredMessage};
use crate::event::{MessageId, Projected, Subject, UnixMicros};
use crate::telemetry::traces::Current;

pub use config::Config;
pub use open::OpenStoreError;

/// The kind's name as in `store.kind`.
const KIND: &str = "embedded";

/// Most reads that run at once. A read costs some 20 us of CPU, so this many keep any disk busy, while the
/// blocking threads of the process stay few.
const READS_MAX: usize = 16;

/// A history store in a local directory.
#[derive(Debug)]
pub struct EmbeddedStore {
    engine: Arc<Engine>,
    /// Held over a whole write, by the thread that does it: a caller that goes away does not let the next one in.
    writer: Arc<Mutex<Writer>>,
    reads: Arc<Semaphore>,
}

impl EmbeddedStore {
    /// Opens the store of the log `log_id` at `path`, or makes it there. Blocks: after a crash, until fjall
    /// has read its journals (at most some 200 MiB).
    ///
    /// # Errors
    /// [`OpenStoreError`] names the directory, the reason and the way out.
    pub fn open(path: &Path, log_id: u128, config: &Config) -> Result<Self, OpenStoreError> {
        let (engine, writer) = open::open(path, log_id, config)?;
        Ok(Self {
            engine: Arc::new(engine),
            writer: Arc::new(Mutex::new(writer)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        })
    }

    /// Runs `work` with the writer, alone. The work goes on if the caller goes away.
    async fn write<T, E>(
        &self,
        work: impl FnOnce(&Engine, &mut Writer) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let engine = Arc::clone(&self.engine);
        flatten(tokio::task::spawn_blocking(move || work(&engine, &mut writer)).await)
    }

    /// Runs `work` beside other reads.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await;
        let engine = Arc::clone(&self.engine);
        let work = move || {
            let _until_read = permit;
            work(&engine)
        };
        flatten(tokio::task::spawn_blocking(Current::here().on_thread(work)).await)
    }
}

/// A blocking task ends without a result only if it panicked or the runtime is shutting down.
fn flatten<T, E: From<StoreError>>(joined: Result<Result<T, E>, tokio::task::JoinError>) -> Result<T, E> {
    joined.unwrap_or_else(|error| Err(StoreError::Failed { store: KIND, reason: error.to_string() }.into()))
}

#[async_trait]
impl Store for EmbeddedStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn projected(&self) -> Result<Projected, StoreError> {
        Ok(self.writer.lock().await.projected())
    }

    async fn apply(&self, batch: &Arc<StoreBatch>) -> Result<(), ApplyError> {
        let batch = Arc::clone(batch);
        self.write(move |engine, writer| engine.apply(writer, &batch)).await
    }

    async fn rewrite(&self, rows: &Arc<Vec<Row>>) -> Result<(), ApplyError> {
        let rows = Arc::clone(rows);
        self.write(move |engine, writer| engine.rewrite(writer, &rows).map_err(ApplyError::from)).await
    }

    async fn fetch(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        let key = codec::row_key(subject, id);
        self.read(move |engine| engine.fetch(&key, now)).await
    }

    fn fetch_here(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Option<Result<Option<StoredMessage>, StoreError>> {
        Some(self.engine.fetch(&codec::row_key(subject, id), now))
    }

    async fn after(
        &self,
        subject: &Subject,
        after: u32,
        messages_max: usize,
        bytes_max: usize,
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        let Some(first) = MessageId::new(after.saturating_add(1)) else { return Ok(Vec::new()) };
        let first = codec::row_key(subject, first);
        let last = codec::row_key(subject, MessageId::MAX);
        self.read(move |engine| engine.after(first..=last, messages_max, bytes_max, now)).await
    }

    async fn high_water_mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        let key = codec::mark_key(subject);
        self.read(move |engine| engine.high_water_mark(&key)).await
    }

    async fn expire(&self, now: UnixMicros) -> Result<(), StoreError> {
        self.write(move |engine, writer| engine.expire(writer, now)).await
    }
}

#[cfg(test)]
mod tests;
