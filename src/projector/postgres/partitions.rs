//! The partitions of `walcast.messages`: one for each time at which rows go together.
//!
//! A row is kept until the end of its [`BucketKey`], so partitions are listed by that end. Buckets of several classes that
//! end at the same instant share a partition; so no more than 119 hold live rows, and a broker with one life time has 3
//! to 9.
//!
//! A partition is made as a table and then attached: that takes no lock that a reader or another writer waits for. Dropping one
//! needs the table for a moment alone, so it waits for [`DROP_LOCK_TIMEOUT_MS`] at most and comes again later.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use tracing::{debug, warn};

use super::errors;
use crate::event::UnixMicros;
use crate::projector::bucket::BucketKey;
use crate::projector::{Row, StoreError};

/// How long dropping waits for readers, in milliseconds. New readers queue up behind it meanwhile, so it is short; a report that
/// runs for minutes only delays the drop.
const DROP_LOCK_TIMEOUT_MS: u32 = 100;

/// How long making a partition waits for somebody's VACUUM, ANALYZE or ALTER of the table, in milliseconds. Nobody waits
/// behind it but other changes of the schema.
const MAKE_LOCK_TIMEOUT_MS: u32 = 5_000;

/// Most partitions that one call drops: some 5 ms each. With life times of all classes in use less than two come to their
/// end between two calls.
const DROPS_MAX: usize = 8;

/// How long dropping may be held up before it is a reason to warn, in seconds: longer than reports take.
const LATE_SECONDS: i64 = 600;

/// "walcasv": the advisory lock by which the nodes of a cluster take turns to make partitions, and to drop them.
const LOCK: i64 = 0x0077_616C_6361_7376;

/// What precedes the end of a partition, in seconds, in its name.
const NAME_PREFIX: &str = "messages_until_";

/// Partitions that are there, by their ends in seconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    ends: BTreeSet<i64>,
    /// Whether it was said that expired ones cannot be dropped.
    warned: bool,
}

/// The end of the partition of a row; None if Postgres has no such time.
pub(super) fn end_of(row: &Row) -> Option<UnixMicros> {
    let end = BucketKey::of(row.published_at, row.expiration).end();
    (end.as_micros() % 1_000_000 == 0).then_some(end)
}

impl Partitions {
    /// Asks the database which there are.
    pub(super) async fn load(client: &Client) -> Result<Self, StoreError> {
        let children = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
                        WHERE i.inhparent = 'walcast.messages'::regclass";
        let rows = client.query_typed(children, &[]).await.map_err(|error| errors::store(&error))?;
        let names = rows.iter().filter_map(|row| row.try_get::<_, &str>(0).ok());
        // Another name is somebody else's partition, which is left alone.
        let ends = names.filter_map(|name| name.strip_prefix(NAME_PREFIX)?.parse().ok());
        Ok(Self { ends: ends.collect(), warned: false })
    }

    /// Makes those of `ends` that are missing, all or none. The nodes of a cluster take turns, and what another one has made
    /// meanwhile is let be.
    pub(super) async fn make(&mut self, client: &Client, ends: &BTreeSet<UnixMicros>) -> Result<(), StoreError> {
        let missing: Vec<i64> =
            ends.iter().map(|end| end.as_seconds()).filter(|end| !self.ends.contains(end)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut commands = format!(
            "SET LOCAL lock_timeout = {MAKE_LOCK_TIMEOUT_MS}; DO $make$ BEGIN PERFORM pg_advisory_xact_lock({LOCK});"
        );
        for end in &missing {
            // The number is the only part that is not a constant.
            let name = format!(r#"walcast."{NAME_PREFIX}{end}""#);
            commands.push_str(&format!(
                "IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'walcast.messages'::regclass \
                                AND inhrelid = to_regclass('{name}')) THEN \
                     CREATE TABLE IF NOT EXISTS {name} (LIKE walcast.messages INCLUDING ALL); \
                     ALTER TABLE walcast.messages ATTACH PARTITION {name} FOR VALUES IN (to_timestamp({end})); \
                 END IF;"
            ));
        }
        commands.push_str("END $make$;");
        client.batch_execute(&commands).await.map_err(|error| errors::store(&error))?;
        debug!(made = missing.len(), there = self.ends.len(), "made partitions");
        self.ends.extend(missing);
        Ok(())
    }

    /// Forgets which there are: they are asked for with the next batch.
    pub(super) async fn reload(&mut self, client: &Client) -> Result<(), StoreError> {
        self.ends = Self::load(client).await?.ends;
        Ok(())
    }

    /// Drops partitions whose rows have all expired at `now`, the oldest first. Those of nodes that are away, too.
    pub(super) async fn expire(&mut self, client: &Client, now: UnixMicros) -> Result<(), StoreError> {
        self.reload(client).await?;
        let ended = self.ends.iter().copied().filter(|end| *end <= now.as_seconds());
        let ended: Vec<i64> = ended.take(DROPS_MAX).collect();
        if ended.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = ended.iter().map(|end| format!(r#"walcast."{NAME_PREFIX}{end}""#)).collect();
        let command = format!(
            "SET LOCAL lock_timeout = {DROP_LOCK_TIMEOUT_MS}; SELECT pg_advisory_xact_lock({LOCK}); DROP TABLE IF EXISTS {};",
            names.join(", ")
        );
        match client.batch_execute(&command).await {
            Ok(()) => {
                debug!(dropped = ended.len(), "dropped expired partitions");
                self.warned = false;
                self.ends.retain(|end| !ended.contains(end));
                Ok(())
            }
            Err(error) if errors::is_locked(&error) => {
                self.held_up(ended[0], now);
                Ok(())
            }
            Err(error) => Err(errors::store(&error)),
        }
    }

    /// Somebody reads the messages. That is usual; that it goes on for long costs space, and is said once.
    fn held_up(&mut self, oldest: i64, now: UnixMicros) {
        debug!("somebody reads the messages; expired partitions are dropped later");
        let late_seconds = now.as_seconds().saturating_sub(oldest);
        if self.is_to_be_said(late_seconds) {
            warn!(
                partition = format!("walcast.{NAME_PREFIX}{oldest}"),
                late_seconds,
                "what has expired cannot be dropped, because somebody has been reading it; look for a transaction that was \
                 left open (pg_stat_activity)"
            );
        }
    }

    fn is_to_be_said(&mut self, late_seconds: i64) -> bool {
        late_seconds >= LATE_SECONDS && !std::mem::replace(&mut self.warned, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_up_for_long_is_said_once() {
        let mut partitions = Partitions::default();
        let said = [0, LATE_SECONDS - 1, LATE_SECONDS, LATE_SECONDS + 10].map(|late| partitions.is_to_be_said(late));
        assert_eq!(said, [false, false, true, false]);
    }
}
