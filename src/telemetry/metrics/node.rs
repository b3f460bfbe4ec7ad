//! The node as a whole: its limits, its checkpoints, how it started, and what it logged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::define::Definitions;
use super::handle::{Gauge, IntCounter, IntGauge};

/// A bound that some gauge is to be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `log.max_bytes`, of `walcast_log_bytes`.
    LogBytes,
    /// `limits.in_flight_bytes`, of `walcast_queue_bytes`.
    InFlightBytes,
    /// `limits.in_flight_publishes`, of `walcast_queue_publishes`.
    InFlightPublishes,
    /// `limits.publish_streams`, of `walcast_publish_streams`.
    PublishStreams,
    /// `limits.subjects`, of `walcast_subjects`.
    Subjects,
    /// `limits.idempotency_keys`, of `walcast_idempotency_keys`.
    IdempotencyKeys,
    /// `limits.subscribers`, of `active_subscribers`.
    Subscribers,
    /// `limits.delivery_bytes`, of `walcast_delivery_queue_bytes`.
    DeliveryBytes,
    /// `limits.hot_tail_bytes`, of `walcast_hot_tail_bytes`.
    HotTailBytes,
    /// What is taken of `limits.connections`, of `walcast_connections`.
    Connections,
    /// How many dead letters are kept, of `walcast_projector_dead_letters`.
    DeadLetters,
    /// `limits.forward_calls`, of `walcast_forwarded_in_flight`; for each other node.
    ForwardCalls,
    /// `limits.forward_bytes`, of `walcast_forwarded_in_flight_bytes`; for each other node.
    ForwardBytes,
}

const LIMITS: [&str; 13] = [
    "log_bytes",
    "in_flight_bytes",
    "in_flight_publishes",
    "publish_streams",
    "subjects",
    "idempotency_keys",
    "subscribers",
    "delivery_bytes",
    "hot_tail_bytes",
    "connections",
    "dead_letters",
    "forward_calls",
    "forward_bytes",
];

/// Handles of the node.
#[derive(Debug, Clone)]
pub struct NodeMetrics {
    limits: [IntGauge; LIMITS.len()],
    /// Checkpoints of ids and keys.
    pub checkpoints: CheckpointMetrics,
    /// Seconds that the start took to open the data directory.
    pub recovery_duration: Gauge,
    /// Records behind the checkpoint that the start read.
    pub recovered_records: IntGauge,
    /// Bytes of a torn write that the start cut off the log.
    pub torn_bytes: IntGauge,
    /// Log lines.
    pub lines: LineMetrics,
}

/// Handles of whoever writes log lines.
#[derive(Debug, Clone)]
pub struct LineMetrics {
    /// Lines of level WARN that were written.
    pub warnings: IntCounter,
    /// Lines of level ERROR that were written.
    pub errors: IntCounter,
    /// Lines of level INFO that were left out.
    pub suppressed_infos: IntCounter,
    /// Lines of level WARN that were left out.
    pub suppressed_warnings: IntCounter,
    /// Lines of level ERROR that were left out.
    pub suppressed_errors: IntCounter,
}

impl LineMetrics {
    fn new(define: &Definitions<'_>) -> Self {
        let written = define.counters("walcast_log_lines_total", "Log lines that were written, by level.", &["level"]);
        let suppressed = define.counters(
            "walcast_log_lines_suppressed_total",
            "Log lines that were left out because they repeat, by level.",
            &["level"],
        );
        Self {
            warnings: written.with_label_values(&["warn"]),
            errors: written.with_label_values(&["error"]),
            suppressed_infos: suppressed.with_label_values(&["info"]),
            suppressed_warnings: suppressed.with_label_values(&["warn"]),
            suppressed_errors: suppressed.with_label_values(&["error"]),
        }
    }
}

/// Handles of whoever takes checkpoints.
#[derive(Debug, Clone)]
pub struct CheckpointMetrics {
    duration: Gauge,
    failures: IntCounter,
    age: Gauge,
    /// The last one, or the start.
    last: Arc<Mutex<Instant>>,
}

impl CheckpointMetrics {
    /// Counts a checkpoint that was written.
    pub fn taken(&self, duration: Duration) {
        self.duration.set(duration.as_secs_f64());
        *self.last.lock() = Instant::now();
    }

    /// Counts one that was not.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// Shows how old the last one is now.
    pub fn show_age(&self) {
        self.age.set(self.last.lock().elapsed().as_secs_f64());
    }
}

impl NodeMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        let limits =
            define.gauges("walcast_limit", "What a gauge is bounded by, in the unit of that gauge.", &["limit"]);
        Self {
            limits: LIMITS.map(|limit| limits.with_label_values(&[limit])),
            checkpoints: CheckpointMetrics {
                duration: define
                    .fraction("walcast_checkpoint_duration_seconds", "Seconds to write the last ids checkpoint."),
                failures: define
                    .counter("walcast_checkpoint_failures_total", "Ids checkpoints that could not be written."),
                age: define.fraction(
                    "walcast_checkpoint_age_seconds",
                    "Seconds since the last ids checkpoint was written, or since the start.",
                ),
                last: Arc::new(Mutex::new(Instant::now())),
            },
            recovery_duration: define.fraction(
                "walcast_recovery_duration_seconds",
                "Seconds that the start took to open the data directory.",
            ),
            recovered_records: define
                .gauge("walcast_recovered_records", "Records behind the ids checkpoint that the start read."),
            torn_bytes: define
                .gauge("walcast_recovery_torn_bytes", "Bytes of an unfinished write that the start cut off the log."),
            lines: LineMetrics::new(define),
        }
    }

    /// Shows what a gauge is bounded by.
    pub fn limit(&self, limit: Limit, value: u64) {
        self.limits[limit as usize].set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}
