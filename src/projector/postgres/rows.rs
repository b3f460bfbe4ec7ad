//! Rows and marks as arrays of columns, and the statements that take them.
//!
//! A batch is one statement, whatever its size: it moves the position if that is where it must be, and writes rows and marks only if
//! it did, so all of it is there or nothing. It needs no named statement. The writer puts it into a transaction with settings of its
//! own, one of which spares the planner the values, in one round trip; they end with the transaction, so it does the same behind a
//! pooler that gives each transaction another connection.

use std::collections::BTreeSet;

use tokio_postgres::types::Type;

use super::connection::Value;
use super::cursor::Identity;
use super::partitions;
use super::values::{self, Timestamp};
use crate::event::{Subject, UnixMicros};
use crate::projector::{HighWaterMark, Row};

/// Rows column by column, in the order of their key: neighbours in the index are then written one after the other.
#[derive(Debug, Default)]
pub(super) struct Columns<'a> {
    subjects: Vec<&'a str>,
    ids: Vec<i32>,
    sequences: Vec<i64>,
    published_at: Vec<Timestamp>,
    expires_at: Vec<Timestamp>,
    kept_until: Vec<Timestamp>,
    bodies: Vec<&'a [u8]>,
    /// The partitions that the rows go to.
    pub(super) ends: BTreeSet<UnixMicros>,
}

impl<'a> Columns<'a> {
    /// The rows, without those whose partition was dropped already, because it ended at or before `expired_at`.
    ///
    /// # Errors
    /// What Postgres would not give back as it was.
    pub(super) fn of(rows: &'a [Row], expired_at: UnixMicros) -> Result<Self, String> {
        let mut sorted: Vec<&Row> = rows.iter().collect();
        sorted.sort_unstable_by(|one, other| (&one.subject, one.id).cmp(&(&other.subject, other.id)));
        let mut columns = Self::default();
        for row in sorted {
            let (subject, id) = (row.subject.as_str(), row.id);
            let beyond = || format!("message {id} of {subject:?} expires at a time that Postgres does not have");
            let end = partitions::end_of(row).ok_or_else(beyond)?;
            let expires_at = row.expiration.expires_at(row.published_at);
            if values::expiration(row.published_at, expires_at) != Some(row.expiration) {
                return Err(beyond());
            }
            if end <= expired_at {
                continue;
            }
            columns.subjects.push(subject);
            columns.ids.push(id.to_wire());
            columns.sequences.push(row.sequence.get().cast_signed());
            columns.published_at.push(Timestamp(row.published_at));
            columns.expires_at.push(Timestamp(expires_at));
            columns.kept_until.push(Timestamp(end));
            columns.bodies.push(&row.body);
            columns.ends.insert(end);
        }
        Ok(columns)
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// As the values of `$1` to `$7`.
    pub(super) fn values(&self) -> [Value<'_>; 7] {
        [
            (&self.subjects, Type::TEXT_ARRAY),
            (&self.ids, Type::INT4_ARRAY),
            (&self.sequences, Type::INT8_ARRAY),
            (&self.published_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.expires_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.kept_until, Type::TIMESTAMPTZ_ARRAY),
            (&self.bodies, Type::BYTEA_ARRAY),
        ]
    }
}

/// High-water marks column by column.
#[derive(Debug)]
pub(super) struct Marks<'a> {
    subjects: Vec<&'a str>,
    last_ids: Vec<i32>,
}

impl<'a> Marks<'a> {
    pub(super) fn of(marks: &'a [HighWaterMark]) -> Self {
        Self {
            subjects: marks.iter().map(|mark| mark.subject.as_str()).collect(),
            last_ids: marks.iter().map(|mark| mark.id.to_wire()).collect(),
        }
    }
}

/// What a batch does beside its rows.
#[derive(Debug)]
pub(super) struct Move<'a> {
    pub(super) identity: &'a Identity,
    pub(super) connection: i64,
    pub(super) previous: i64,
    pub(super) projected: i64,
    pub(super) marks: Marks<'a>,
}

/// Rows of arrays that have a value for each row. In the list of a SELECT they come one by one; a function in FROM would first
/// write all of them down, and those of a large batch into a file.
macro_rules! insert_rows {
    () => {
        "INSERT INTO walcast.messages (subject, id, sequence, published_at, expires_at, kept_until, body) \
         SELECT unnest($1::text[]), unnest($2::int4[]), unnest($3::int8[]), unnest($4::timestamptz[]), \
                unnest($5::timestamptz[]), unnest($6::timestamptz[]), unnest($7::bytea[])"
    };
}

/// Read at the commit: one that may be lost in a crash of the server is none. A stronger setting stays.
macro_rules! commit_durably {
    () => {
        "CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END"
    };
}

macro_rules! apply {
    ($duplicates:literal) => {
        concat!(
            "WITH moved AS (
                UPDATE walcast.projection SET projected = $8, updated_at = now()
                WHERE projected = $9 AND log_id = $10 AND epoch = $11 AND holder = $12 AND connection = $13
                RETURNING projected
            ), written AS (",
            insert_rows!(),
            " FROM moved ",
            $duplicates,
            "), marked AS (
                INSERT INTO walcast.subjects AS known (subject, last_id)
                SELECT unnest($14::text[]), unnest($15::int4[]) FROM moved
                ON CONFLICT (subject) DO UPDATE SET last_id = excluded.last_id WHERE known.last_id < excluded.last_id
            )
            SELECT count(*), max(",
            commit_durably!(),
            ") FROM moved"
        )
    };
}

/// A batch. A row that is there already fails it.
pub(super) const APPLY: &str = apply!("");

/// A batch some of whose rows are there already, because a replay wrote them: those stay as they are.
pub(super) const APPLY_AGAIN: &str = apply!("ON CONFLICT (subject, id, kept_until) DO NOTHING");

/// Rows alone, as long as the row of the log is this connection's.
pub(super) const REWRITE: &str = concat!(
    "WITH held AS (
        SELECT FROM walcast.projection WHERE log_id = $8 AND epoch = $9 AND holder = $10 AND connection = $11 FOR SHARE
    ), written AS (",
    insert_rows!(),
    " FROM held ON CONFLICT (subject, id, kept_until) DO NOTHING) SELECT count(*), max(",
    commit_durably!(),
    ") FROM held"
);

/// Subjects of which a live message is missing. What is over, also for a clock that is behind, is swept out on the occasion.
pub(super) const NOTE_LACKING: &str = concat!(
    "WITH held AS (
        SELECT FROM walcast.projection WHERE log_id = $3 AND epoch = $4 AND holder = $5 AND connection = $6 FOR SHARE
    ), noted AS (
        INSERT INTO walcast.lacking AS known (subject, until)
        SELECT lacking.subject, max(lacking.until) FROM held, unnest($1::text[], $2::timestamptz[]) AS lacking (subject, until)
        GROUP BY 1
        ON CONFLICT (subject) DO UPDATE SET until = excluded.until WHERE known.until < excluded.until
    ), over AS (
        DELETE FROM walcast.lacking USING held WHERE until < now() - interval '1 day' AND subject <> ALL ($1)
    ) SELECT count(*), max(",
    commit_durably!(),
    ") FROM held"
);

/// Subjects with times, column by column.
#[derive(Debug)]
pub(super) struct Lacking<'a> {
    subjects: Vec<&'a str>,
    until: Vec<Timestamp>,
}

impl<'a> Lacking<'a> {
    pub(super) fn of(subjects: &'a [(Subject, UnixMicros)]) -> Self {
        let (subjects, until) = subjects.iter().map(|(subject, until)| (subject.as_str(), Timestamp(*until))).unzip();
        Self { subjects, until }
    }

    /// As the values of `$1` and `$2`.
    pub(super) fn values(&self) -> [Value<'_>; 2] {
        [(&self.subjects, Type::TEXT_ARRAY), (&self.until, Type::TIMESTAMPTZ_ARRAY)]
    }
}

impl Move<'_> {
    /// The values of [`APPLY`] with these rows.
    pub(super) fn values<'a>(&'a self, columns: &'a Columns<'a>) -> Vec<Value<'a>> {
        let mut values = Vec::from(columns.values());
        values.extend([(&self.projected as _, Type::INT8), (&self.previous as _, Type::INT8)]);
        values.extend(self.identity.values(&self.connection));
        values.extend([(&self.marks.subjects as _, Type::TEXT_ARRAY), (&self.marks.last_ids as _, Type::INT4_ARRAY)]);
        values
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{Expiration, MessageId, Sequence};

    fn row(subject: &str, id: u32, published_at: i64, life: i32) -> Row {
        Row {
            sequence: Sequence::new(1),
            subject: Subject::new(subject.to_owned()).expect("valid"),
            id: MessageId::new(id).expect("an id"),
            published_at: UnixMicros::from_micros(published_at),
            expiration: Expiration::from_wire(life).expect("not negative"),
            body: Bytes::new(),
        }
    }

    #[test]
    fn rows_lie_in_the_order_of_their_key_without_those_that_are_gone() {
        let rows = [row("b", 1, 0, 60), row("a", 2, 0, 3_600), row("a", 1, 0, 60), row("a", 3, 100_000_000, 60)];
        let columns = Columns::of(&rows, UnixMicros::from_micros(i64::MIN)).expect("within the range");
        assert_eq!((columns.subjects, columns.ids), (vec!["a", "a", "a", "b"], vec![1, 2, 3, 1]));
        assert_eq!(columns.ends.len(), 3);
        let columns = Columns::of(&rows, UnixMicros::from_micros(75_000_000)).expect("within the range");
        assert_eq!(columns.ids, [2, 3], "both others expired at 60 s and were dropped at 75 s");
    }

    #[test]
    fn times_that_would_not_come_back_are_refused() {
        for rows in [[row("a", 1, i64::MAX - 1, 60)], [row("a", 1, i64::MAX - 61_000_000, 60)]] {
            assert!(Columns::of(&rows, UnixMicros::default()).is_err_and(|reason| reason.contains("message 1")));
        }
    }
}
