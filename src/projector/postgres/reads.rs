//! What readers ask.
//!
//! Rows of partitions that ended are left out by `kept_until`; the others are one look into an index each. Planning that costs
//! more than doing it, so the one for Fetch is a function, whose plan stays with the server's session. Rows of a subject in the
//! order of their ids come out of the indexes of all partitions at once, merged, and the first ones at once: sorting is off
//! for them ([`BEGIN_IN_ORDER`]), because a server without statistics sorts all that follow for each page.

use bytes::{Bytes, BytesMut};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::errors;
use super::values::{self, Timestamp};
use crate::event::{Expiration, MessageId, UnixMicros};
use crate::projector::{Foreign, StoreError, StoredMessage};

/// A row by (subject, id), unless it is expired.
pub(super) const FETCH: &str = "SELECT published_at, expires_at, body FROM walcast.fetch($1, $2, $3)";

/// Before a statement whose rows come in the order of an index.
pub(super) const BEGIN_IN_ORDER: &str = "BEGIN READ ONLY; SET LOCAL enable_sort = off";

/// The live rows of a subject in the order of their ids. The sum is over sizes, which the server knows without reading large
/// bodies; the row that reaches the bound is the last.
pub(super) const AFTER: &str = "
    SELECT published_at, expires_at, body, id FROM (
        SELECT published_at, expires_at, body, id,
               sum(octet_length(body)) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
                   - octet_length(body) AS bytes_before
        FROM walcast.messages
        WHERE subject = $1 AND id > $2 AND expires_at > $3 AND kept_until > $3
        ORDER BY id LIMIT $4
    ) AS live
    WHERE bytes_before < $5 ORDER BY id";

/// The same without a bound in bytes.
pub(super) const AHEAD: &str = "
    SELECT published_at, expires_at, body, id FROM walcast.messages
    WHERE subject = $1 AND id > $2 AND expires_at > $3 AND kept_until > $3 ORDER BY id LIMIT $4";

/// The last id of a subject.
pub(super) const MARK: &str = "SELECT last_id FROM walcast.subjects WHERE subject = $1";

/// What is known of a message of another node: the row unless it is expired, the last id of its subject, and whether a live message
/// of the subject is missing. One statement, so one moment.
pub(super) const FOREIGN: &str = "
    SELECT found.published_at, found.expires_at, found.body,
           (SELECT last_id FROM walcast.subjects WHERE subject = $1),
           EXISTS (SELECT FROM walcast.lacking WHERE subject = $1 AND until > $3)
    FROM (VALUES (true)) AS asked LEFT JOIN walcast.fetch($1, $2, $3) AS found ON true";

/// The answer to [`FOREIGN`] for the message `id`.
pub(super) fn foreign(row: &Row, asked: MessageId) -> Result<Foreign, StoreError> {
    if value::<Option<Timestamp>>(row, 0)?.is_some() {
        return message(row).map(Foreign::Found);
    }
    let (mark, lacks) = (value::<Option<i32>>(row, 3)?, value::<bool>(row, 4)?);
    // The mark rises with the rows, in one transaction: what is up to it was published, and was kept if it was to be.
    let is_past = mark.is_some_and(|mark| mark >= asked.to_wire());
    Ok(if is_past && !lacks { Foreign::Gone } else { Foreign::Unknown })
}

fn value<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| errors::store(&error))
}

/// The times of a row that begins with published at and expires at.
fn times(row: &Row) -> Result<(UnixMicros, Expiration), StoreError> {
    let (Timestamp(published_at), Timestamp(expires_at)) = (value(row, 0)?, value(row, 1)?);
    let expiration = values::expiration(published_at, expires_at)
        .ok_or_else(|| errors::inconsistent("the times of a row were changed: its life time is not whole seconds"))?;
    Ok((published_at, expiration))
}

/// The message of a row that begins with published at, expires at and body.
pub(super) fn message(row: &Row) -> Result<StoredMessage, StoreError> {
    let (published_at, expiration) = times(row)?;
    Ok(StoredMessage { published_at, expiration, body: Bytes::copy_from_slice(value(row, 2)?) })
}

/// The id in this column.
pub(super) fn id(row: &Row, column: usize) -> Result<MessageId, StoreError> {
    MessageId::from_wire(value(row, column)?).ok_or_else(|| errors::inconsistent("an id below 1 is in a row"))
}

/// Messages of a subject in the order of their ids. The bodies lie in one piece of memory, not in one each.
#[derive(Debug, Default)]
pub(super) struct Page {
    bodies: BytesMut,
    rows: Vec<(MessageId, UnixMicros, Expiration, usize)>,
}

impl Page {
    /// Adds a row of [`AFTER`] or [`AHEAD`].
    pub(super) fn push(&mut self, row: &Row) -> Result<(), StoreError> {
        let ((published_at, expiration), body) = (times(row)?, value::<&[u8]>(row, 2)?);
        self.rows.push((id(row, 3)?, published_at, expiration, body.len()));
        self.bodies.extend_from_slice(body);
        Ok(())
    }

    /// Messages in it.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of their bodies.
    pub(super) fn bytes(&self) -> usize {
        self.bodies.len()
    }

    /// The last id.
    pub(super) fn last(&self) -> Option<MessageId> {
        self.rows.last().map(|(id, ..)| *id)
    }

    /// The messages.
    pub(super) fn into_messages(self) -> Vec<(MessageId, StoredMessage)> {
        let mut bodies = self.bodies.freeze();
        let message = |(id, published_at, expiration, bytes)| {
            (id, StoredMessage { published_at, expiration, body: bodies.split_to(bytes) })
        };
        self.rows.into_iter().map(message).collect()
    }
}
