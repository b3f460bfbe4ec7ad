//! The store in Apache Cassandra or ScyllaDB, through the CQL protocol.
//!
//! There are no transactions, so the order of writes does their work: the rows of a batch, then its high-water marks, then the
//! position, each confirmed before the next begins. Rows and marks are the same however often they are written, and the
//! position is moved by a lightweight transaction that also tells who may move it ([`cursor`]). So a batch that was cut off
//! anywhere is simply applied again.
//!
//! A row is a message for its own times only: the database's TTL removes it an hour later at the earliest ([`codec`]).
//!
//! Owns the keyspace's three tables ([`schema`]). Must never call a message expired because a node did not have it, so weaker
//! consistency than a quorum is not offered; and never log a password.

mod codec;
mod config;
mod cursor;
mod errors;
mod joining;
mod pace;
mod read;
mod schema;
mod session;
mod tls;
mod write;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use self::cursor::{Claims, Moved, Owner};
use self::pace::Pace;
use self::session::Database;
use super::{ApplyError, Foreign, Membership, Opening, Row, Store, StoreBatch, StoreError, StoredMessage};
use crate::event::{MessageId, Projected, Subject, UnixMicros};
#[cfg(feature = "fault-controls")]
use crate::wal::crash_points::{self, CrashPoint};

pub use config::{Config, ConfigError, Consistency};
pub use schema::schema_statements;

/// The kind's name as in `store.kind`.
const KIND: &str = "cassandra";

/// How long a failure to connect answers for others: what comes in the meantime does not wait for one attempt each.
const FAILURE_LASTS: Duration = Duration::from_secs(1);

/// A history store in a cluster.
#[derive(Debug)]
pub struct CassandraStore {
    config: Config,
    owner: Owner,
    /// The cluster whose nodes share the keyspace, as it was at the start; None for a broker that is alone.
    membership: Option<Membership>,
    opening: Opening,
    /// None inside if nothing is there that could be looked at.
    database: OnceLock<Option<Database>>,
    /// Held while connecting.
    contact: Mutex<Option<Failure>>,
    /// Held over a whole batch.
    writer: Mutex<Writer>,
    /// Whether the store was taken once, or looked at, so that what it holds is known to be this log's.
    taken: OnceLock<()>,
    pace: Pace,
    /// Held by each read until its answer is handed over.
    reads: Semaphore,
}

/// The last failure to make contact.
#[derive(Debug)]
struct Failure {
    at: Instant,
    reason: String,
}

/// What only the one writer needs.
#[derive(Debug, Default)]
struct Writer {
    claims: Claims,
    /// The cluster as it is now.
    membership: Option<Membership>,
    /// None when it is in doubt: at first, and after a move whose outcome was not told.
    position: Option<Projected>,
}

impl CassandraStore {
    /// The store of the log `log_id`, for the start `epoch` of it. Connects when it is first used. One that is opened to
    /// [`Opening::Look`] makes no table, changes none and claims nothing: its position and rows are those of whoever writes, and
    /// where nothing was ever made it is empty.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting that breaks a rule.
    pub fn new(config: Config, log_id: u128, epoch: u64, opening: Opening) -> Result<Self, ConfigError> {
        config.check()?;
        if let Some(file) = &config.tls_ca_file {
            tls::client_config(file)?;
        }
        Ok(Self {
            pace: Pace::new(config.in_flight),
            reads: Semaphore::new(config.reads_at_once()),
            config,
            owner: Owner { log_id, epoch, shared: false, log_ends_at: None },
            membership: None,
            opening,
            database: OnceLock::new(),
            contact: Mutex::default(),
            writer: Mutex::default(),
            taken: OnceLock::new(),
        })
    }

    /// The same for a node of a cluster, whose nodes share the keyspace. Without it the keyspace is one log's.
    #[must_use]
    pub fn shared_by(mut self, membership: Membership) -> Self {
        self.owner.shared = true;
        self.writer.get_mut().membership = Some(membership.clone());
        self.membership = Some(membership);
        self
    }

    /// The same for a log that ends here: where the store is further it is not taken, because somebody else has written what is
    /// beyond, from the directory that this one is an older copy of.
    #[must_use]
    pub fn of_a_log_up_to(mut self, end: Projected) -> Self {
        self.owner.log_ends_at = Some(end);
        self
    }

    /// The cluster, with the store taken or known to be this log's; None if there is nothing to look at.
    async fn ready(&self) -> Result<Option<&Database>, StoreError> {
        let database = self.database().await?;
        if let (Some(database), None) = (database, self.taken.get()) {
            self.find_position(database, &mut *self.writer.lock().await).await?;
        }
        Ok(database)
    }

    /// The cluster, to write to.
    async fn writable(&self) -> Result<&Database, StoreError> {
        match self.opening {
            Opening::Take => self.database().await?.ok_or_else(only_looking),
            Opening::Look => Err(only_looking()),
        }
    }

    /// The cluster. One attempt to connect at a time; who comes while one is being made shares its failure.
    async fn database(&self) -> Result<Option<&Database>, StoreError> {
        if let Some(database) = self.database.get() {
            return Ok(database.as_ref());
        }
        let mut failed = self.contact.lock().await;
        if let Some(database) = self.database.get() {
            return Ok(database.as_ref());
        }
        if let Some(failure) = failed.as_ref().filter(|failure| failure.at.elapsed() < FAILURE_LASTS) {
            return Err(errors::unavailable(failure.reason.clone()));
        }
        let opened = match self.opening {
            Opening::Take => Database::take(&self.config, self.membership.as_ref()).await.map(Some),
            Opening::Look => Database::look(&self.config, self.owner.shared).await,
        };
        match opened {
            Ok(database) => Ok(self.database.get_or_init(|| database).as_ref()),
            Err(error) => {
                let reason = match &error {
                    StoreError::Unavailable { reason, .. } | StoreError::Refused { reason, .. } => reason.clone(),
                    other => other.to_string(),
                };
                *failed = Some(Failure { at: Instant::now(), reason });
                Err(error)
            }
        }
    }

    /// The position: that of this process, or, for one that looks, that of whoever writes.
    async fn find_position(&self, database: &Database, writer: &mut Writer) -> Result<Projected, StoreError> {
        if self.opening == Opening::Take {
            return self.position(database, writer).await;
        }
        let alone = match &self.membership {
            Some(membership) => database.may_join(self.owner, membership).await?,
            None => None,
        };
        let position = match alone {
            Some(position) => position,
            None => database.look_at_position(self.owner).await?,
        };
        self.taken.get_or_init(|| ());
        Ok(position)
    }

    /// The position, found out by taking the store (again) if it is in doubt.
    async fn position(&self, database: &Database, writer: &mut Writer) -> Result<Projected, StoreError> {
        if let Some(position) = writer.position {
            return Ok(position);
        }
        if let Some(membership) = &writer.membership
            && !writer.claims.were_confirmed()
        {
            database.join(self.owner, membership, &mut writer.claims).await?;
        }
        let position = database.claim(self.owner, &mut writer.claims).await?;
        self.taken.get_or_init(|| ());
        Ok(*writer.position.insert(position))
    }

    /// Makes sure that the store is this process's, before something is written that moves no position.
    async fn hold(&self, database: &Database, writer: &mut Writer) -> Result<(), StoreError> {
        self.position(database, writer).await?;
        if !database.is_held(self.owner, &writer.claims).await? {
            writer.position = None;
            self.position(database, writer).await?;
        }
        Ok(())
    }

    /// Whether the store is where a batch begins.
    async fn expect(&self, database: &Database, writer: &mut Writer, expected: Projected) -> Result<(), ApplyError> {
        let found = self.position(database, writer).await?;
        if found == expected { Ok(()) } else { Err(ApplyError::WrongPosition { found, expected }) }
    }

    async fn may_read(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        self.reads.acquire().await.map_err(|error| errors::unavailable(error.to_string()))
    }
}

fn only_looking() -> StoreError {
    let reason = "it was opened to look at it, not to write to it".to_owned();
    StoreError::Failed { store: KIND, reason }
}

/// A refusal after the start is something that somebody may be changing.
fn later(error: StoreError) -> StoreError {
    match error {
        StoreError::Refused { reason, .. } => errors::unavailable(reason),
        other => other,
    }
}

#[async_trait]
impl Store for CassandraStore {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn database(&self) -> Option<String> {
        let mut nodes = self.config.nodes.clone();
        nodes.sort_unstable();
        self.owner.shared.then(|| format!("{} at {}", self.config.keyspace, nodes.join(",")))
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.ready().await.map(drop)
    }

    /// The position is known without asking.
    async fn ask(&self) -> Result<(), StoreError> {
        let Some(database) = self.database().await.map_err(later)? else { return Ok(()) };
        database.look_at_position(self.owner).await.map(drop)
    }

    async fn projected(&self) -> Result<Projected, StoreError> {
        let Some(database) = self.database().await.map_err(later)? else { return Ok(Projected::default()) };
        let mut writer = self.writer.lock().await;
        self.find_position(database, &mut writer).await
    }

    async fn apply(&self, batch: &Arc<StoreBatch>) -> Result<(), ApplyError> {
        let database = self.writable().await.map_err(later)?;
        let mut writer = self.writer.lock().await;
        let (previous, projected) = (batch.previous, batch.projected);
        self.expect(database, &mut writer, previous).await?;
        if !database.is_held(self.owner, &writer.claims).await? {
            writer.position = None;
            self.expect(database, &mut writer, previous).await?;
        }
        let written = database.write_messages(&batch.rows, &self.config, &self.pace);
        #[cfg(feature = "fault-controls")]
        let written = crash_points::during(CrashPoint::Write, written);
        written.await?;
        #[cfg(feature = "fault-controls")]
        crash_points::pass(CrashPoint::Rows);
        database.write_marks(&batch.high_water_marks, projected, &self.pace).await?;
        #[cfg(feature = "fault-controls")]
        crash_points::pass(CrashPoint::Marks);
        // From here on until the answer, and for ever if this future is dropped, the move may happen or not.
        writer.position = None;
        let moved = database.advance(self.owner, &writer.claims, previous, projected);
        #[cfg(feature = "fault-controls")]
        let moved = crash_points::during(CrashPoint::Commit, moved);
        match moved.await? {
            Moved::Done => {
                writer.position = Some(projected);
                Ok(())
            }
            Moved::Not => {
                self.expect(database, &mut writer, previous).await?;
                // The row has an earlier claim, and where it says so nothing is missing.
                Err(errors::unavailable("its cursor went back to an earlier claim while a batch was written").into())
            }
        }
    }

    async fn rewrite(&self, rows: &Arc<Vec<Row>>) -> Result<(), ApplyError> {
        let database = self.writable().await.map_err(later)?;
        let mut writer = self.writer.lock().await;
        self.hold(database, &mut writer).await?;
        database.write_messages(rows, &self.config, &self.pace).await
    }

    async fn fetch(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        let _bounded = self.may_read().await?;
        match self.ready().await.map_err(later)? {
            Some(database) => database.message(subject, id, now).await,
            None => Ok(None),
        }
    }

    async fn after(
        &self,
        subject: &Subject,
        after: u32,
        messages_max: usize,
        bytes_max: usize,
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        let _bounded = self.may_read().await?;
        match self.ready().await.map_err(later)? {
            Some(database) => database.messages_after(subject, after, (messages_max, bytes_max), now).await,
            None => Ok(Vec::new()),
        }
    }

    async fn high_water_mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        let _bounded = self.may_read().await?;
        match self.ready().await.map_err(later)? {
            Some(database) => database.mark(subject).await,
            None => Ok(None),
        }
    }

    async fn fetch_foreign(&self, subject: &Subject, id: MessageId, now: UnixMicros) -> Result<Foreign, StoreError> {
        let _bounded = self.may_read().await?;
        match self.ready().await.map_err(later)? {
            Some(database) => database.foreign(subject, id, now).await,
            None => Ok(Foreign::Unknown),
        }
    }

    async fn note_lacking(&self, subjects: &[(Subject, UnixMicros)]) -> Result<(), StoreError> {
        if !self.owner.shared || subjects.is_empty() {
            return Ok(());
        }
        let database = self.writable().await.map_err(later)?;
        let mut writer = self.writer.lock().await;
        self.hold(database, &mut writer).await?;
        database.note_lacking(subjects, &self.pace).await
    }

    async fn follow_layout(&self, membership: Membership) -> Result<(), StoreError> {
        if !self.owner.shared {
            return Ok(());
        }
        let database = self.writable().await.map_err(later)?;
        let mut writer = self.writer.lock().await;
        self.hold(database, &mut writer).await?;
        database.join(self.owner, &membership, &mut writer.claims).await?;
        writer.membership = Some(membership);
        Ok(())
    }

    /// Nothing to do: the database's TTL gives space back.
    async fn expire(&self, _now: UnixMicros) -> Result<(), StoreError> {
        Ok(())
    }
}
