//! Rows and batches for the checks, and comparisons that say what differs.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{Expiration, MessageId, Projected, Sequence, Subject, UnixMicros};
use crate::projector::{ApplyError, HighWaterMark, Row, Store, StoreBatch, StoredMessage};

/// The log that the checks' stores belong to.
pub(super) const LOG: u128 = 0x5EED_0001;

/// When the samples were published: 2026-01-01, a part of a second in.
pub(super) const PUBLISHED: UnixMicros = UnixMicros::from_micros(1_767_225_600_123_456);

pub(super) fn subject(text: &str) -> Result<Subject, String> {
    Subject::new(text.to_owned()).map_err(|error| error.to_string())
}

pub(super) fn id(value: u32) -> Result<MessageId, String> {
    MessageId::new(value).ok_or_else(|| format!("{value} is no id"))
}

pub(super) fn seconds(value: i32) -> Result<Expiration, String> {
    Expiration::from_wire(value).ok_or_else(|| format!("{value} is no expiration"))
}

pub(super) fn at(sequence: u64) -> Projected {
    Projected(Sequence::new(sequence))
}

/// A row published at [`PUBLISHED`].
pub(super) fn row(sequence: u64, text: &str, number: u32, life: i32, body: &[u8]) -> Result<Row, String> {
    Ok(Row {
        sequence: Sequence::new(sequence),
        subject: subject(text)?,
        id: id(number)?,
        published_at: PUBLISHED,
        expiration: seconds(life)?,
        body: Bytes::copy_from_slice(body),
    })
}

/// A batch from `previous` to `projected` whose marks are the last ids of its rows.
pub fn batch(previous: u64, projected: u64, rows: Vec<Row>) -> Arc<StoreBatch> {
    let mut marks: Vec<HighWaterMark> = Vec::new();
    for Row { subject, id, sequence, .. } in &rows {
        let (id, sequence) = (*id, *sequence);
        match marks.iter_mut().find(|mark| mark.subject == *subject) {
            Some(mark) => (mark.id, mark.sequence) = (id.max(mark.id), sequence.max(mark.sequence)),
            None => marks.push(HighWaterMark { subject: subject.clone(), id, sequence }),
        }
    }
    Arc::new(StoreBatch { previous: at(previous), projected: at(projected), rows, high_water_marks: marks })
}

pub(super) async fn apply(store: &dyn Store, batch: &Arc<StoreBatch>) -> Result<(), String> {
    store.apply(batch).await.map_err(|error| format!("a good batch was refused: {error}"))
}

/// Passes if the batch is refused because of its position.
pub(super) async fn refuse(store: &dyn Store, batch: &Arc<StoreBatch>) -> Result<(), String> {
    let found = position(store).await?;
    match store.apply(batch).await {
        Err(ApplyError::WrongPosition { found: said, expected }) => {
            equal("the position in the refusal", &(said, expected), &(found, batch.previous))
        }
        other => Err(format!("a batch from {} at position {found} got {other:?}", batch.previous)),
    }
}

pub(super) async fn position(store: &dyn Store) -> Result<Projected, String> {
    store.projected().await.map_err(|error| error.to_string())
}

pub(super) async fn mark(store: &dyn Store, text: &str) -> Result<Option<u32>, String> {
    let mark = store.high_water_mark(&subject(text)?).await.map_err(|error| error.to_string())?;
    Ok(mark.map(MessageId::get))
}

/// A fetch; a store that reads on the calling thread as well must say the same there.
async fn fetch(
    store: &dyn Store,
    subject: &Subject,
    id: MessageId,
    now: UnixMicros,
) -> Result<Option<StoredMessage>, String> {
    let found = store.fetch(subject, id, now).await.map_err(|error| error.to_string())?;
    if let Some(here) = store.fetch_here(subject, id, now) {
        let here = here.map_err(|error| error.to_string())?;
        equal(&format!("message {id} on the calling thread"), &here, &found)?;
    }
    Ok(found)
}

/// Passes if the store gives the row back as it was at `now`.
pub(super) async fn holds(store: &dyn Store, row: &Row, now: UnixMicros) -> Result<(), String> {
    let what = format!("message {} of {:?} at {}", row.id, row.subject.as_str(), now.as_micros());
    let found = fetch(store, &row.subject, row.id, now).await?;
    let found = found.ok_or_else(|| format!("{what} is not there"))?;
    if found.body != row.body {
        let (got, sent) = (found.body.len(), row.body.len());
        return Err(format!("{what} has another body: {got} bytes, {sent} were stored"));
    }
    equal(&what, &(found.published_at, found.expiration), &(row.published_at, row.expiration))
}

/// Passes if the store has no such message at `now`.
pub(super) async fn lacks(store: &dyn Store, text: &str, number: u32, now: UnixMicros) -> Result<(), String> {
    match fetch(store, &subject(text)?, id(number)?, now).await? {
        None => Ok(()),
        Some(_) => Err(format!("message {number} of {text:?} is there at {}", now.as_micros())),
    }
}

pub(super) fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}")) }
}
