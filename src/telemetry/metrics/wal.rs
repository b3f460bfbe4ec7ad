//! Positions, fsync and files of the log.

use prometheus::{Histogram, IntGauge, IntGaugeVec};

use super::define::{Definitions, SECONDS};

/// Handles of the log. The log itself is a plain library; who drives it observes.
#[derive(Debug, Clone)]
pub struct WalMetrics {
    /// The last record written.
    pub appended: IntGauge,
    /// The last record whose fdatasync returned 0.
    pub durable: IntGauge,
    /// The last record that the log no longer holds.
    pub trimmed: IntGauge,
    /// Seconds of each fdatasync.
    pub fsync_duration: Histogram,
    /// Bytes of all segment files.
    pub bytes: IntGauge,
    /// Segment files.
    pub files: IntGauge,
}

impl WalMetrics {
    pub(super) fn new(define: &Definitions<'_>, position: &IntGaugeVec) -> Self {
        Self {
            appended: position.with_label_values(&["appended"]),
            durable: position.with_label_values(&["durable"]),
            trimmed: position.with_label_values(&["trimmed"]),
            fsync_duration: define.histogram(
                "walcast_fsync_duration_seconds",
                "Seconds of an fdatasync of the log.",
                &SECONDS,
            ),
            bytes: define.gauge("walcast_log_bytes", "Bytes of all segment files of the log."),
            files: define.gauge("walcast_log_files", "Segment files of the log."),
        }
    }
}
