//! Messages out of the tables.

use bytes::Bytes;
use futures_util::future::try_join_all;
use scylla::value::CqlTimestamp;

use super::codec::{self, Columns};
use super::errors;
use super::session::{Database, rows};
use crate::event::{MessageId, Subject, UnixMicros};
use crate::projector::{StoreError, StoredMessage};

/// Rows of the first query of a run: with bodies of the default limit it is at most 8 MiB.
const ROWS_FIRST: usize = 8;

/// Rows of any further query.
const ROWS_MAX: usize = 1_000;

/// Bytes of bodies that a query aims at, judged by the largest body so far.
const QUERY_BYTES: usize = 4 * 1024 * 1024;

/// Buckets that are asked at once while they are empty: what was in them has expired.
const BUCKETS_AT_ONCE: u32 = 32;

/// A row of a run: its id, then what [`Columns`] has.
type Numbered = (i32, Option<CqlTimestamp>, Option<i16>, Option<i32>, Option<Bytes>);

/// A run of ids, how much of it is wanted, and how it goes on.
struct Run<'a> {
    subject: &'a Subject,
    /// The next id to look at; beyond `last` it is over.
    next: u32,
    last: u32,
    messages_max: usize,
    bytes_max: usize,
    now: UnixMicros,
    found: Vec<(MessageId, StoredMessage)>,
    bytes: usize,
    /// Bytes of the largest body so far; None before the first.
    largest: Option<usize>,
    /// Rows that were read and are no messages any more.
    expired: usize,
}

impl Database {
    /// The row of (subject, id), unless it is absent or expired at `now`.
    pub(super) async fn message(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError> {
        let values = (subject.as_str(), codec::bucket(id), id.to_wire());
        let answer = self.session.execute_unpaged(&self.select_message, values).await;
        let row = rows::<Columns>(answer)?.into_iter().next();
        Ok(row.and_then(codec::message).filter(|message| codec::is_live(message, now)))
    }

    /// The last id of a subject that was projected.
    pub(super) async fn mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        let answer = self.session.execute_unpaged(&self.select_mark, (subject.as_str(),)).await;
        let Some((mark,)) = rows::<(Option<i32>,)>(answer)?.into_iter().next() else { return Ok(None) };
        let mark = mark.ok_or_else(|| errors::inconsistent("a high-water mark is empty"))?;
        MessageId::from_wire(mark).map(Some).ok_or_else(|| errors::inconsistent(format!("a high-water mark is {mark}")))
    }

    /// The live rows above `after`, as [`crate::projector::Store::after`] has them.
    ///
    /// Not beyond the mark: what is above it is being written, in no order, and a later id may be there before an earlier one.
    pub(super) async fn messages_after(
        &self,
        subject: &Subject,
        after: u32,
        (messages_max, bytes_max): (usize, usize),
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        let last = self.mark(subject).await?.map_or(0, MessageId::get);
        let (next, found) = (after.saturating_add(1), Vec::new());
        let mut run =
            Run { subject, next, last, messages_max, bytes_max, now, found, bytes: 0, largest: None, expired: 0 };
        let mut buckets_at_once = 1;
        while !run.is_over() {
            let empty = self.extend(&mut run, buckets_at_once).await? == 0;
            buckets_at_once = if empty { BUCKETS_AT_ONCE.min(buckets_at_once * 2) } else { 1 };
        }
        Ok(run.found)
    }

    /// Asks the next `count` buckets, and takes what they have in order, up to the first that has more. Gives the number of
    /// rows, live or not.
    async fn extend(&self, run: &mut Run<'_>, count: u32) -> Result<usize, StoreError> {
        let first = run.next / codec::BUCKET_IDS;
        let buckets = first..=(first + (count - 1)).min(run.last / codec::BUCKET_IDS);
        let limit = run.rows_of_a_query();
        let (from, last) = (run.next, run.last);
        let subject = run.subject;
        let reads = buckets.map(|bucket| async move {
            let bucket = bucket.cast_signed();
            let (from, to) = codec::ids_of(bucket, from, last);
            let most = i32::try_from(limit).unwrap_or(i32::MAX);
            let values = (subject.as_str(), bucket, from.cast_signed(), to.cast_signed(), most);
            let answer = self.session.execute_unpaged(&self.select_messages, values).await;
            Ok::<_, StoreError>((to, rows::<Numbered>(answer)?))
        });
        let mut read = 0;
        for (to, rows) in try_join_all(reads).await? {
            read += rows.len();
            let more = (rows.len() == limit).then(|| rows.last().map(|(id, ..)| id.cast_unsigned())).flatten();
            run.take(rows)?;
            run.next = more.unwrap_or(to) + 1;
            if more.is_some() {
                break;
            }
        }
        Ok(read)
    }
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.next > self.last || self.is_full()
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.messages_max || self.bytes >= self.bytes_max
    }

    fn rows_of_a_query(&self) -> usize {
        let Some(largest) = self.largest else { return ROWS_FIRST };
        // Not more than is wanted, but as many as were met in vain: a long stretch of expired rows takes few queries.
        let wanted = self.messages_max.saturating_sub(self.found.len()).max(ROWS_FIRST).max(self.expired);
        (QUERY_BYTES / largest.max(1)).clamp(1, ROWS_MAX).min(wanted)
    }

    /// Takes the live rows, until what is wanted is there.
    fn take(&mut self, rows: Vec<Numbered>) -> Result<(), StoreError> {
        for (id, published_at, micros, expiration, body) in rows {
            let id = MessageId::from_wire(id).ok_or_else(|| errors::inconsistent(format!("a row has the id {id}")))?;
            let Some(message) = codec::message((published_at, micros, expiration, body)) else { continue };
            self.largest = self.largest.max(Some(message.body.len()));
            if !codec::is_live(&message, self.now) {
                self.expired += 1;
            } else if !self.is_full() {
                self.bytes += message.body.len();
                self.found.push((id, message));
            }
        }
        Ok(())
    }
}
