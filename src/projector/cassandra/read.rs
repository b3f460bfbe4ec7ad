//! Messages out of the tables.
//!
//! A run of a subject is read in two steps: first a list of what is there, with the lengths of the bodies, then the bodies of as many
//! as fit. So no answer is larger than [`QUERY_BYTES`], or one body where that is larger, whatever the bodies are. A read has
//! one answer in memory at a time, beside what it has found; how many there are at once follows from that
//! ([`super::config::Config::reads_at_once`]).

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::future::try_join_all;
use scylla::value::CqlTimestamp;

use super::codec::{self, Columns, Times};
use super::errors;
use super::session::{Database, rows};
use crate::event::{MessageId, Subject, UnixMicros};
use crate::projector::{Foreign, StoreError, StoredMessage};

/// Bytes of bodies in one answer, unless one body alone is larger. Some hundred bodies of a usual size: the way there and back
/// is a small part of the time then.
pub(super) const QUERY_BYTES: usize = 1024 * 1024;

/// Bodies of one query: what ScyllaDB takes by default (`max_clustering_key_restrictions_per_query`), and less than operators
/// of Cassandra usually allow.
const BODIES_MAX: usize = 100;

/// Messages that are listed at once, in all buckets together: some 60 KiB.
const LISTED_MAX: usize = 1_000;

/// Messages that are listed at least, whatever is wanted: who asks for one gets it although some before it have expired.
const LISTED_MIN: usize = 8;

/// Buckets that are asked at once while they are empty: what was in them has expired.
const BUCKETS_AT_ONCE: u32 = 32;

/// A row of a list: its id, then what [`Times`] has, then the length of its body.
type Listed = (i32, Option<CqlTimestamp>, Option<i16>, Option<i32>, Option<i32>);

/// A message that is there and live, without its body.
#[derive(Debug, Clone, Copy)]
struct Head {
    id: MessageId,
    kept: codec::Kept,
    /// None if the row was written by hand, or before there was a column for it.
    body_bytes: Option<usize>,
}

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
    /// Rows that were listed and are no messages any more.
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
        Ok(row.and_then(codec::message).filter(|message| codec::Kept::of(message).is_live(now)))
    }

    /// The last id of a subject that was projected.
    pub(super) async fn mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError> {
        let answer = self.session.execute_unpaged(&self.select_mark, (subject.as_str(),)).await;
        let Some((mark,)) = rows::<(Option<i32>,)>(answer)?.into_iter().next() else { return Ok(None) };
        let mark = mark.ok_or_else(|| errors::inconsistent("a high-water mark is empty"))?;
        MessageId::from_wire(mark).map(Some).ok_or_else(|| errors::inconsistent(format!("a high-water mark is {mark}")))
    }

    /// What is certain of a message of another node. The mark first: rows are written before their mark, and what is missing is noted
    /// before it, so whoever sees the mark sees those, too.
    pub(super) async fn foreign(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Foreign, StoreError> {
        let Some(lacking) = &self.lacking else { return Ok(Foreign::Unknown) };
        let is_past = self.mark(subject).await?.is_some_and(|mark| mark >= id);
        if let Some(message) = self.message(subject, id, now).await? {
            return Ok(Foreign::Found(message));
        }
        if !is_past {
            return Ok(Foreign::Unknown);
        }
        let answer = self.session.execute_unpaged(&lacking.select, (subject.as_str(),)).await;
        let until = rows::<(CqlTimestamp,)>(answer)?.into_iter().next();
        let lacks = until.is_some_and(|(until,)| until.0 >= codec::timestamp_not_before(now).0);
        Ok(if lacks { Foreign::Unknown } else { Foreign::Gone })
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
        let mut run = Run { subject, next, last, messages_max, bytes_max, now, found, bytes: 0, expired: 0 };
        let mut buckets_at_once = 1;
        while !run.is_over() {
            let heads = self.list(&mut run, buckets_at_once).await?;
            let is_empty = heads.is_empty();
            for (bucket, heads) in heads {
                self.read_bodies(&mut run, bucket, &heads).await?;
            }
            buckets_at_once = if is_empty { BUCKETS_AT_ONCE.min(buckets_at_once * 2) } else { 1 };
        }
        Ok(run.found)
    }

    /// Asks the next `count` buckets for what they have, in order, up to the first that has more, and goes on behind it. Gives the
    /// live ones of each bucket that has rows, live or not.
    async fn list(&self, run: &mut Run<'_>, count: u32) -> Result<Vec<(i32, Vec<Head>)>, StoreError> {
        let first = run.next / codec::BUCKET_IDS;
        let buckets = first..=(first + (count - 1)).min(run.last / codec::BUCKET_IDS);
        let limit = run.rows_of_a_list(count);
        let (subject, from, last) = (run.subject, run.next, run.last);
        let reads = buckets.map(|bucket| async move {
            let bucket = bucket.cast_signed();
            let (from, to) = codec::ids_of(bucket, from, last);
            let most = i32::try_from(limit).unwrap_or(i32::MAX);
            let values = (subject.as_str(), bucket, from.cast_signed(), to.cast_signed(), most);
            let answer = self.session.execute_unpaged(&self.list_messages, values).await;
            Ok::<_, StoreError>((bucket, to, rows::<Listed>(answer)?))
        });
        let mut heads = Vec::new();
        for (bucket, to, rows) in try_join_all(reads).await? {
            let more = (rows.len() == limit).then(|| rows.last().map(|(id, ..)| id.cast_unsigned())).flatten();
            if !rows.is_empty() {
                heads.push((bucket, run.live(rows)?));
            }
            run.next = more.unwrap_or(to) + 1;
            if more.is_some() {
                break;
            }
        }
        Ok(heads)
    }

    /// Reads the bodies of `heads`, until what is wanted is there.
    async fn read_bodies(&self, run: &mut Run<'_>, bucket: i32, heads: &[Head]) -> Result<(), StoreError> {
        let mut left = heads;
        while !left.is_empty() && !run.is_full() {
            let (together, rest) = left.split_at(run.rows_of_a_query(left));
            let ids: Vec<i32> = together.iter().map(|head| head.id.to_wire()).collect();
            let values = (run.subject.as_str(), bucket, ids);
            let answer = self.session.execute_unpaged(&self.select_bodies, values).await;
            let mut bodies: HashMap<i32, Option<Bytes>> = rows::<(i32, Option<Bytes>)>(answer)?.into_iter().collect();
            for head in together {
                // None if somebody deleted it, or the database removed it meanwhile.
                if let Some(body) = bodies.remove(&head.id.to_wire()).flatten() {
                    run.bytes += body.len();
                    run.found.push((head.id, head.kept.with(body)));
                }
            }
            left = rest;
        }
        Ok(())
    }
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.next > self.last || self.is_full()
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.messages_max || self.bytes >= self.bytes_max
    }

    /// Not more than is wanted, but as many as were met in vain: a long stretch of expired rows takes few queries.
    fn rows_of_a_list(&self, buckets: u32) -> usize {
        let wanted = self.messages_max.saturating_sub(self.found.len()).max(LISTED_MIN).max(self.expired);
        wanted.min(LISTED_MAX / buckets as usize)
    }

    /// The live ones of a list.
    fn live(&mut self, rows: Vec<Listed>) -> Result<Vec<Head>, StoreError> {
        let mut live = Vec::new();
        for (id, published_at, micros, expiration, body_bytes) in rows {
            let id = MessageId::from_wire(id).ok_or_else(|| errors::inconsistent(format!("a row has the id {id}")))?;
            let times: Times = (published_at, micros, expiration);
            match codec::Kept::from_columns(times).filter(|kept| kept.is_live(self.now)) {
                Some(kept) => {
                    let body_bytes = body_bytes.and_then(|bytes| usize::try_from(bytes).ok());
                    live.push(Head { id, kept, body_bytes });
                }
                None => self.expired += 1,
            }
        }
        Ok(live)
    }

    /// How many of `heads`, of which there is one at least, are read at once: none of them is known to be in vain, and their
    /// bodies have [`QUERY_BYTES`] at most, or it is one.
    fn rows_of_a_query(&self, heads: &[Head]) -> usize {
        let most = BODIES_MAX.min(self.messages_max - self.found.len());
        let (mut count, mut bytes) = (0, 0);
        for head in heads.iter().take(most) {
            // One of unknown length may be of any.
            let with_it = bytes + head.body_bytes.unwrap_or(QUERY_BYTES);
            if count > 0 && (with_it > QUERY_BYTES || self.bytes + bytes >= self.bytes_max) {
                break;
            }
            (count, bytes) = (count + 1, with_it);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Expiration;

    fn heads(lengths: &[Option<usize>]) -> Vec<Head> {
        let published_at = UnixMicros::from_micros(0);
        let kept = codec::Kept { published_at, expiration: Expiration::from_wire(60).expect("not negative") };
        let numbered = (1..).zip(lengths);
        numbered.map(|(id, bytes)| Head { id: MessageId::new(id).expect("an id"), kept, body_bytes: *bytes }).collect()
    }

    fn run(subject: &Subject, messages_max: usize, bytes_max: usize) -> Run<'_> {
        let now = UnixMicros::from_micros(1);
        Run { subject, next: 1, last: 9, messages_max, bytes_max, now, found: Vec::new(), bytes: 0, expired: 0 }
    }

    #[test]
    fn an_answer_has_a_mebibyte_or_one_body() {
        let subject = Subject::new("s".to_owned()).expect("valid");
        let half = Some(QUERY_BYTES / 2);
        let all = run(&subject, usize::MAX, usize::MAX);
        for (lengths, together) in [
            (vec![Some(16 << 20), Some(0)], 1),
            (vec![Some(0), Some(16 << 20)], 1),
            (vec![half, half, Some(1)], 2),
            (vec![half, half, Some(0), Some(1)], 3),
            (vec![None, Some(1)], 1),
            (vec![Some(1), None, Some(1)], 1),
            (vec![Some(1); 1_000], BODIES_MAX),
        ] {
            assert_eq!(all.rows_of_a_query(&heads(&lengths)), together, "{:?}", &lengths[..lengths.len().min(4)]);
        }
        // And none that is not wanted.
        let ten = heads(&[Some(10); 10]);
        assert_eq!(run(&subject, 3, usize::MAX).rows_of_a_query(&ten), 3);
        assert_eq!(run(&subject, 100, 20).rows_of_a_query(&ten), 2);
        assert_eq!(run(&subject, 100, 21).rows_of_a_query(&ten), 3);
        assert_eq!(run(&subject, 100, 1).rows_of_a_query(&ten), 1);
    }

    #[test]
    fn a_list_has_at_most_a_thousand_rows_in_all_buckets() {
        let subject = Subject::new("s".to_owned()).expect("valid");
        let mut run = run(&subject, usize::MAX, usize::MAX);
        assert_eq!(run.rows_of_a_list(1), LISTED_MAX);
        assert!(run.rows_of_a_list(BUCKETS_AT_ONCE) * BUCKETS_AT_ONCE as usize <= LISTED_MAX);
        run.messages_max = 1;
        assert_eq!(run.rows_of_a_list(1), LISTED_MIN);
        run.expired = 500;
        assert_eq!(run.rows_of_a_list(1), 500);
    }
}
