//! From the log to the store.

use super::define::{Definitions, Gauges, IntGauges, RECORDS, SECONDS, SECONDS_COARSE};
use super::handle::{Gauge, Histogram, IntCounter, IntGauge};

/// The kinds of store, in the words of the configuration.
const KINDS: [&str; 4] = ["embedded", "postgres", "cassandra", "none"];

/// Handles of the projector.
#[derive(Debug, Clone)]
pub struct ProjectorMetrics {
    /// The last record that the store has committed.
    pub projected: IntGauge,
    /// When the last projected record was published, in seconds since 1970; set once a batch.
    pub projected_timestamp: Gauge,
    /// 1 if the store answered last, whoever asked, and projection does not wait for it.
    pub store_up: IntGauge,
    kinds: [IntGauge; KINDS.len()],
    /// Age in seconds of the oldest record of each batch when the store has it.
    pub age: Histogram,
    /// Records that are durable and not projected.
    pub lag_records: IntGauge,
    /// Age in seconds of the oldest record that is durable and not projected; 0 if there is none.
    pub lag_seconds: Gauge,
    /// Seconds of each batch that the store applied.
    pub batch_duration: Histogram,
    /// Rows of each batch that the store applied.
    pub batch_rows: Histogram,
    /// Batches that were tried again.
    pub retries: IntCounter,
    /// Times that the store was found behind what it had confirmed.
    pub setbacks: IntCounter,
    /// Messages that the store did not take.
    pub dead_letters: IntGauge,
}

impl ProjectorMetrics {
    pub(super) fn new(define: &Definitions<'_>, position: &IntGauges, timestamp: &Gauges) -> Self {
        let kinds =
            define.gauges("walcast_store_info", "1 for the kind of store that runs, 0 for the others.", &["kind"]);
        Self {
            projected: position.with_label_values(&["projected"]),
            projected_timestamp: timestamp.with_label_values(&["projected"]),
            store_up: define.gauge(
                "walcast_store_up",
                "1 if the store answered the last call, 0 if it did not or projection waits for it.",
            ),
            kinds: KINDS.map(|kind| kinds.with_label_values(&[kind])),
            age: define.histogram(
                "walcast_projection_age_seconds",
                "Age of the oldest record of a batch when the store had it.",
                &SECONDS_COARSE,
            ),
            lag_records: define.gauge("walcast_projector_lag_records", "Records that are durable and not projected."),
            lag_seconds: define.fraction(
                "walcast_projector_lag_seconds",
                "Age of the oldest record that is durable and not projected, 0 if there is none.",
            ),
            batch_duration: define.histogram(
                "walcast_store_batch_duration_seconds",
                "Seconds until the store had applied a batch.",
                &SECONDS,
            ),
            batch_rows: define.histogram("walcast_store_batch_rows", "Rows in a batch for the store.", &RECORDS),
            retries: define.counter("walcast_store_retries_total", "Batches that were tried again on the store."),
            setbacks: define.counter(
                "walcast_store_setbacks_total",
                "Times that the store was found behind what it had confirmed, and was brought up from the log.",
            ),
            dead_letters: define
                .gauge("walcast_projector_dead_letters", "Messages that the store did not take, set aside."),
        }
    }

    /// Shows which kind of store runs, by its word of the configuration.
    pub fn show_kind(&self, kind: &str) {
        for (name, gauge) in KINDS.iter().zip(&self.kinds) {
            gauge.set(i64::from(*name == kind));
        }
    }
}
