//! The yardstick: the same rows into a plain table with a prepared statement, a transaction a batch, nothing else.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::rows::Run;

/// How long all batches take.
pub async fn insert(client: &Client, runs: &[Run]) -> Duration {
    let table = "CREATE TABLE bare (subject text COLLATE \"C\" NOT NULL, id integer NOT NULL, sequence bigint NOT NULL, \
                 published_at bigint NOT NULL, expires_at bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (subject, id))";
    client.batch_execute(table).await.unwrap();
    let insert = "INSERT INTO bare SELECT * FROM unnest($1::text[], $2::int4[], $3::int8[], $4::int8[], $5::int8[], $6::bytea[])";
    let insert = client.prepare(insert).await.unwrap();
    let started = Instant::now();
    for run in runs {
        let subjects: Vec<&str> = run.rows.iter().map(|row| row.subject.as_str()).collect();
        let ids: Vec<i32> = run.rows.iter().map(|row| row.id.to_wire()).collect();
        let sequences: Vec<i64> = run.rows.iter().map(|row| row.sequence.get().cast_signed()).collect();
        let published: Vec<i64> = run.rows.iter().map(|row| row.published_at.as_micros()).collect();
        let expires = |row: &walcast::projector::Row| row.expiration.expires_at(row.published_at).as_micros();
        let expires: Vec<i64> = run.rows.iter().map(expires).collect();
        let bodies: Vec<&[u8]> = run.rows.iter().map(|row| &row.body[..]).collect();
        client.execute(&insert, &[&subjects, &ids, &sequences, &published, &expires, &bodies]).await.unwrap();
    }
    started.elapsed()
}
