//! Positions, fsync and files of the log.

use super::define::{Definitions, Gauges, IntGauges, SECONDS};
use super::handle::{Gauge, Histogram, IntCounter, IntGauge};

/// Handles of the log. The log itself is a plain library; who drives it observes.
#[derive(Debug, Clone)]
pub struct WalMetrics {
    /// The last record written.
    pub appended: IntGauge,
    /// The last record whose fdatasync returned 0.
    pub durable: IntGauge,
    /// The last record that the log no longer holds.
    pub trimmed: IntGauge,
    /// When the last durable record was published, in seconds since 1970; set once a frame.
    pub durable_timestamp: Gauge,
    /// Seconds of each fdatasync.
    pub fsync_duration: Histogram,
    /// Seconds from when a frame was taken from the queue to its durability.
    pub commit_duration: Histogram,
    /// 1 once a write or an fdatasync has failed.
    pub failed: IntGauge,
    /// Failures of the log of this data directory, those of earlier processes too.
    pub failures: FailureMetrics,
    /// Bytes of all segment files.
    pub bytes: IntGauge,
    /// Segment files.
    pub files: IntGauge,
    /// Bytes of the log's file system that are free for the broker.
    pub disk_free: IntGauge,
    /// Bytes of that file system.
    pub disk_total: IntGauge,
}

/// Handles of whoever knows of failures.
#[derive(Debug, Clone)]
pub struct FailureMetrics {
    count: IntCounter,
    last: Gauge,
}

impl FailureMetrics {
    /// Adds `count` failures, the last of which was at `last`, in seconds since 1970; 0 if nobody knows.
    pub fn add(&self, count: u64, last: f64) {
        self.count.inc_by(count);
        self.last.set(last);
    }
}

impl WalMetrics {
    pub(super) fn new(define: &Definitions<'_>, position: &IntGauges, timestamp: &Gauges) -> Self {
        Self {
            appended: position.with_label_values(&["appended"]),
            durable: position.with_label_values(&["durable"]),
            trimmed: position.with_label_values(&["trimmed"]),
            durable_timestamp: timestamp.with_label_values(&["durable"]),
            fsync_duration: define.histogram(
                "walcast_fsync_duration_seconds",
                "Seconds of an fdatasync of the log.",
                &SECONDS,
            ),
            commit_duration: define.histogram(
                "walcast_commit_duration_seconds",
                "Seconds to make room for a batch in the log, encode it, append it and sync it.",
                &SECONDS,
            ),
            failures: FailureMetrics {
                count: define.counter(
                    "walcast_log_failures_total",
                    "Times that the log of this data directory has failed, in earlier processes too.",
                ),
                last: define.fraction(
                    "walcast_log_last_failure_timestamp_seconds",
                    "When the log of this data directory failed last, in seconds since 1970; 0 if it is not known to have.",
                ),
            },
            failed: define.gauge("walcast_log_failed", "1 once the log has failed and takes nothing any more, else 0."),
            bytes: define.gauge("walcast_log_bytes", "Bytes of all segment files of the log."),
            files: define.gauge("walcast_log_files", "Segment files of the log."),
            disk_free: define.gauge(
                "walcast_disk_free_bytes",
                "Bytes that are free for the broker in the file system of the data directory.",
            ),
            disk_total: define
                .gauge("walcast_disk_total_bytes", "Bytes of the file system of the data directory, free or not."),
        }
    }
}
