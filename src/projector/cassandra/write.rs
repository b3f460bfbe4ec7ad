//! Rows and marks into the tables: many small inserts at once, a bounded number in flight ([`Pace`]).
//!
//! Each goes to a node that has its partition. Batches of the server would send them all to one node, to be handed on from there.

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use scylla::errors::ExecutionError;

use super::codec;
use super::config::Config;
use super::errors::{self, Fault};
use super::pace::Pace;
use super::schema;
use super::session::Database;
use crate::event::{MessageId, Projected, Subject, UnixMicros, clock};
use crate::projector::{ApplyError, HighWaterMark, Row, StoreError};

/// The write time of a mark in a cluster, in microseconds, before its id is added: September 2001. Beyond any position, so that the marks of
/// a broker that was alone are older, and before any clock, because servers may refuse what is in the future.
const MARKS_OF_A_CLUSTER: i64 = 1_000_000_000_000_000;

impl Database {
    /// Writes the rows; all are confirmed when it returns `Ok`. Writing them again changes nothing of them.
    pub(super) async fn write_messages(&self, rows: &[Row], config: &Config, pace: &Pace) -> Result<(), ApplyError> {
        let now = clock::now();
        let writes = rows.iter().map(|row| self.write_message(row, now));
        match all(writes, pace).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refusal(&error, config).await),
        }
    }

    /// Raises the marks; all are confirmed when it returns `Ok`. The write time is the position, so that a batch that comes
    /// late, from whoever, never lowers a mark. In a cluster it follows from the id: a subject may move to another node, whose log is not as
    /// far, and its marks must be newer than those of the log before.
    pub(super) async fn write_marks(
        &self,
        marks: &[HighWaterMark],
        projected: Projected,
        pace: &Pace,
    ) -> Result<(), StoreError> {
        let written_at = |mark: &HighWaterMark| match &self.lacking {
            Some(_) => MARKS_OF_A_CLUSTER + i64::from(mark.id.to_wire()),
            None => projected.sequence().get().cast_signed(),
        };
        let writes = marks.iter().map(|mark| self.write_mark(&mark.subject, mark.id, written_at(mark)));
        all(writes, pace).await.map_err(|error| errors::passing(&error))
    }

    /// Notes of which subjects a live message is missing, until when; all are confirmed when it returns `Ok`.
    pub(super) async fn note_lacking(&self, subjects: &[(Subject, UnixMicros)], pace: &Pace) -> Result<(), StoreError> {
        let Some(lacking) = &self.lacking else { return Ok(()) };
        let now = clock::now();
        let writes = subjects.iter().map(async |(subject, until)| {
            let values = (subject.as_str(), codec::timestamp_not_before(*until), codec::ttl_until(*until, now));
            self.session.execute_unpaged(&lacking.insert, values).await.map(drop)
        });
        all(writes, pace).await.map_err(|error| errors::passing(&error))
    }

    async fn write_message(&self, row: &Row, now: UnixMicros) -> Result<(), ExecutionError> {
        let (published_at, micros) = codec::timestamp(row.published_at);
        let (expires_at, _) = codec::timestamp(row.expiration.expires_at(row.published_at));
        let values = (
            row.subject.as_str(),
            codec::bucket(row.id),
            row.id.to_wire(),
            published_at,
            micros,
            row.expiration.seconds().cast_signed(),
            expires_at,
            &*row.body,
            // At most 16 MiB.
            row.body.len() as i32,
            codec::ttl(row.expiration, now),
            codec::write_time(row.published_at),
        );
        self.session.execute_unpaged(&self.insert_message, values).await.map(drop)
    }

    async fn write_mark(&self, subject: &Subject, id: MessageId, written_at: i64) -> Result<(), ExecutionError> {
        let values = (subject.as_str(), id.to_wire(), written_at);
        self.session.execute_unpaged(&self.insert_mark, values).await.map(drop)
    }

    /// What a failed insert means: only what is plainly the row's own fault rejects it.
    async fn refusal(&self, error: &ExecutionError, config: &Config) -> ApplyError {
        match errors::fault(error) {
            Fault::TooLarge(reason) => ApplyError::Rejected { reason },
            Fault::Invalid(reason) => match schema::check(&self.session, config, self.lacking.is_some()).await {
                Ok(()) => errors::unavailable(reason).into(),
                Err(altered) => altered.into(),
            },
            fault => errors::unavailable(fault.to_string()).into(),
        }
    }
}

/// Does all of `writes`, at `pace`. The first failure ends it; what is in flight then may be done or not.
fn all<'a, Write>(
    writes: impl ExactSizeIterator<Item = Write> + Send + 'a,
    pace: &'a Pace,
) -> BoxFuture<'a, Result<(), ExecutionError>>
where
    Write: Future<Output = Result<(), ExecutionError>> + Send + 'a,
{
    async move {
        let (count, in_flight) = (writes.len(), pace.in_flight());
        let written = stream::iter(writes).buffer_unordered(in_flight).try_collect().await;
        match &written {
            Ok(()) => pace.recover(count, in_flight),
            Err(error) if errors::is_too_much(error) => pace.slow_down(in_flight),
            Err(_) => {}
        }
        written
    }
    .boxed()
}
