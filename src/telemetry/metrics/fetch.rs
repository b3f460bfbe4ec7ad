//! Where Fetch found what it answered.

use std::time::Duration;

use super::define::{Definitions, SECONDS_COARSE};
use super::handle::{Histogram, IntCounter, IntGauge};

/// What answered a Fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The message was in memory.
    Hot,
    /// The message was in the log.
    Log,
    /// The message was in the store.
    Store,
    /// The id was issued and the message is no longer kept.
    Expired,
    /// The id was never issued.
    NeverPublished,
}

const SOURCES: [&str; 5] = ["hot", "log", "store", "expired", "never_published"];

/// Handles of the fetch room.
#[derive(Debug, Clone)]
pub struct FetchMetrics {
    fetches: [IntCounter; SOURCES.len()],
    store_read_duration: Histogram,
    store_read_failures: IntCounter,
    /// Bytes of messages in memory.
    pub hot_tail_bytes: IntGauge,
    /// Bytes of the log's index in memory.
    pub index_memory_bytes: IntGauge,
    /// Bytes of the log's index in files.
    pub index_file_bytes: IntGauge,
    /// Records of the log that are not indexed yet.
    pub index_gap_records: IntGauge,
}

impl FetchMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        let fetches =
            define.counters("walcast_fetches_total", "Fetches that were answered, by what answered.", &["source"]);
        Self {
            fetches: SOURCES.map(|source| fetches.with_label_values(&[source])),
            store_read_duration: define.histogram(
                "walcast_store_read_duration_seconds",
                "Seconds until the store had answered the read of a message for Fetch, or failed to.",
                &SECONDS_COARSE,
            ),
            store_read_failures: define.counter(
                "walcast_store_read_failures_total",
                "Reads of a message for Fetch that the store did not answer.",
            ),
            hot_tail_bytes: define
                .gauge("walcast_hot_tail_bytes", "Bytes of recent messages kept in memory for Fetch."),
            index_memory_bytes: define.gauge("walcast_index_memory_bytes", "Bytes of the log's index in memory."),
            index_file_bytes: define.gauge("walcast_index_file_bytes", "Bytes of the log's index in files."),
            index_gap_records: define
                .gauge("walcast_index_gap_records", "Records of the log that are not indexed yet."),
        }
    }

    /// Counts a read of one message from the store.
    pub fn store_read(&self, duration: Duration, answered: bool) {
        self.store_read_duration.observe(duration.as_secs_f64());
        if !answered {
            self.store_read_failures.inc();
        }
    }

    /// Counts an answer.
    pub fn answered(&self, source: Source) {
        self.fetches[source as usize].inc();
    }
}
