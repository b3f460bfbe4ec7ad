//! The one connection that writes, and what its process knows of the database.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tracing::info;

use super::connection::{Connection, Connector, Value};
use super::cursor::{self, Identity};
use super::partitions::Partitions;
use super::rows::{self, Columns, Lacking, Marks, Move};
use super::values::Timestamp;
use super::{KIND, errors, migrate};
use crate::event::{Projected, Subject, UnixMicros, clock};
use crate::projector::{ApplyError, Membership, Opening, Row, StoreBatch, StoreError};
#[cfg(feature = "fault-controls")]
use crate::wal::crash_points::{self, CrashPoint};

/// How long after a failed attempt dropping what expired does not try to connect by itself: the batches do.
const EXPIRE_PATIENCE: Duration = Duration::from_secs(5);

/// How often a batch is tried when rows are there already, or a partition is not any more. More than twice only where others drop
/// partitions at the same time.
const APPLY_ATTEMPTS: u32 = 3;

/// Writes batches, one after the other.
#[derive(Debug)]
pub(super) struct Writer {
    identity: Identity,
    opening: Opening,
    connector: Connector,
    write_timeout: Duration,
    open: Option<Open>,
    /// Connections so far; each takes the cursor with its number.
    connections: i64,
    /// Whether this process has had the store; where it only looks, whether there is one of its log.
    had_it: bool,
    /// Whether the schema is as this build wants it.
    migrated: bool,
    failed_at: Option<Instant>,
    /// Everything that ended at or before this was dropped, or is about to be: by the broker's clock and by the server's.
    expired_at: UnixMicros,
}

/// A connection that has the cursor.
#[derive(Debug)]
struct Open {
    connection: Connection,
    partitions: Partitions,
}

impl Writer {
    pub(super) const fn new(
        identity: Identity,
        connector: Connector,
        opening: Opening,
        write_timeout: Duration,
    ) -> Self {
        Self {
            identity,
            opening,
            write_timeout,
            connector,
            open: None,
            connections: 0,
            had_it: false,
            migrated: false,
            failed_at: None,
            expired_at: UnixMicros::from_micros(i64::MIN),
        }
    }

    /// Has the tables together with the other nodes of a cluster.
    pub(super) fn expect_no_more_than(&mut self, end: Projected) {
        self.identity.log_ends_at = Some(end);
    }

    pub(super) fn share(&mut self, membership: Membership) {
        self.identity.membership = Some(membership);
    }

    /// Joins anew with another layout: takes the row again, as a new connection does.
    pub(super) async fn follow(&mut self, membership: Membership) -> Result<(), StoreError> {
        self.writes()?;
        let before = self.identity.membership.replace(membership);
        self.open = None;
        let joined = self.contact().await;
        if joined.as_ref().is_err_and(|error| !error.retryable()) {
            self.identity.membership = before;
        }
        joined
    }

    /// Whether this process has had the store.
    pub(super) const fn had_it(&self) -> bool {
        self.had_it
    }

    /// Connects if need be, makes the schema if this process has not seen it yet, and takes the cursor.
    pub(super) async fn contact(&mut self) -> Result<(), StoreError> {
        if self.open.as_ref().is_some_and(|open| !open.connection.client.is_closed()) {
            return Ok(());
        }
        self.open = None;
        let opened = self.open().await;
        self.failed_at = opened.is_err().then(Instant::now);
        self.open = Some(opened?);
        Ok(())
    }

    async fn open(&mut self) -> Result<Open, StoreError> {
        let mut connection = self.connector.connect().await?;
        if !self.migrated {
            migrate::require_utf8(&connection.client).await?;
        }
        if self.opening == Opening::Look {
            return self.look(connection).await;
        }
        if !self.migrated {
            migrate::migrate(&mut connection.client).await?;
            self.migrated = true;
        }
        self.connections += 1;
        let first = !self.had_it;
        self.identity.take(&mut connection.client, self.connections, first, self.write_timeout).await?;
        self.had_it = true;
        let partitions = Partitions::load(&connection.client).await?;
        Ok(Open { connection, partitions })
    }

    /// What a tool does that only looks: it takes nothing, and has it if there is a store of this log.
    async fn look(&mut self, connection: Connection) -> Result<Open, StoreError> {
        if migrate::found(&connection.client).await? {
            // Without a row nobody has taken it yet.
            self.had_it = self.identity.seen(&connection.client).await?.is_some();
        }
        Ok(Open { connection, partitions: Partitions::default() })
    }

    /// Refuses to write where it was opened to look.
    fn writes(&self) -> Result<(), StoreError> {
        if self.opening == Opening::Look {
            return Err(StoreError::Failed { store: KIND, reason: "it was opened only to look".to_owned() });
        }
        Ok(())
    }

    /// Gives up the connection, because something on it took too long.
    pub(super) async fn abandon(&mut self) {
        self.failed_at = Some(Instant::now());
        if let Some(open) = self.open.take() {
            self.connector.abandon(open.connection).await;
        }
    }

    /// Where the store is.
    pub(super) async fn projected(&mut self) -> Result<Projected, StoreError> {
        self.contact().await?;
        let open = self.open.as_ref().ok_or_else(closed)?;
        if self.opening == Opening::Look {
            if !self.had_it {
                return Ok(Projected::default());
            }
            return Ok(self.identity.seen(&open.connection.client).await?.unwrap_or_default());
        }
        let projected = self.identity.projected(&open.connection.client, self.connections).await;
        if let Err(error) = &projected {
            self.let_go_of(error);
        }
        projected
    }

    /// Applies a batch.
    pub(super) async fn apply(&mut self, batch: &StoreBatch) -> Result<(), ApplyError> {
        self.writes()?;
        let mut statement = rows::APPLY;
        for attempts_left in (0..APPLY_ATTEMPTS).rev() {
            match self.try_apply(batch, statement).await? {
                Ok(true) => {
                    if statement == rows::APPLY_AGAIN {
                        info!(projected = %batch.projected, "rows of a batch were there already, as after a replay");
                    }
                    return Ok(());
                }
                Ok(false) => return Err(self.why_not_moved(batch).await),
                Err(error) if attempts_left > 0 && errors::is_duplicate(&error) && statement == rows::APPLY => {
                    statement = rows::APPLY_AGAIN;
                }
                Err(error) if errors::is_without_partition(&error) => {
                    self.partition_is_gone().await?;
                    if attempts_left == 0 {
                        return Err(errors::apply(&error));
                    }
                }
                Err(error) => return Err(errors::apply(&error)),
            }
        }
        Err(errors::unavailable("others drop its partitions again and again").into())
    }

    /// One attempt: whether the position was where it must be, or what the server said.
    async fn try_apply(
        &mut self,
        batch: &StoreBatch,
        statement: &str,
    ) -> Result<Result<bool, tokio_postgres::Error>, ApplyError> {
        let columns = Columns::of(&batch.rows, self.gone()).map_err(|reason| ApplyError::Rejected { reason })?;
        self.contact().await?;
        let Self { identity, open, connections, write_timeout, .. } = self;
        let Open { connection, partitions } = open.as_mut().ok_or_else(closed)?;
        let client = &connection.client;
        let batch_move = Move {
            identity,
            connection: *connections,
            previous: cursor::to_database(batch.previous)?,
            projected: cursor::to_database(batch.projected)?,
            marks: Marks::of(&batch.high_water_marks),
        };
        let values = batch_move.values(&columns);
        partitions.make(client, &columns.ends).await?;
        let applied = in_a_transaction(client, *write_timeout, statement, &values);
        #[cfg(feature = "fault-controls")]
        crash_points::pass(CrashPoint::Write);
        #[cfg(feature = "fault-controls")]
        let applied = crash_points::during(CrashPoint::Commit, applied);
        match applied.await {
            Ok(row) => Ok(Ok(is_held(&row)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn why_not_moved(&mut self, batch: &StoreBatch) -> ApplyError {
        let not_moved = match &self.open {
            Some(open) => self.identity.why(&open.connection.client, self.connections, batch).await,
            None => closed().into(),
        };
        if not_moved.retryable() {
            // The next one takes the row again.
            self.open = None;
        }
        not_moved
    }

    /// A row had no partition to go to: somebody has dropped it, another node perhaps, because it has ended. Then its rows are not
    /// written any more.
    async fn partition_is_gone(&mut self) -> Result<(), StoreError> {
        let Open { connection, partitions } = self.open.as_mut().ok_or_else(closed)?;
        partitions.reload(&connection.client).await?;
        let ended = clock_of(&connection.client).await?;
        self.expired_at = self.expired_at.max(ended);
        Ok(())
    }

    /// Writes rows alone.
    pub(super) async fn rewrite(&mut self, rows: &[Row]) -> Result<(), ApplyError> {
        self.writes()?;
        let columns = Columns::of(rows, self.gone()).map_err(|reason| ApplyError::Rejected { reason })?;
        if columns.is_empty() {
            return Ok(());
        }
        self.contact().await?;
        let Self { identity, open, connections, .. } = self;
        let Open { connection, partitions } = open.as_mut().ok_or_else(closed)?;
        let client = &connection.client;
        partitions.make(client, &columns.ends).await?;
        let mut values = Vec::from(columns.values());
        values.extend(identity.values(connections));
        let written = match client.query_typed_one(rows::REWRITE, &values).await {
            Ok(written) => written,
            Err(error) => {
                if errors::is_without_partition(&error) {
                    self.partition_is_gone().await?;
                }
                return Err(errors::apply(&error));
            }
        };
        if is_held(&written)? {
            return Ok(());
        }
        let not_held = identity.why_not_held(client, *connections).await;
        self.let_go_of(&not_held);
        Err(not_held.into())
    }

    /// Notes of which subjects a live message is missing, until when.
    pub(super) async fn note_lacking(&mut self, subjects: &[(Subject, UnixMicros)]) -> Result<(), StoreError> {
        self.writes()?;
        self.contact().await?;
        let Self { identity, open, connections, .. } = self;
        let Open { connection, .. } = open.as_mut().ok_or_else(closed)?;
        let lacking = Lacking::of(subjects);
        let mut values = Vec::from(lacking.values());
        values.extend(identity.values(connections));
        let noted = connection.client.query_typed_one(rows::NOTE_LACKING, &values).await;
        if is_held(&noted.map_err(|error| errors::store(&error))?)? {
            return Ok(());
        }
        let not_held = identity.why_not_held(&connection.client, *connections).await;
        self.let_go_of(&not_held);
        Err(not_held)
    }

    /// After an error that may pass, the next one takes the row again.
    fn let_go_of(&mut self, error: &StoreError) {
        if error.retryable() {
            self.open = None;
        }
    }

    /// Drops what expired.
    pub(super) async fn expire(&mut self, now: UnixMicros) -> Result<(), StoreError> {
        self.writes()?;
        if self.failed_at.is_some_and(|at| at.elapsed() < EXPIRE_PATIENCE) {
            return Ok(());
        }
        self.contact().await?;
        let Open { connection, partitions } = self.open.as_mut().ok_or_else(closed)?;
        // Dropping cannot be undone: a clock of the broker's that is ahead for a moment must not take what is live.
        let both = now.min(clock_of(&connection.client).await?);
        self.expired_at = self.expired_at.max(both);
        partitions.expire(&connection.client, both).await
    }

    /// When the partitions ended that are not made again, because they were dropped. Not in the future, should the clock have
    /// gone back since.
    fn gone(&self) -> UnixMicros {
        self.expired_at.min(clock::now())
    }
}

/// Whether a statement found that the row of the log is this connection's.
fn is_held(row: &tokio_postgres::Row) -> Result<bool, StoreError> {
    let held: i64 = row.try_get(0).map_err(|error| errors::store(&error))?;
    Ok(held == 1)
}

/// What time it is for the server.
async fn clock_of(client: &Client) -> Result<UnixMicros, StoreError> {
    let now = client.query_typed_one("SELECT clock_timestamp()", &[]).await.map_err(|error| errors::store(&error))?;
    let Timestamp(now) = now.try_get(0).map_err(|error| errors::store(&error))?;
    Ok(now)
}

/// Runs the statement of a batch with a plan that does not depend on its values, which the planner would copy several times
/// otherwise: 6 ms for 4 MiB. All three go out together, so this is one round trip; where the statement fails, so does what it
/// would have committed.
///
/// Should the way be cut silently before `COMMIT`, the server ends the transaction after `patience`: it holds the lock of the
/// cursor, for which another start would wait.
async fn in_a_transaction(
    client: &Client,
    patience: Duration,
    statement: &str,
    values: &[Value<'_>],
) -> Result<tokio_postgres::Row, tokio_postgres::Error> {
    let begin = format!(
        "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL idle_in_transaction_session_timeout = {}",
        patience.as_millis().clamp(1, i32::MAX as u128)
    );
    let (begun, applied, committed) = futures_util::join!(
        client.batch_execute(&begin),
        client.query_typed_one(statement, values),
        client.batch_execute("COMMIT"),
    );
    begun?;
    let row = applied?;
    committed?;
    Ok(row)
}

/// [`Writer::contact`] leaves a connection or an error.
fn closed() -> StoreError {
    errors::unavailable("its connection is closed")
}
