//! The Postgres store: rows in the schema `walcast` of a database, for people to query.
//!
//! A batch is one transaction, and in it one statement with its rows, marks and position ([`rows`]); who may move the position is
//! decided there, too ([`cursor`]). Rows lie in partitions by when they expire, which are dropped whole ([`partitions`]). One
//! connection writes, a bounded pool reads, ahead of those who read a subject page by page ([`pages`]). Nothing depends on a
//! connection's state between two transactions, so PgBouncer in transaction mode is as good as the server itself.
//!
//! Owns the schema `walcast` and its versions ([`migrate`]).
//!
//! Must never wait without a bound, show a password, or put a value into the text of a statement.

mod config;
mod connection;
mod cursor;
mod errors;
mod migrate;
mod pages;
mod partitions;
mod reads;
mod rows;
mod tls;
mod values;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::types::Type;

use self::connection::{Connector, Readers, Value};
use self::cursor::Identity;
use self::pages::{Ask, Pages};
use self::values::Timestamp;
use self::writer::Writer;
use super::{ApplyError, Foreign, Membership, Opening, Row, Store, StoreBatch, StoreError, StoredMessage};
use crate::event::{MessageId, Projected, Subject, UnixMicros};

pub use config::{Config, PostgresConfigError};
pub use migrate::schema_statements;

/// The kind's name as in `store.kind`.
const KIND: &str = "postgres";

/// Bytes of a process's random name.
const HOLDER_BYTES: usize = 8;

/// A history store in a Postgres database.
#[derive(Debug)]
pub struct PostgresStore {
    /// Held over a whole write. A write that is given up leaves its statement on the connection, where the next one
    /// comes behind it.
    writer: Mutex<Writer>,
    readers: Arc<Readers>,
    pages: Pages,
    /// Whether the cursor was taken once: before, the rows could be another log's.
    taken: AtomicBool,
    /// Whether the nodes of a cluster have the tables together.
    shared: bool,
    write_timeout: Duration,
}

impl PostgresStore {
    /// The store of start `epoch` of the log `log_id`, to write to it or only to look. Reads the password and the certificates,
    /// and connects to nothing: that is [`Store::prepare`]'s.
    ///
    /// # Errors
    /// [`PostgresConfigError`] if a setting or a file that it names does not read.
    pub fn new(config: &Config, log_id: u128, epoch: u64, opening: Opening) -> Result<Self, PostgresConfigError> {
        let connector = Connector::new(config)?;
        let identity = Identity {
            log_id: format!("{log_id:032x}"),
            epoch: i64::try_from(epoch).unwrap_or(i64::MAX),
            holder: random_name(),
            membership: None,
            log_ends_at: None,
        };
        let readers = Arc::new(Readers::new(connector.clone(), config));
        Ok(Self {
            writer: Mutex::new(Writer::new(identity, connector, opening, config.write_timeout)),
            pages: Pages::new(Arc::clone(&readers)),
            readers,
            taken: AtomicBool::new(false),
            shared: false,
            write_timeout: config.write_timeout,
        })
    }

    /// The same for a node of a cluster, whose nodes have the tables together. Without it they are one log's.
    #[must_use]
    pub fn shared_by(mut self, membership: Membership) -> Self {
        self.writer.get_mut().share(membership);
        self.shared = true;
        self
    }

    /// The same for a log that ends here: where the store is further it is not taken, because somebody else has written what is
    /// beyond, from the directory that this one is an older copy of.
    #[must_use]
    pub fn of_a_log_up_to(mut self, end: Projected) -> Self {
        self.writer.get_mut().expect_no_more_than(end);
        self
    }

    /// Does `work` with the writer, alone and within the bound.
    async fn write<T, E: From<StoreError>>(
        &self,
        what: &str,
        work: impl for<'a> FnOnce(&'a mut Writer) -> BoxFuture<'a, Result<T, E>>,
    ) -> Result<T, E> {
        let mut writer = self.writer.lock().await;
        let outcome = timeout(self.write_timeout, work(&mut writer)).await;
        if writer.had_it() {
            self.taken.store(true, Ordering::Release);
        }
        if let Ok(outcome) = outcome {
            return outcome;
        }
        writer.abandon().await;
        Err(errors::late(what, self.write_timeout).into())
    }

    /// Refuses to be read before the cursor was taken.
    fn readable(&self) -> Result<(), StoreError> {
        match self.taken.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(errors::unavailable("it has not been reached since the start")),
        }
    }

    /// Asks for rows beside the writer.
    async fn read(&self, question: &str, values: &[Value<'_>]) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        self.readable()?;
        self.readers.ask(question, values).await
    }
}

/// Differs between processes, also between those with copies of a data directory.
fn random_name() -> String {
    let bytes: [u8; HOLDER_BYTES] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Store for PostgresStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn database(&self) -> Option<String> {
        self.shared.then(|| self.readers.database())
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.write("the first contact", |writer| writer.contact().boxed()).await
    }

    async fn projected(&self) -> Result<Projected, StoreError> {
        let projected = self.write("reading the position", |writer| writer.projected().boxed()).await;
        projected.map_err(errors::at_run_time)
    }

    async fn apply(&self, batch: &Arc<StoreBatch>) -> Result<(), ApplyError> {
        let batch = Arc::clone(batch);
        let applied = self.write("a batch", |writer| async move { writer.apply(&batch).await }.boxed()).await;
        applied.map_err(|error| match error {
            ApplyError::Store(error) => ApplyError::Store(errors::at_run_time(error)),
            other => other,
        })
    }

    async fn rewrite(&self, rows: &Arc<Vec<Row>>) -> Result<(), ApplyError> {
        let rows = Arc::clone(rows);
        let written = self.write("writing rows", |writer| async move { writer.rewrite(&rows).await }.boxed()).await;
        self.pages.forget();
        written.map_err(|error| match error {
            ApplyError::Store(error) => ApplyError::Store(errors::at_run_time(error)),
            other => other,
        })
    }

    async fn fetch(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        let values = [
            (&subject.as_str() as _, Type::TEXT),
            (&id.to_wire() as _, Type::INT4),
            (&Timestamp(now) as _, Type::TIMESTAMPTZ),
        ];
        let found = self.read(reads::FETCH, &values).await?;
        found.first().map(reads::message).transpose()
    }

    async fn after(
        &self,
        subject: &Subject,
        after: u32,
        messages_max: usize,
        bytes_max: usize,
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        self.readable()?;
        let Ok(after) = i32::try_from(after) else { return Ok(Vec::new()) };
        self.pages.after(Ask { subject: subject.clone(), after, messages_max, bytes_max }, now).await
    }

    async fn high_water_mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        let found = self.read(reads::MARK, &[(&subject.as_str() as _, Type::TEXT)]).await?;
        found.first().map(|row| reads::id(row, 0)).transpose()
    }

    async fn fetch_foreign(&self, subject: &Subject, id: MessageId, now: UnixMicros) -> Result<Foreign, StoreError> {
        if !self.shared {
            return Ok(Foreign::Unknown);
        }
        let values = [
            (&subject.as_str() as _, Type::TEXT),
            (&id.to_wire() as _, Type::INT4),
            (&Timestamp(now) as _, Type::TIMESTAMPTZ),
        ];
        let found = self.read(reads::FOREIGN, &values).await?;
        found.first().map_or(Ok(Foreign::Unknown), |row| reads::foreign(row, id))
    }

    async fn note_lacking(&self, subjects: &[(Subject, UnixMicros)]) -> Result<(), StoreError> {
        if !self.shared || subjects.is_empty() {
            return Ok(());
        }
        let subjects = subjects.to_vec();
        let noted = self.write("a note", |writer| async move { writer.note_lacking(&subjects).await }.boxed()).await;
        noted.map_err(errors::at_run_time)
    }

    async fn follow_layout(&self, membership: Membership) -> Result<(), StoreError> {
        if !self.shared {
            return Ok(());
        }
        let joined = self.write("joining", |writer| writer.follow(membership).boxed()).await;
        joined.map_err(errors::at_run_time)
    }

    async fn expire(&self, now: UnixMicros) -> Result<(), StoreError> {
        let expired = self.write("dropping what expired", |writer| writer.expire(now).boxed()).await;
        expired.map_err(errors::at_run_time)
    }
}
