//! From the log to the store.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, IntGaugeVec};

use super::define::{Definitions, RECORDS, SECONDS};

/// Handles of the projector.
#[derive(Debug, Clone)]
pub struct ProjectorMetrics {
    /// The last record that the store has committed.
    pub projected: IntGauge,
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
    pub(super) fn new(define: &Definitions<'_>, position: &IntGaugeVec) -> Self {
        Self {
            projected: position.with_label_values(&["projected"]),
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
}
