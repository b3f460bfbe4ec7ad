//! Batches, and what the database has of them.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Client;
use walcast::event::{Expiration, MessageId, Projected, Sequence, Subject, UnixMicros, clock};
pub use walcast::projector::conformance::batch;
use walcast::projector::{ApplyError, Row, Store, StoreBatch, StoreError};

/// The log of the tests.
pub const LOG: u128 = 0xFEED_0001;

pub fn at(sequence: u64) -> Projected {
    Projected(Sequence::new(sequence))
}

pub fn subject(text: &str) -> Subject {
    Subject::new(text.to_owned()).expect("a subject")
}

pub fn id(number: u32) -> MessageId {
    MessageId::new(number).expect("an id")
}

/// A row that was published now.
pub fn row(sequence: u64, text: &str, number: u32, life_seconds: i32, body: &[u8]) -> Row {
    Row {
        sequence: Sequence::new(sequence),
        subject: subject(text),
        id: id(number),
        published_at: clock::now(),
        expiration: Expiration::from_wire(life_seconds).expect("not negative"),
        body: Bytes::copy_from_slice(body),
    }
}

/// The batch from `previous` on with `count` rows of one subject, whose ids are their sequences, kept for an hour.
pub fn run(previous: u64, count: u32) -> Arc<StoreBatch> {
    let rows = (1..=count).map(|number| {
        let sequence = previous + u64::from(number);
        row(sequence, "run", u32::try_from(sequence).expect("small"), 3_600, format!("body {sequence}").as_bytes())
    });
    batch(previous, previous + u64::from(count), rows.collect())
}

/// Applies a batch as the pipeline does: again while the store is unavailable, and a position that has moved as far as the batch
/// means that an earlier attempt was committed.
pub async fn apply_like_the_pipeline(store: &dyn Store, batch: &Arc<StoreBatch>) -> usize {
    for attempt in 1.. {
        match store.apply(batch).await {
            Ok(()) => return attempt,
            Err(ApplyError::WrongPosition { found, .. }) if attempt > 1 && found == batch.projected => return attempt,
            Err(error) if error.retryable() => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            Err(error) => panic!("attempt {attempt}: {error}"),
        }
    }
    unreachable!("an attempt succeeds")
}

/// How many rows there are, and how many different (subject, id).
pub async fn counts(client: &Client) -> (i64, i64) {
    let row = client.query_one("SELECT count(*), count(DISTINCT (subject, id)) FROM walcast.messages", &[]).await;
    let row = row.expect("the table is there");
    (row.get(0), row.get(1))
}

/// The row comes back as it was.
pub async fn holds(store: &dyn Store, row: &Row) {
    let found = store.fetch(&row.subject, row.id, row.published_at).await.expect("it answers").expect("it is there");
    assert_eq!((found.published_at, found.expiration, &found.body), (row.published_at, row.expiration, &row.body));
}

/// A time long after everything here expired.
pub fn later(seconds: u32) -> UnixMicros {
    clock::now().plus_seconds(seconds)
}

/// A time before now.
pub fn earlier(seconds: u32) -> UnixMicros {
    UnixMicros::from_micros(clock::now().as_micros() - i64::from(seconds) * 1_000_000)
}

/// The same batch, published that much earlier.
pub fn published_earlier(mut batch: Arc<StoreBatch>, seconds: u32) -> Arc<StoreBatch> {
    for row in &mut Arc::get_mut(&mut batch).expect("it is not shared yet").rows {
        row.published_at = earlier(seconds);
    }
    batch
}

/// Calls until the answer is something else than that the store is unavailable, as it is once when the server has closed a
/// connection.
pub async fn until_not_unavailable<T, E: Retryable>(call: impl AsyncFn() -> Result<T, E>) -> Result<T, E> {
    for _ in 0..100 {
        match call().await {
            Err(error) if error.can_be_retried() => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            other => return other,
        }
    }
    panic!("it stays unavailable");
}

/// Both kinds of errors tell it.
pub trait Retryable {
    /// Whether the same call can succeed later.
    fn can_be_retried(&self) -> bool;
}

impl Retryable for ApplyError {
    fn can_be_retried(&self) -> bool {
        self.retryable()
    }
}

impl Retryable for StoreError {
    fn can_be_retried(&self) -> bool {
        self.retryable()
    }
}
