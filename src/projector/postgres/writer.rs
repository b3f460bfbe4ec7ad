//! The one connection that writes, and what its process knows of the database.

use std::time::{Duration, Instant};

use tracing::info;

use super::connection::{Connection, Connector};
use super::cursor::{self, Identity};
use super::partitions::Partitions;
use super::rows::{self, Columns, Marks, Move};
use super::{errors, migrate};
use crate::event::{Projected, UnixMicros};
use crate::projector::{ApplyError, Row, StoreBatch, StoreError};

/// How long after a failed attempt dropping what expired does not try to connect by itself: the batches do.
const EXPIRE_PATIENCE: Duration = Duration::from_secs(5);

/// Writes batches, one after the other.
#[derive(Debug)]
pub(super) struct Writer {
    identity: Identity,
    connector: Connector,
    open: Option<Open>,
    /// Connections so far; each takes the cursor with its number.
    connections: i64,
    /// Whether this process has had the store.
    had_it: bool,
    /// Whether the schema is as this build wants it.
    migrated: bool,
    failed_at: Option<Instant>,
    /// Everything that ended at or before this was dropped, or is about to be.
    expired_at: UnixMicros,
}

/// A connection that has the cursor.
#[derive(Debug)]
struct Open {
    connection: Connection,
    partitions: Partitions,
}

impl Writer {
    pub(super) const fn new(identity: Identity, connector: Connector) -> Self {
        Self {
            identity,
            connector,
            open: None,
            connections: 0,
            had_it: false,
            migrated: false,
            failed_at: None,
            expired_at: UnixMicros::from_micros(i64::MIN),
        }
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
            migrate::migrate(&mut connection.client).await?;
            self.migrated = true;
        }
        self.connections += 1;
        self.identity.take(&connection.client, self.connections, !self.had_it).await?;
        self.had_it = true;
        let partitions = Partitions::load(&connection.client).await?;
        Ok(Open { connection, partitions })
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
        self.identity.projected(&open.connection.client, self.connections).await
    }

    /// Applies a batch.
    pub(super) async fn apply(&mut self, batch: &StoreBatch) -> Result<(), ApplyError> {
        let columns = Columns::of(&batch.rows, self.expired_at).map_err(|reason| ApplyError::Rejected { reason })?;
        self.contact().await?;
        let Self { identity, open, connections, .. } = self;
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
        let mut statement = rows::APPLY;
        let mut attempts_left = 3;
        loop {
            partitions.make(client, &columns.ends).await?;
            attempts_left -= 1;
            match client.query_typed_one(statement, &values).await {
                Ok(row) => {
                    let moved: i64 = row.try_get(0).map_err(|error| errors::store(&error))?;
                    if moved == 1 {
                        if statement == rows::APPLY_AGAIN {
                            info!(projected = %batch.projected, "rows of a batch were there already, as after a replay");
                        }
                        return Ok(());
                    }
                    return Err(identity.why(client, *connections, batch).await);
                }
                Err(error) if attempts_left > 0 && errors::is_duplicate(&error) && statement == rows::APPLY => {
                    statement = rows::APPLY_AGAIN;
                }
                Err(error) if attempts_left > 0 && errors::is_without_partition(&error) => {
                    partitions.reload(client).await?;
                }
                Err(error) => return Err(errors::apply(&error)),
            }
        }
    }

    /// Writes rows alone.
    pub(super) async fn rewrite(&mut self, rows: &[Row]) -> Result<(), ApplyError> {
        let columns = Columns::of(rows, self.expired_at).map_err(|reason| ApplyError::Rejected { reason })?;
        if columns.is_empty() {
            return Ok(());
        }
        self.contact().await?;
        let Open { connection, partitions } = self.open.as_mut().ok_or_else(closed)?;
        partitions.make(&connection.client, &columns.ends).await?;
        let written = connection.client.query_typed(rows::REWRITE, &columns.values()).await;
        written.map(drop).map_err(|error| errors::apply(&error))
    }

    /// Drops what expired.
    pub(super) async fn expire(&mut self, now: UnixMicros) -> Result<(), StoreError> {
        self.expired_at = self.expired_at.max(now);
        if self.failed_at.is_some_and(|at| at.elapsed() < EXPIRE_PATIENCE) {
            return Ok(());
        }
        self.contact().await?;
        let Open { connection, partitions } = self.open.as_mut().ok_or_else(closed)?;
        partitions.expire(&connection.client, now).await
    }
}

/// [`Writer::contact`] leaves a connection or an error.
fn closed() -> StoreError {
    errors::unavailable("its connection is closed")
}
