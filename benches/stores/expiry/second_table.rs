//! The table of Cassandra whose rows expire while somebody waits: the one of the messages with other options where time is concerned.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use scylla::value::CqlTimestamp;
use walcast::event::{MessageId, Subject};
use walcast::projector::Row;
use walcast::projector::cassandra::{Config, schema_statements};

use crate::Failure;
use crate::harness;
use crate::places::Place;
use crate::rows::Run;

/// Inserts in flight, as the store has.
const IN_FLIGHT: usize = 256;

/// Ids of one partition, as the store has.
const BUCKET_IDS: i32 = 4_096;

/// What the table of the messages has, and what this one has in its place.
const CHANGES: [(&str, &str); 3] = [
    (".messages (", ".expiring ("),
    (
        "'compaction_window_unit': 'DAYS'",
        "'compaction_window_unit': 'MINUTES', 'expired_sstable_check_frequency_seconds': '1'",
    ),
    ("gc_grace_seconds = 10800", "gc_grace_seconds = 0 AND memtable_flush_period_in_ms = 1000"),
];

/// Makes the table, writes the rows with a TTL, and waits until the last one has expired.
///
/// # Errors
/// The server's; the last row is not there when it was written.
pub async fn write(place: &Place<'_>, run: &Run, ttl_seconds: u64) -> Result<(), Failure> {
    let config = &place.keyspace()?.config;
    let session = harness::operator(config).await;
    harness::execute(&session, &statement(config)?).await;
    // The write time is that of the insert: the store's is that of the publish, a moment before.
    let insert = format!(
        "INSERT INTO {}.expiring (subject, bucket, id, published_at, published_at_micros, expiration_seconds, expires_at, \
         body, body_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL {ttl_seconds}",
        config.keyspace
    );
    let insert = session.prepare(insert).await?;
    for batch in run.batches()? {
        let inserts = batch.rows.iter().map(|row| session.execute_unpaged(&insert, columns(row)));
        // Each is made where it is awaited.
        stream::iter(inserts).buffer_unordered(IN_FLIGHT).try_for_each(|_| async { Ok(()) }).await?;
    }
    let (subject, id) = run.key(run.count - 1)?;
    if !is_there(place, &subject, id).await? {
        return Err(format!("message {id} of {} was written and is not there", subject.as_str()).into());
    }
    tokio::time::sleep(Duration::from_secs(ttl_seconds + 1)).await;
    Ok(())
}

/// Writes a row that stays. Compaction looks around after a flush, and a flush wants something to write.
///
/// # Errors
/// It is another kind of store.
pub async fn poke(place: &Place<'_>, number: u64) -> Result<(), Failure> {
    let config = &place.keyspace()?.config;
    let insert = format!("INSERT INTO {}.expiring (subject, bucket, id) VALUES ('poke', 0, {number})", config.keyspace);
    harness::execute(&harness::operator(config).await, &insert).await;
    Ok(())
}

/// Whether a query finds a row.
///
/// # Errors
/// It is another kind of store.
pub async fn is_there(place: &Place<'_>, subject: &Subject, id: MessageId) -> Result<bool, Failure> {
    let config = &place.keyspace()?.config;
    let id = id.to_wire();
    let text = format!(
        "SELECT id FROM {}.expiring WHERE subject = '{}' AND bucket = {} AND id = {id}",
        config.keyspace,
        subject.as_str(),
        id / BUCKET_IDS
    );
    Ok(!harness::query::<(i32,)>(&harness::operator(config).await, &text).await.is_empty())
}

/// The statement that makes it: the store's own, so that it has the columns and options that the store's has.
fn statement(config: &Config) -> Result<String, Failure> {
    let mut statements = schema_statements(config).into_iter();
    let mut text = statements.find(|text| text.contains(CHANGES[0].0)).ok_or("there is no table of messages")?;
    for (theirs, ours) in CHANGES {
        if text.matches(theirs).count() != 1 {
            return Err(format!("`{theirs}` is not once in the table of the messages:\n{text}").into());
        }
        text = text.replace(theirs, ours);
    }
    Ok(text)
}

/// Subject, bucket, id, when it was published, microseconds beyond the millisecond, life time, end, body, its length.
type Columns<'a> = (&'a str, i32, i32, CqlTimestamp, i16, i32, CqlTimestamp, &'a [u8], i32);

fn columns(row: &Row) -> Columns<'_> {
    let id = row.id.to_wire();
    let micros = row.published_at.as_micros();
    let expires_at = row.expiration.expires_at(row.published_at).as_micros();
    (
        row.subject.as_str(),
        id / BUCKET_IDS,
        id,
        CqlTimestamp(micros.div_euclid(1_000)),
        // 0 to 999, so it fits.
        micros.rem_euclid(1_000) as i16,
        row.expiration.seconds().cast_signed(),
        CqlTimestamp(expires_at.div_euclid(1_000)),
        &*row.body,
        // 256.
        row.body.len() as i32,
    )
}
