//! The one row of `walcast.projection`: how far the history is, and which connection of which process may move it.
//!
//! A process takes the row with the epoch of its start and a random name; each of its connections takes it again with a
//! number of its own. A batch applies only while all of that is as its connection left it. So an older start, a second
//! broker on a copy of the data directory, and even a statement of this process that was sent over an earlier connection
//! and hangs in the network, change nothing any more.
//!
//! A row that says what this process said earlier, or an earlier start, is a database that went back: to a copy that lagged,
//! or to a backup. Then the next connection takes it again, and the position tells how far back it went.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use tracing::warn;

use super::errors;
use crate::event::{Projected, Sequence};
use crate::projector::{ApplyError, StoreBatch, StoreError};

/// Who writes: what a process has of its own for as long as it runs.
#[derive(Debug)]
pub(super) struct Identity {
    /// The log, 32 hexadecimal digits.
    pub(super) log_id: String,
    /// Which start of the log this is.
    pub(super) epoch: i64,
    /// A random name of the process.
    pub(super) holder: String,
}

/// The row as it was found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    log_id: String,
    epoch: i64,
    holder: String,
    connection: i64,
    projected: i64,
}

const TAKE: &str = "
    INSERT INTO walcast.projection AS held (log_id, epoch, holder, connection, projected)
    VALUES ($1, $2, $3, $4, 0)
    ON CONFLICT (only_row) DO UPDATE SET
        epoch = excluded.epoch, holder = excluded.holder, connection = excluded.connection, taken_at = now()
    WHERE held.log_id = excluded.log_id
      AND (held.epoch < excluded.epoch OR (held.epoch = excluded.epoch AND
           CASE WHEN held.holder = excluded.holder THEN held.connection < excluded.connection ELSE $5 END))
    RETURNING projected";

const LOOK: &str = "SELECT log_id, epoch, holder, connection, projected FROM walcast.projection";

impl Identity {
    /// Takes the row for the connection with this number. The first time of a process it may be another's of the same epoch.
    /// A take that comes late, after that of a later connection, changes nothing.
    pub(super) async fn take(&self, client: &Client, connection: i64, first: bool) -> Result<(), StoreError> {
        if first {
            self.warn_of_a_copy(client).await?;
        }
        let values = [
            (&self.log_id as _, Type::TEXT),
            (&self.epoch as _, Type::INT8),
            (&self.holder as _, Type::TEXT),
            (&connection as _, Type::INT8),
            (&first as _, Type::BOOL),
        ];
        let taken = client.query_typed_opt(TAKE, &values).await.map_err(|error| errors::store(&error))?;
        if taken.is_some() {
            return Ok(());
        }
        let found = look(client).await?;
        Err(self.not_ours(&found).unwrap_or_else(|| errors::unavailable("its position changed while it was taken")))
    }

    /// Every start has a number of its own: whoever had the store with this one was started on a copy of the data directory, and
    /// what it wrote is not in this log.
    async fn warn_of_a_copy(&self, client: &Client) -> Result<(), StoreError> {
        let Some(found) = find(client).await? else { return Ok(()) };
        if found.log_id == self.log_id && found.epoch == self.epoch && found.holder != self.holder {
            warn!(
                epoch = found.epoch,
                projected = found.projected,
                "another process has had the store with the same start of this log, as a copy of the data directory would; \
                 `walcast store check` finds what it wrote"
            );
        }
        Ok(())
    }

    /// The position, whoever has the row; None if nobody has ever taken it.
    pub(super) async fn seen(&self, client: &Client) -> Result<Option<Projected>, StoreError> {
        let Some(found) = find(client).await? else { return Ok(None) };
        match self.another_log(&found) {
            Some(error) => Err(error),
            None => position(found.projected).map(Some),
        }
    }

    /// The position, as long as the row is this connection's. Waits for what was sent over the connection before.
    pub(super) async fn projected(&self, client: &Client, connection: i64) -> Result<Projected, StoreError> {
        let found = look(client).await?;
        match self.lost(&found, connection) {
            Some(error) => Err(error),
            None => position(found.projected),
        }
    }

    /// Why a batch did not move the position.
    pub(super) async fn why(&self, client: &Client, connection: i64, batch: &StoreBatch) -> ApplyError {
        let found = match look(client).await {
            Ok(found) => found,
            Err(error) => return error.into(),
        };
        if let Some(error) = self.lost(&found, connection) {
            return error.into();
        }
        match position(found.projected) {
            Ok(found) if found != batch.previous => ApplyError::WrongPosition { found, expected: batch.previous },
            Ok(_) => errors::unavailable("its position changed while a batch was applied").into(),
            Err(error) => error.into(),
        }
    }

    fn lost(&self, found: &Found, connection: i64) -> Option<StoreError> {
        self.not_ours(found).or_else(|| {
            let ours = found.epoch == self.epoch && found.connection == connection;
            (!ours).then(|| errors::unavailable("it is not this connection's any more, as if the database went back"))
        })
    }

    fn another_log(&self, found: &Found) -> Option<StoreError> {
        let log_id = &self.log_id;
        (found.log_id != *log_id).then(|| {
            errors::inconsistent(format!(
                "it is the history of the log {}, this is the log {log_id}; point store.postgres.url at another database, or \
                 drop the schema walcast to have the log projected anew",
                found.log_id
            ))
        })
    }

    fn not_ours(&self, found: &Found) -> Option<StoreError> {
        let Self { log_id, epoch, holder } = self;
        if let Some(error) = self.another_log(found) {
            return Some(error);
        }
        if found.epoch > *epoch {
            return Some(errors::fenced(format!(
                "start {} of the log {log_id} has it, this is start {epoch}; stop the one that is not wanted",
                found.epoch
            )));
        }
        (found.epoch == *epoch && found.holder != *holder).then(|| {
            errors::fenced(format!(
                "another process with start {} of the log {log_id} has it, as a copy of the data directory would; stop one",
                found.epoch
            ))
        })
    }
}

/// A sequence as the database has it. A log would take centuries to get there, but the type allows it.
pub(super) fn to_database(projected: Projected) -> Result<i64, StoreError> {
    i64::try_from(projected.sequence().get())
        .map_err(|_| errors::inconsistent(format!("sequence {projected} is beyond a bigint")))
}

fn position(projected: i64) -> Result<Projected, StoreError> {
    let sequence = u64::try_from(projected);
    sequence
        .map(|sequence| Projected(Sequence::new(sequence)))
        .map_err(|_| errors::inconsistent(format!("its position is {projected}; restore walcast.projection")))
}

async fn look(client: &Client) -> Result<Found, StoreError> {
    find(client).await?.ok_or_else(|| {
        errors::inconsistent(
            "walcast.projection has lost its row; restore it, or drop the schema walcast and start again",
        )
    })
}

async fn find(client: &Client) -> Result<Option<Found>, StoreError> {
    let row = client.query_typed_opt(LOOK, &[]).await.map_err(|error| errors::store(&error))?;
    row.map(|row| found(&row)).transpose().map_err(|error| errors::store(&error))
}

fn found(row: &Row) -> Result<Found, tokio_postgres::Error> {
    Ok(Found {
        log_id: row.try_get(0)?,
        epoch: row.try_get(1)?,
        holder: row.try_get(2)?,
        connection: row.try_get(3)?,
        projected: row.try_get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { log_id: "0a".into(), epoch: 3, holder: "me".into() }
    }

    fn found(log_id: &str, epoch: i64, holder: &str, connection: i64) -> Found {
        Found { log_id: log_id.into(), epoch, holder: holder.into(), connection, projected: 7 }
    }

    #[test]
    fn tells_whose_the_row_is() {
        let identity = identity();
        assert!(identity.lost(&found("0a", 3, "me", 5), 5).is_none());
        let other = identity.lost(&found("0b", 3, "me", 5), 5).expect("another log");
        assert!(
            matches!(&other, StoreError::Inconsistent { reason, .. } if reason.contains("0a") && reason.contains("0b"))
        );
        for other in [found("0a", 4, "you", 1), found("0a", 3, "you", 5)] {
            let error = identity.lost(&other, 5).expect("another process");
            assert!(matches!(error, StoreError::Fenced { .. }), "{other:?}: {error}");
        }
        // Another connection of this process, and a row from before it was taken.
        for earlier in [found("0a", 3, "me", 4), found("0a", 2, "you", 9)] {
            let error = identity.lost(&earlier, 5).expect("it went back");
            assert!(error.retryable(), "{error}");
        }
    }
}
