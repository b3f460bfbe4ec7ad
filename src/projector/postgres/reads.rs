//! What readers ask.
//!
//! Rows of partitions that ended are left out by `kept_until`; the others are one look into an index each. Planning that costs
//! more than doing it, so the one for Fetch is a function, whose plan stays with the server's session.

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::errors;
use super::values::{self, Timestamp};
use crate::event::MessageId;
use crate::projector::{StoreError, StoredMessage};

/// A row by (subject, id), unless it is expired.
pub(super) const FETCH: &str = "SELECT published_at, expires_at, body FROM walcast.fetch($1, $2, $3)";

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

/// The last id of a subject.
pub(super) const MARK: &str = "SELECT last_id FROM walcast.subjects WHERE subject = $1";

fn value<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| errors::store(&error))
}

/// The message of a row that begins with published at, expires at and body.
pub(super) fn message(row: &Row) -> Result<StoredMessage, StoreError> {
    let (Timestamp(published_at), Timestamp(expires_at)) = (value(row, 0)?, value(row, 1)?);
    let expiration = values::expiration(published_at, expires_at)
        .ok_or_else(|| errors::inconsistent("the times of a row were changed: its life time is not whole seconds"))?;
    Ok(StoredMessage { published_at, expiration, body: Bytes::copy_from_slice(value(row, 2)?) })
}

/// The id in this column.
pub(super) fn id(row: &Row, column: usize) -> Result<MessageId, StoreError> {
    MessageId::from_wire(value(row, column)?).ok_or_else(|| errors::inconsistent("an id below 1 is in a row"))
}
