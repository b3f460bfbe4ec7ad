//! The connection to the cluster, and the statements that are prepared on it.
//!
//! The driver keeps connections to every node and makes them again, at most ten seconds apart; a request goes to a node that
//! has its rows, and, where that is harmless, to another one when the first fails.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::ExecutionError;
use scylla::policies::host_filter::DcHostFilter;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::response::query_result::QueryResult;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;
use tokio::time::timeout;

use super::config::{Config, Consistency};
use super::errors::{self, Fault};
use super::{schema, tls};
use crate::projector::{Membership, StoreError};

/// How long a connection to one node may take; within a data centre it is a millisecond.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long first contact may take in all, tables and their agreement among the nodes not included.
const CONTACT_WITHIN: Duration = Duration::from_secs(8);

/// How long a statement about keyspaces and tables may take: every node hears of it, and each makes files.
pub(super) const DDL_TIMEOUT: Duration = Duration::from_secs(20);

/// An idle connection is asked this often whether it still works, and closed when it does not answer in as long: a node that
/// hangs without closing its sockets must not look alive.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A cluster in reach, its tables checked.
pub(super) struct Database {
    pub(super) session: Session,
    pub(super) insert_message: PreparedStatement,
    pub(super) select_message: PreparedStatement,
    /// What is there of a run of ids, without the bodies.
    pub(super) list_messages: PreparedStatement,
    pub(super) select_bodies: PreparedStatement,
    pub(super) insert_mark: PreparedStatement,
    pub(super) select_mark: PreparedStatement,
    /// As the last transaction left it.
    pub(super) select_cursor: PreparedStatement,
    /// As a plain read has it, which is as new as the last transaction that was confirmed.
    pub(super) look_at_cursor: PreparedStatement,
    pub(super) insert_cursor: PreparedStatement,
    pub(super) claim_cursor: PreparedStatement,
    pub(super) move_cursor: PreparedStatement,
    /// Puts another claim and position into a row of the same log.
    pub(super) replace_cursor: PreparedStatement,
    /// Makes the row of a broker that was alone that of a cluster.
    pub(super) convert_cursor: PreparedStatement,
    /// What is missing of a subject; None where nobody shares the keyspace.
    pub(super) lacking: Option<Lacking>,
}

/// The statements about what the store did not take.
pub(super) struct Lacking {
    pub(super) insert: PreparedStatement,
    /// The latest end of what is missing of a subject.
    pub(super) select: PreparedStatement,
}

impl Database {
    /// Connects, makes what is missing, prepares the statements.
    pub(super) async fn take(config: &Config, membership: Option<&Membership>) -> Result<Self, StoreError> {
        let session = connect_in_time(config).await?;
        schema::ensure(&session, config, membership).await?;
        Self::prepare(session, config, membership.is_some()).await
    }

    /// Connects and prepares the statements; None if nothing was ever made there.
    pub(super) async fn look(config: &Config, shared: bool) -> Result<Option<Self>, StoreError> {
        let session = connect_in_time(config).await?;
        if !schema::is_there(&session, config).await? {
            return Ok(None);
        }
        // What is missing is for those who write.
        let lacks = schema::lacks_table(&session, config).await?;
        Self::prepare(session, config, shared && !lacks).await.map(Some)
    }

    async fn prepare(session: Session, config: &Config, shared: bool) -> Result<Self, StoreError> {
        let keyspace = &config.keyspace;
        let prepare = |text: String, repeatable: bool| prepare(&session, text, repeatable);
        let insert_message = prepare(
            format!(
                "INSERT INTO {keyspace}.messages (subject, bucket, id, published_at, published_at_micros, \
                 expiration_seconds, expires_at, body, body_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?"
            ),
            true,
        )
        .await?;
        let times = "published_at, published_at_micros, expiration_seconds";
        let of_bucket = format!("FROM {keyspace}.messages WHERE subject = ? AND bucket = ?");
        let select_message = prepare(format!("SELECT {times}, body {of_bucket} AND id = ?"), true).await?;
        let list = format!("SELECT id, {times}, body_bytes {of_bucket} AND id >= ? AND id <= ? LIMIT ?");
        let list_messages = prepare(list, true).await?;
        let select_bodies = prepare(format!("SELECT id, body {of_bucket} AND id IN ?"), true).await?;
        let marks = format!("{keyspace}.high_water_marks");
        let insert_mark =
            prepare(format!("INSERT INTO {marks} (subject, last_id) VALUES (?, ?) USING TIMESTAMP ?"), true).await?;
        let select_mark = prepare(format!("SELECT last_id FROM {marks} WHERE subject = ?"), true).await?;
        let cursor = format!("{keyspace}.cursor");
        let read = format!("SELECT log_id, epoch, claim, projected FROM {cursor} WHERE name = ?");
        let look_at_cursor = prepare(read, true).await?;
        let mut select_cursor = look_at_cursor.clone();
        select_cursor.set_consistency(match config.consistency {
            Consistency::LocalQuorum => scylla::statement::Consistency::LocalSerial,
            Consistency::Quorum | Consistency::All => scylla::statement::Consistency::Serial,
        });
        let insert_cursor = prepare(
            format!(
                "INSERT INTO {cursor} (name, log_id, epoch, claim, projected) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS"
            ),
            false,
        )
        .await?;
        let claim_cursor = prepare(
            format!(
                "UPDATE {cursor} SET epoch = ?, claim = ? WHERE name = ? IF log_id = ? AND claim = ? AND projected = ?"
            ),
            false,
        )
        .await?;
        let move_cursor = prepare(
            format!("UPDATE {cursor} SET projected = ? WHERE name = ? IF log_id = ? AND claim = ? AND projected = ?"),
            false,
        )
        .await?;
        let replace = format!("UPDATE {cursor} SET epoch = ?, claim = ?, projected = ? WHERE name = ? IF claim = ?");
        let replace_cursor = prepare(replace, false).await?;
        let convert_cursor = prepare(
            format!(
                "UPDATE {cursor} SET log_id = ?, epoch = ?, claim = ?, projected = ? WHERE name = ? \
                 IF log_id = ? AND claim = ? AND projected = ?"
            ),
            false,
        )
        .await?;
        let lacking = if shared { Some(Lacking::prepare(&session, keyspace).await?) } else { None };
        Ok(Self {
            session,
            insert_message,
            select_message,
            list_messages,
            select_bodies,
            insert_mark,
            select_mark,
            select_cursor,
            look_at_cursor,
            insert_cursor,
            claim_cursor,
            move_cursor,
            replace_cursor,
            convert_cursor,
            lacking,
        })
    }
}

impl Lacking {
    async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let insert = format!("INSERT INTO {keyspace}.lacking (subject, until) VALUES (?, ?) USING TTL ?");
        let select = format!("SELECT until FROM {keyspace}.lacking WHERE subject = ? LIMIT 1");
        Ok(Self { insert: prepare(session, insert, true).await?, select: prepare(session, select, true).await? })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Database").finish_non_exhaustive()
    }
}

async fn connect_in_time(config: &Config) -> Result<Session, StoreError> {
    let session = match timeout(CONTACT_WITHIN, connect(config)).await {
        Ok(session) => session?,
        Err(_) => return Err(errors::unavailable(format!("no node answered within {CONTACT_WITHIN:?}"))),
    };
    one_datacenter(&session, config)?;
    Ok(session)
}

async fn connect(config: &Config) -> Result<Session, StoreError> {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = &config.datacenter {
        policy = policy.prefer_datacenter(datacenter.clone()).permit_dc_failover(false);
    }
    let profile = ExecutionProfile::builder()
        .consistency(config.consistency.level())
        .serial_consistency(Some(config.consistency.serial()))
        .request_timeout(Some(config.request_timeout))
        .load_balancing_policy(policy.build())
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .keyspaces_to_fetch([config.keyspace.as_str()])
        .connection_timeout(CONNECT_TIMEOUT)
        .hostname_resolution_timeout(Some(CONNECT_TIMEOUT))
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .schema_agreement_timeout(DDL_TIMEOUT)
        // What a server logs of its clients is no place for the settings of this one.
        .driver_config_reporting(false);
    if let Some(datacenter) = &config.datacenter {
        // No connection either: nothing is prepared there, and no table is asked for there.
        builder = builder.host_filter(Arc::new(DcHostFilter::new(datacenter.clone())));
    }
    if let (Some(username), Some(password)) = (&config.username, &config.password) {
        builder = builder.user(username, password);
    }
    if let Some(file) = &config.tls_ca_file {
        let tls = tls::client_config(file).map_err(|error| errors::refused(error.to_string()))?;
        builder = builder.tls_context(Some(tls));
    }
    builder.build().await.map_err(|error| match errors::of_session(&error) {
        Fault::Denied(reason) => errors::refused(reason),
        fault => errors::unavailable(fault.to_string()),
    })
}

/// A local quorum of one data centre says nothing about another's: whoever writes in one and reads in the other misses rows.
fn one_datacenter(session: &Session, config: &Config) -> Result<(), StoreError> {
    let state = session.get_cluster_state();
    let names = state.get_nodes_info().iter().filter_map(|node| node.datacenter.as_deref()).collect();
    misnamed(&names, config).map_or(Ok(()), |reason| Err(errors::refused(reason)))
}

/// What is wrong with the data centre of the configuration, in a cluster that has `names`.
fn misnamed(names: &BTreeSet<&str>, config: &Config) -> Option<String> {
    let known = names.iter().copied().collect::<Vec<_>>().join(", ");
    match &config.datacenter {
        Some(wanted) if !names.contains(wanted.as_str()) => Some(format!(
            "the cluster has no data centre {wanted}, only {known}: set store.cassandra.datacenter to one of them"
        )),
        None if names.len() > 1 && config.consistency == Consistency::LocalQuorum => {
            Some(format!("the cluster has the data centres {known}: name the local one in store.cassandra.datacenter"))
        }
        _ => None,
    }
}

/// Prepares a statement. One that is `repeatable` has the same effect if it is executed twice, at any distance, so that the
/// driver may send it to another node after a failure.
async fn prepare(session: &Session, text: String, repeatable: bool) -> Result<PreparedStatement, StoreError> {
    let prepared = session.prepare(text).await;
    let mut prepared = prepared.map_err(|error| match errors::of_prepare(error) {
        Fault::Denied(reason) => errors::refused(reason),
        fault => errors::unavailable(fault.to_string()),
    })?;
    prepared.set_is_idempotent(repeatable);
    Ok(prepared)
}

/// A statement about keyspaces and tables.
pub(super) fn administrative(text: &str, within: Duration) -> Statement {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(within));
    // The tables of the system are each node's own.
    statement.set_consistency(scylla::statement::Consistency::One);
    statement.set_is_idempotent(true);
    statement
}

/// All rows of an answer.
pub(super) fn rows<Columns>(answer: Result<QueryResult, ExecutionError>) -> Result<Vec<Columns>, StoreError>
where
    Columns: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
{
    let unreadable = |error: &dyn fmt::Display| errors::unavailable(format!("its answer does not fit: {error}"));
    let answer = answer.map_err(|error| errors::passing(&error))?;
    let answer = answer.into_rows_result().map_err(|error| unreadable(&error))?;
    let rows = answer.rows::<Columns>().map_err(|error| unreadable(&error))?;
    rows.collect::<Result<_, _>>().map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_data_centre_is_named_where_there_are_several() {
        let misnamed = |names: &[&str], datacenter: Option<&str>, consistency| {
            let datacenter = datacenter.map(str::to_owned);
            misnamed(&names.iter().copied().collect(), &Config { datacenter, consistency, ..Config::default() })
        };
        let several = misnamed(&["us", "eu"], None, Consistency::LocalQuorum).expect("refused");
        assert!(several.contains("eu, us") && several.contains("store.cassandra.datacenter"), "{several}");
        let unknown = misnamed(&["us", "eu"], Some("EU"), Consistency::All).expect("refused");
        assert!(unknown.contains("no data centre EU, only eu, us"), "{unknown}");
        assert_eq!(misnamed(&["us", "eu"], Some("eu"), Consistency::LocalQuorum), None);
        assert_eq!(misnamed(&["eu"], None, Consistency::LocalQuorum), None);
        // They count the copies of all data centres.
        assert_eq!(misnamed(&["us", "eu"], None, Consistency::Quorum), None);
        assert_eq!(misnamed(&["us", "eu"], None, Consistency::All), None);
    }
}
