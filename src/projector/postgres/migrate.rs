//! The schema and its versions. Migrations are SQL files that are compiled in; refinery decides which are due and notes
//! them in `walcast.schema_history`.
//!
//! All of it is one transaction, opened by an advisory lock: two brokers that start at once take turns, a crash leaves
//! nothing half-made, and a pooler that gives each transaction another connection does no harm.

use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use refinery_core::{Migration, Runner};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Transaction};
use tracing::info;

use super::{KIND, errors};
use crate::projector::StoreError;

/// Each version with its file. A released file never changes: what comes later is another file.
const FILES: [(&str, &str); 2] = [
    ("V1__history", include_str!("migrations/V1__history.sql")),
    ("V2__several_logs", include_str!("migrations/V2__several_logs.sql")),
];

/// What the migrations do, in their order. For people to read: they are noted where they were applied, so that running them by
/// hand would only be in the way.
pub fn schema_statements() -> Vec<&'static str> {
    FILES.iter().map(|(_, sql)| *sql).collect()
}

/// The newest version that this build knows; the one that it works with.
pub(super) const SCHEMA_VERSION: i32 = 2;

/// Where refinery notes what was applied.
const HISTORY_TABLE: &str = "walcast.schema_history";

/// "walcast" in ASCII: the advisory lock that migrations take turns by.
const LOCK: i64 = 0x0077_616C_6361_7374;

/// Makes the schema, or brings it up to [`SCHEMA_VERSION`].
pub(super) async fn migrate(client: &mut Client) -> Result<(), StoreError> {
    let transaction = client.transaction().await.map_err(|error| errors::store(&error))?;
    let lock = "SELECT pg_advisory_xact_lock($1)";
    transaction.query_typed(lock, &[(&LOCK, Type::INT8)]).await.map_err(|error| errors::store(&error))?;
    let found = version(&transaction).await?;
    match found {
        // Rolled back; nothing was changed.
        Some(SCHEMA_VERSION) => return Ok(()),
        Some(found) if found > SCHEMA_VERSION => return Err(newer(found)),
        Some(_) | None => {}
    }
    let mut migrations = Vec::with_capacity(FILES.len());
    for (name, sql) in FILES {
        migrations.push(Migration::unapplied(name, sql).map_err(|error| errors::inconsistent(error.to_string()))?);
    }
    let mut runner = Runner::new(&migrations).set_grouped(true).set_abort_divergent(true).set_abort_missing(true);
    runner.set_migration_table_name(HISTORY_TABLE);
    let mut open = Open(transaction);
    runner.run_async(&mut open).await.map_err(|error| failed(&error))?;
    open.0.commit().await.map_err(|error| errors::store(&error))?;
    info!(from = found.unwrap_or(0), to = SCHEMA_VERSION, "made the schema walcast in the database");
    Ok(())
}

/// Refuses a database that does not keep every subject as it is: with another encoding some characters have no place in it, and
/// with SQL_ASCII nobody knows what they mean.
pub(super) async fn require_utf8(client: &Client) -> Result<(), StoreError> {
    let encoding = "SELECT current_setting('server_encoding')";
    let row = client.query_typed_one(encoding, &[]).await.map_err(|error| errors::store(&error))?;
    let encoding: &str = row.try_get(0).map_err(|error| errors::store(&error))?;
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(StoreError::Refused {
        store: KIND,
        reason: format!(
            "the database has the encoding {encoding}, and subjects are UTF-8: make one with CREATE DATABASE ... ENCODING \
             'UTF8' TEMPLATE template0"
        ),
    })
}

/// Whether the schema is there, in the version that this build reads; changes nothing.
pub(super) async fn found(client: &Client) -> Result<bool, StoreError> {
    let there = "SELECT to_regclass('walcast.schema_history') IS NOT NULL";
    let row = client.query_typed_one(there, &[]).await.map_err(|error| errors::store(&error))?;
    if !row.get::<_, bool>(0) {
        return Ok(false);
    }
    let row = client.query_typed_one(NEWEST, &[]).await.map_err(|error| errors::store(&error))?;
    match row.get::<_, Option<i32>>(0) {
        Some(SCHEMA_VERSION) => Ok(true),
        Some(found) if found < SCHEMA_VERSION => Err(errors::inconsistent(format!(
            "its schema has version {found}, this walcast reads version {SCHEMA_VERSION}; start the broker, which brings it up"
        ))),
        Some(found) => Err(newer(found)),
        None => Ok(false),
    }
}

const NEWEST: &str = "SELECT max(version) FROM walcast.schema_history";

fn newer(found: i32) -> StoreError {
    errors::inconsistent(format!(
        "its schema has version {found}, this walcast knows versions up to {SCHEMA_VERSION}; use the walcast that wrote it, \
         or a newer one"
    ))
}

/// The newest version that was applied; None in an empty schema. Makes the schema if it is absent: asked for first, because
/// `IF NOT EXISTS` wants the right to make one even if it is there.
async fn version(transaction: &Transaction<'_>) -> Result<Option<i32>, StoreError> {
    let absent = "SELECT to_regnamespace('walcast') IS NULL, to_regclass('walcast.schema_history') IS NULL";
    let row = transaction.query_typed_one(absent, &[]).await.map_err(|error| errors::store(&error))?;
    if row.get(0) {
        transaction.batch_execute("CREATE SCHEMA walcast").await.map_err(|error| errors::store(&error))?;
    }
    if row.get(1) {
        return Ok(None);
    }
    let row = transaction.query_typed_one(NEWEST, &[]).await.map_err(|error| errors::store(&error))?;
    Ok(row.get(0))
}

/// What a failed run means: the server's word if it said one.
fn failed(error: &refinery_core::Error) -> StoreError {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<tokio_postgres::Error>() {
            return errors::store(cause);
        }
        source = cause.source();
    }
    errors::inconsistent(format!("its schema is not what its versions say: {error}"))
}

/// The transaction that is open already, as refinery wants to see it.
struct Open<'client>(Transaction<'client>);

impl AsyncTransaction for Open<'_> {
    type Error = tokio_postgres::Error;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        queries: T,
    ) -> Result<usize, Self::Error> {
        let mut count = 0;
        for query in queries {
            self.0.batch_execute(query).await?;
            count += 1;
        }
        Ok(count)
    }
}

impl AsyncQuery<Vec<Migration>> for Open<'_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, Self::Error> {
        let rows = self.0.query_typed(query.trim_end_matches(';'), &[]).await?;
        rows.iter().map(applied).collect()
    }
}

impl AsyncMigrate for Open<'_> {}

/// A row of the history. Times and checksums that do not read are taken as 0: refinery then calls the version divergent.
fn applied(row: &Row) -> Result<Migration, tokio_postgres::Error> {
    let (version, name): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    let (applied_on, checksum): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    let applied_on = OffsetDateTime::parse(&applied_on, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    Ok(Migration::applied(version, name, applied_on, checksum.parse().unwrap_or(0)))
}
