//! The row of `walcast.projection` of this log: how far its history is, and which connection of which process may move it.
//!
//! A process takes the row with the epoch of its start and a random name; each of its connections takes it again with a
//! number of its own. A batch applies only while all of that is as its connection left it. So an older start, a second
//! broker on a copy of the data directory, and even a statement of this process that was sent over an earlier connection
//! and hangs in the network, change nothing any more.
//!
//! A row that says what this process said earlier, or an earlier start, is a database that went back: to a copy that lagged,
//! or to a backup. Then the next connection takes it again, and the position tells how far back it went.
//!
//! A broker that is alone has the only row. The nodes of a cluster have one each, and are let in by `walcast.cluster`
//! ([`crate::projector::Membership`]); starts take turns, so that nobody joins between a look and the row that follows from it.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Row};
use tracing::{info, warn};

use super::connection::Value;
use super::{KIND, errors};
use crate::event::{Projected, Sequence};
use crate::projector::members::{self, Members, Membership};
use crate::projector::store::beyond_the_log;
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
    /// The cluster whose nodes share the tables; None for a broker that is alone.
    pub(super) membership: Option<Membership>,
    /// Where the log ended when it was opened, if that is known: a store that is further has another process's messages.
    pub(super) log_ends_at: Option<Projected>,
}

/// The row of this log as it was found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    epoch: i64,
    holder: String,
    connection: i64,
    projected: i64,
}

/// Whose tables they are.
#[derive(Debug)]
struct Tables {
    /// Who shares them; None if they are not a cluster's.
    members: Option<Members>,
    /// A log that has a row and is not this one. Of a cluster's any.
    other: Option<String>,
}

/// "walcasu", one above the lock of migrations: those who take a row take turns, from the look at the others on.
const LOCK: i64 = 0x0077_616C_6361_7375;

const TAKE: &str = "
    INSERT INTO walcast.projection AS held (log_id, epoch, holder, connection, projected, node)
    VALUES ($1, $2, $3, $4, 0, $6)
    ON CONFLICT (log_id) DO UPDATE SET
        epoch = excluded.epoch, holder = excluded.holder, connection = excluded.connection, taken_at = now(), node = excluded.node
    WHERE held.epoch < excluded.epoch OR (held.epoch = excluded.epoch AND
          CASE WHEN held.holder = excluded.holder THEN held.connection < excluded.connection ELSE $5 END)
    RETURNING projected";

const LOOK: &str = "SELECT epoch, holder, connection, projected FROM walcast.projection WHERE log_id = $1";

const LOOK_AROUND: &str = "
    SELECT (SELECT members FROM walcast.cluster), (SELECT min(log_id) FROM walcast.projection WHERE log_id <> $1)";

const JOIN: &str = "
    INSERT INTO walcast.cluster (members) VALUES ($1) ON CONFLICT (only_row) DO UPDATE SET members = excluded.members";

/// Its row would be in the way of the log that has its name now; it has no slots, so its rows are another's.
const FORGET_NAMESAKE: &str = "DELETE FROM walcast.projection WHERE node = $1 AND log_id <> $2";

impl Identity {
    /// What a statement compares with the row: log, epoch, process and connection.
    pub(super) fn values<'a>(&'a self, connection: &'a i64) -> [Value<'a>; 4] {
        [
            (&self.log_id as _, Type::TEXT),
            (&self.epoch as _, Type::INT8),
            (&self.holder as _, Type::TEXT),
            (connection as _, Type::INT8),
        ]
    }

    /// Takes the row for the connection with this number. The first time of a process it may be another's of the same epoch.
    /// A take that comes late, after that of a later connection, changes nothing.
    ///
    /// Should the way be cut in the middle, the server ends the transaction after `patience`: others wait for it.
    pub(super) async fn take(
        &self,
        client: &mut Client,
        connection: i64,
        first: bool,
        patience: Duration,
    ) -> Result<(), StoreError> {
        let failed = |error: tokio_postgres::Error| errors::store(&error);
        // Each statement sees what the one has left whose turn was before.
        let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await;
        let transaction = transaction.map_err(failed)?;
        let within = patience.as_millis().clamp(1, i32::MAX as u128);
        let turn =
            format!("SET LOCAL idle_in_transaction_session_timeout = {within}; SELECT pg_advisory_xact_lock({LOCK})");
        transaction.batch_execute(&turn).await.map_err(failed)?;
        self.join(transaction.client()).await?;
        if first {
            self.compare_with_a_copy(transaction.client()).await?;
        }
        let node = self.membership.as_ref().map(|membership| membership.node.as_str());
        let mut values = Vec::from(self.values(&connection));
        values.extend([(&first as _, Type::BOOL), (&node as _, Type::TEXT)]);
        let taken = transaction.query_typed_opt(TAKE, &values).await.map_err(failed)?;
        if taken.is_some() {
            return transaction.commit().await.map_err(failed);
        }
        let found = self.look(transaction.client()).await?;
        Err(self.not_ours(&found).unwrap_or_else(|| errors::unavailable("its position changed while it was taken")))
    }

    /// Becomes one of those who share the tables, or makes sure that nobody else has them. Within the transaction of a take.
    async fn join(&self, client: &Client) -> Result<(), StoreError> {
        let tables = self.look_around(client).await?;
        let Some(joined) = self.may_have(&tables)? else { return Ok(()) };
        if tables.members.as_ref() == Some(&joined) {
            return Ok(());
        }
        let failed = |error: tokio_postgres::Error| errors::store(&error);
        let text = joined.text();
        client.query_typed(JOIN, &[(&text as _, Type::TEXT)]).await.map_err(failed)?;
        if let Some(Membership { node, version, .. }) = &self.membership {
            let namesake = [(node as _, Type::TEXT), (&self.log_id as _, Type::TEXT)];
            client.query_typed(FORGET_NAMESAKE, &namesake).await.map_err(failed)?;
            info!(%node, layout = version, members = joined.named(), "shares the database with the other nodes of the cluster");
        }
        Ok(())
    }

    /// Whether the tables are this log's, or may be; and who shares them from now on.
    fn may_have(&self, tables: &Tables) -> Result<Option<Members>, StoreError> {
        let log_id = &self.log_id;
        match (&self.membership, &tables.members, &tables.other) {
            (Some(membership), Some(_), _) | (Some(membership), None, None) => {
                let joined = members::admit(tables.members.as_ref(), log_id, membership);
                joined.map(Some).map_err(errors::inconsistent)
            }
            (None, Some(members), _) => Err(errors::inconsistent(format!(
                "it is the history of a cluster, of the nodes {}, and this is the log {log_id} without a cluster; set cluster.node \
                 if it is one of them, or point store.postgres.url at another database",
                members.named()
            ))),
            (_, None, Some(other)) => Err(errors::inconsistent(format!(
                "it is the history of the log {other}, this is the log {log_id}; point store.postgres.url at another database, or \
                 drop the schema walcast to have the log projected anew"
            ))),
            (None, None, None) => Ok(None),
        }
    }

    async fn look_around(&self, client: &Client) -> Result<Tables, StoreError> {
        let row = client.query_typed_one(LOOK_AROUND, &[(&self.log_id as _, Type::TEXT)]).await;
        let row = row.map_err(|error| errors::store(&error))?;
        let read = |column| row.try_get::<_, Option<String>>(column).map_err(|error| errors::store(&error));
        let members = read(0)?.map(|text| Members::read(KIND, &text)).transpose()?;
        Ok(Tables { members, other: read(1)? })
    }

    /// Every start has a number of its own: whoever had the store with this one was started on a copy of the data directory, and
    /// what it wrote is not in this log. A log that lacks what the store has is refused before it takes it from whoever wrote that.
    async fn compare_with_a_copy(&self, client: &Client) -> Result<(), StoreError> {
        let Some(found) = self.find(client).await? else { return Ok(()) };
        let projected = position(found.projected)?;
        if let Some(end) = self.log_ends_at.filter(|end| projected > *end) {
            return Err(errors::inconsistent(beyond_the_log(projected, end)));
        }
        if found.epoch == self.epoch && found.holder != self.holder {
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
        self.may_have(&self.look_around(client).await?)?;
        let found = self.find(client).await?;
        found.map(|found| position(found.projected)).transpose()
    }

    /// The position, as long as the row is this connection's. Waits for what was sent over the connection before.
    pub(super) async fn projected(&self, client: &Client, connection: i64) -> Result<Projected, StoreError> {
        let found = self.look(client).await?;
        match self.lost(&found, connection) {
            Some(error) => Err(error),
            None => position(found.projected),
        }
    }

    /// Why a batch did not move the position.
    pub(super) async fn why(&self, client: &Client, connection: i64, batch: &StoreBatch) -> ApplyError {
        let found = match self.look(client).await {
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

    /// Why rows were not written: they are only while the row is this connection's.
    pub(super) async fn why_not_held(&self, client: &Client, connection: i64) -> StoreError {
        match self.projected(client, connection).await {
            Ok(_) => errors::unavailable("its cursor changed while rows were written"),
            Err(error) => error,
        }
    }

    fn lost(&self, found: &Found, connection: i64) -> Option<StoreError> {
        self.not_ours(found).or_else(|| {
            let ours = found.epoch == self.epoch && found.connection == connection;
            (!ours).then(|| errors::unavailable("it is not this connection's any more, as if the database went back"))
        })
    }

    fn not_ours(&self, found: &Found) -> Option<StoreError> {
        let Self { log_id, epoch, holder, .. } = self;
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

    /// The row, which is there once it was taken.
    async fn look(&self, client: &Client) -> Result<Found, StoreError> {
        if let Some(found) = self.find(client).await? {
            return Ok(found);
        }
        // Another log's tables in place of this one's, as from the wrong backup, are named.
        self.may_have(&self.look_around(client).await?)?;
        Err(errors::inconsistent(
            "walcast.projection has lost the row of this log; restore it, or drop the schema walcast and start again",
        ))
    }

    async fn find(&self, client: &Client) -> Result<Option<Found>, StoreError> {
        let row = client.query_typed_opt(LOOK, &[(&self.log_id as _, Type::TEXT)]).await;
        let row = row.map_err(|error| errors::store(&error))?;
        row.map(|row| found(&row)).transpose().map_err(|error| errors::store(&error))
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

fn found(row: &Row) -> Result<Found, tokio_postgres::Error> {
    Ok(Found {
        epoch: row.try_get(0)?,
        holder: row.try_get(1)?,
        connection: row.try_get(2)?,
        projected: row.try_get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn identity(membership: Option<Membership>) -> Identity {
        Identity { log_id: "0a".into(), epoch: 3, holder: "me".into(), membership, log_ends_at: None }
    }

    fn found(epoch: i64, holder: &str, connection: i64) -> Found {
        Found { epoch, holder: holder.into(), connection, projected: 7 }
    }

    fn node() -> Membership {
        let slots = BTreeMap::from([("a".to_owned(), "0-1023".to_owned())]);
        Membership { node: "a".to_owned(), version: 1, slots, moved: Vec::new() }
    }

    #[test]
    fn tells_whose_the_row_is() {
        let identity = identity(None);
        assert!(identity.lost(&found(3, "me", 5), 5).is_none());
        for other in [found(4, "you", 1), found(3, "you", 5)] {
            let error = identity.lost(&other, 5).expect("another process");
            assert!(matches!(error, StoreError::Fenced { .. }), "{other:?}: {error}");
        }
        // Another connection of this process, and a row from before it was taken.
        for earlier in [found(3, "me", 4), found(2, "you", 9)] {
            let error = identity.lost(&earlier, 5).expect("it went back");
            assert!(error.retryable(), "{error}");
        }
    }

    #[test]
    fn tables_are_one_logs_or_one_clusters() {
        let (alone, of_a_cluster) = (identity(None), identity(Some(node())));
        let members = || members::admit(None, "0a", &node()).expect("nobody is there");
        let tables = |members, other: Option<&str>| Tables { members, other: other.map(str::to_owned) };
        assert_eq!(alone.may_have(&tables(None, None)).expect("free"), None);
        assert_eq!(of_a_cluster.may_have(&tables(None, None)).expect("free"), Some(members()));
        assert!(of_a_cluster.may_have(&tables(Some(members()), Some("0b"))).is_ok(), "beside another log");
        for (who, tables, parts) in [
            (&alone, tables(None, Some("0b")), ["0a", "0b"]),
            (&alone, tables(Some(members()), None), ["0a", "a (log 0a)"]),
            // A broker that was alone, and has these tables.
            (&of_a_cluster, tables(None, Some("0b")), ["0a", "0b"]),
        ] {
            let error = who.may_have(&tables).expect_err("refused");
            assert!(matches!(error, StoreError::Inconsistent { .. }), "{error}");
            assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
        }
    }
}
