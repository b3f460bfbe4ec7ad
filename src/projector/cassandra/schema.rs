//! Keyspace and tables: the statements that make them, and the check of what is there.
//!
//! | table | one row for | written |
//! |---|---|---|
//! | `messages` | a message | once, with a TTL; see [`super::codec`] |
//! | `high_water_marks` | a subject: its last id | with each batch that has the subject |
//! | `cursor` | a log: its identity, who may write, the position | with each batch, by a lightweight transaction |
//! | `lacking` | a message of a node of a cluster that was not taken: until when it lives | when it is set aside |

use std::time::{Duration, Instant};

use scylla::client::session::Session;
use tokio::time::sleep;
use tracing::info;

use super::config::Config;
use super::errors::{self, Fault};
use super::session::{self, DDL_TIMEOUT};
use crate::projector::{Membership, StoreError};

/// A column of `messages` that tables of earlier versions do not have. Rows that were there before have no value in it.
const BODY_BYTES: &str = "body_bytes";

/// The table that only the nodes of a cluster need: keyspaces of earlier versions do not have it.
const LACKING: (&str, &[(&str, &str)]) = ("lacking", &[("subject", "text"), ("until", "timestamp")]);

/// How long a node waits for another one to make the tables, and how often it looks.
const MADE_WITHIN: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The tables with their columns and types, as `system_schema.columns` has them.
const TABLES: [(&str, &[(&str, &str)]); 3] = [
    (
        "messages",
        &[
            ("subject", "text"),
            ("bucket", "int"),
            ("id", "int"),
            ("published_at", "timestamp"),
            ("published_at_micros", "smallint"),
            ("expiration_seconds", "int"),
            ("expires_at", "timestamp"),
            ("body", "blob"),
            (BODY_BYTES, "int"),
        ],
    ),
    ("high_water_marks", &[("subject", "text"), ("last_id", "int")]),
    (
        "cursor",
        &[("name", "text"), ("log_id", "text"), ("epoch", "bigint"), ("claim", "text"), ("projected", "bigint")],
    ),
];

/// The statements that make the keyspace and the tables, in their order; each changes nothing where its object is there
/// already. For those whose operators make them.
pub fn schema_statements(config: &Config) -> Vec<String> {
    let copies = config.replication_factor;
    let replication = match &config.datacenter {
        Some(name) => format!("'{name}': {copies}"),
        None => format!("'replication_factor': {copies}"),
    };
    let keyspace = &config.keyspace;
    // One day a window: a few weeks of history are a few dozen files, and a file goes as a whole an hour and
    // gc_grace_seconds after the last message in it has expired. Nothing is ever deleted but by TTL, which needs no
    // tombstones to reach a node that was away; three hours are how long hints for such a node are kept.
    let messages = format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.messages (\n    \
         subject text,\n    bucket int,\n    id int,\n    published_at timestamp,\n    published_at_micros smallint,\n    \
         expiration_seconds int,\n    expires_at timestamp,\n    body blob,\n    body_bytes int,\n    \
         PRIMARY KEY ((subject, bucket), id)\n) WITH CLUSTERING ORDER BY (id ASC)\n    \
         AND compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', \
         'compaction_window_size': '1', 'tombstone_compaction_interval': '3600', 'tombstone_threshold': '0.5', \
         'unchecked_tombstone_compaction': 'true'}}\n    \
         AND gc_grace_seconds = 10800"
    );
    vec![
        format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', {replication}}}"
        ),
        messages,
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.high_water_marks (\n    subject text PRIMARY KEY,\n    last_id int\n)"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.cursor (\n    name text PRIMARY KEY,\n    log_id text,\n    epoch bigint,\n    \
             claim text,\n    projected bigint\n)"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.lacking (\n    subject text,\n    until timestamp,\n    \
             PRIMARY KEY (subject, until)\n) WITH CLUSTERING ORDER BY (until DESC)"
        ),
    ]
}

/// What is not as it must be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Difference {
    /// The keyspace is not there.
    #[error("the keyspace {0}")]
    Keyspace(String),
    /// The keyspace is there and has none of the tables.
    #[error("the tables of {0}")]
    Tables(String),
    /// A table is not there.
    #[error("the table {0}")]
    Table(String),
    /// The table `messages` is one of an earlier version.
    #[error("the column {0}")]
    Older(String),
    /// A table is another than it must be.
    #[error("the table {0}")]
    Altered(String),
}

/// Makes what is missing, then checks it. Of a cluster the first node of the layout does: tables that two nodes of Cassandra make at
/// once, each as it is asked to, are two tables of one name.
pub(super) async fn ensure(
    session: &Session,
    config: &Config,
    membership: Option<&Membership>,
) -> Result<(), StoreError> {
    let started = Instant::now();
    let missing = loop {
        let missing = match differences(session, config, membership.is_some()).await? {
            None => return Ok(()),
            Some(Difference::Altered(what)) => return Err(altered(&what)),
            Some(missing) => missing,
        };
        let first = membership.map_or(Ok(()), Membership::is_first);
        match first {
            Ok(()) => break missing,
            Err(first) if started.elapsed() > MADE_WITHIN => {
                return Err(errors::unavailable(format!(
                    "{missing} is not there; node {first}, the first of the layout, makes it, or an operator with the statements \
                     of `walcast store schema`"
                )));
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    };
    info!(keyspace = config.keyspace, %missing, "making what is missing");
    for statement in &statements_for(&missing, config) {
        let made = session.query_unpaged(session::administrative(statement, DDL_TIMEOUT), ()).await;
        match made.map_err(|error| errors::fault(&error)) {
            Ok(_) => {}
            Err(Fault::Denied(said)) => return Err(denied(config, &missing, &said)),
            Err(fault) => return Err(errors::unavailable(format!("{missing} is missing and was not made: {fault}"))),
        }
    }
    check(session, config, membership.is_some()).await
}

/// Whether the table is missing that only the nodes of a cluster need.
pub(super) async fn lacks_table(session: &Session, config: &Config) -> Result<bool, StoreError> {
    Ok(differences(session, config, true).await?.is_some())
}

/// Whether there is anything to look at, and all of it. Makes nothing.
pub(super) async fn is_there(session: &Session, config: &Config) -> Result<bool, StoreError> {
    match differences(session, config, false).await? {
        None => Ok(true),
        Some(Difference::Keyspace(_) | Difference::Tables(_)) => Ok(false),
        Some(Difference::Altered(what)) => Err(altered(&what)),
        Some(missing) => {
            Err(errors::unavailable(format!("{missing} is not there; the next start of a broker makes it")))
        }
    }
}

/// The statements that bring what is there up to what must be.
fn statements_for(missing: &Difference, config: &Config) -> Vec<String> {
    match missing {
        // The server only notes it: no row is written anew.
        Difference::Older(_) => vec![format!("ALTER TABLE {}.messages ADD {BODY_BYTES} int", config.keyspace)],
        Difference::Keyspace(_) => schema_statements(config),
        // Who may make tables need not be allowed to make keyspaces.
        _ => schema_statements(config).split_off(1),
    }
}

/// Whether keyspace and tables are as they must be; the reason if they are not.
pub(super) async fn check(session: &Session, config: &Config, shared: bool) -> Result<(), StoreError> {
    match differences(session, config, shared).await? {
        None => Ok(()),
        Some(Difference::Altered(what)) => Err(altered(&what)),
        Some(missing) => Err(errors::unavailable(format!("{missing} is not there"))),
    }
}

fn altered(what: &str) -> StoreError {
    errors::unavailable(format!("the table {what}; walcast makes its tables itself, or shows the statements"))
}

fn denied(config: &Config, missing: &Difference, said: &str) -> StoreError {
    let user = config.username.as_deref().unwrap_or("anonymous");
    errors::refused(format!(
        "{missing} is missing and the user {user} may not make it; grant CREATE (ALTER for a column), or have an operator run the statements \
         that docs/stores-cassandra.md shows ({said})"
    ))
}

/// The first difference between what is there and what must be.
async fn differences(session: &Session, config: &Config, shared: bool) -> Result<Option<Difference>, StoreError> {
    let keyspace = &config.keyspace;
    let read = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let found = session.query_unpaged(session::administrative(read, DDL_TIMEOUT), (keyspace,)).await;
    let found = session::rows::<(String,)>(found)?;
    if found.is_empty() {
        return Ok(Some(Difference::Keyspace(keyspace.clone())));
    }
    let read = "SELECT table_name, column_name, type FROM system_schema.columns WHERE keyspace_name = ?";
    let found = session.query_unpaged(session::administrative(read, DDL_TIMEOUT), (keyspace,)).await;
    let found = session::rows::<(String, String, String)>(found)?;
    Ok(first_difference(keyspace, &found, shared))
}

fn first_difference(keyspace: &str, found: &[(String, String, String)], shared: bool) -> Option<Difference> {
    if !found.iter().any(|(of, ..)| TABLES.iter().any(|(table, _)| of == table)) {
        return Some(Difference::Tables(keyspace.to_owned()));
    }
    let mut older = None;
    for (table, columns) in TABLES.into_iter().chain(shared.then_some(LACKING)) {
        let found: Vec<_> = found.iter().filter(|(of, ..)| of == table).collect();
        if found.is_empty() {
            return Some(Difference::Table(format!("{keyspace}.{table}")));
        }
        // Columns that somebody added do not matter.
        for (column, kind) in columns {
            match found.iter().find(|(_, name, _)| name == column) {
                Some((.., is)) if is == kind => {}
                Some((.., is)) => {
                    let what = format!("{keyspace}.{table} was altered: {column} is {is}, not {kind}");
                    return Some(Difference::Altered(what));
                }
                None if (table, *column) == ("messages", BODY_BYTES) => {
                    older = Some(Difference::Older(format!("{keyspace}.messages.{BODY_BYTES}")));
                }
                None => {
                    let what = format!("{keyspace}.{table} was altered: it has no column {column}");
                    return Some(Difference::Altered(what));
                }
            }
        }
    }
    older
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<(String, String, String)> {
        let owned = |table: &str, column: &str, kind: &str| (table.to_owned(), column.to_owned(), kind.to_owned());
        let all =
            TABLES.iter().flat_map(|(table, columns)| columns.iter().map(move |(name, kind)| (*table, *name, *kind)));
        all.map(|(table, column, kind)| owned(table, column, kind)).collect()
    }

    #[test]
    fn the_statements_make_what_is_checked() {
        let config = Config { nodes: vec!["a".to_owned()], ..Config::default() };
        let statements = schema_statements(&config);
        assert!(statements[0].contains("'replication_factor': 1"), "{}", statements[0]);
        for ((table, columns), statement) in TABLES.iter().zip(&statements[1..]) {
            assert!(statement.starts_with(&format!("CREATE TABLE IF NOT EXISTS walcast.{table} (")), "{statement}");
            for (column, kind) in *columns {
                assert!(statement.contains(&format!("    {column} {kind}")), "{column} in {statement}");
            }
        }
        let config = Config { datacenter: Some("eu".to_owned()), replication_factor: 3, ..config };
        assert!(schema_statements(&config)[0].contains("'eu': 3"));
    }

    /// A query reads one partition; all of its rows may have expired. `docs/stores-cassandra.md` has these figures.
    #[test]
    fn a_bucket_of_expired_rows_is_below_what_a_server_reads() {
        let values = TABLES[0].1.len() - "subject bucket id".split(' ').count();
        let tombstones = super::super::codec::BUCKET_IDS as usize * values;
        assert_eq!(tombstones, 24_576);
        // tombstone_failure_threshold
        assert!(tombstones < 100_000);
    }

    #[test]
    fn differences_are_named() {
        assert_eq!(first_difference("k", &columns(), false), None);
        let more = [columns(), vec![("messages".to_owned(), "note".to_owned(), "text".to_owned())]].concat();
        assert_eq!(first_difference("k", &more, false), None, "an added column");
        let without = |dropped: &str| columns().into_iter().filter(|(_, name, _)| name != dropped).collect::<Vec<_>>();
        let Some(Difference::Altered(what)) = first_difference("k", &without("body"), false) else { unreachable!() };
        assert!(what.contains("k.messages") && what.contains("body"), "{what}");
        let Some(older @ Difference::Older(_)) = first_difference("k", &without("body_bytes"), false) else {
            unreachable!()
        };
        assert_eq!(older.to_string(), "the column k.messages.body_bytes");
        assert_eq!(first_difference("k", &[], false), Some(Difference::Tables("k".to_owned())));
        let theirs = [("theirs".to_owned(), "id".to_owned(), "int".to_owned())];
        assert_eq!(first_difference("k", &theirs, false), Some(Difference::Tables("k".to_owned())));
        let tables = columns().into_iter().filter(|(table, ..)| table != "cursor").collect::<Vec<_>>();
        assert_eq!(first_difference("k", &tables, false), Some(Difference::Table("k.cursor".to_owned())));
        let mut other = columns();
        other[0].2 = "blob".to_owned();
        assert!(matches!(first_difference("k", &other, false), Some(Difference::Altered(_))));
    }
}
