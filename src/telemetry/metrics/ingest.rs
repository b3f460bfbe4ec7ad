//! Admission, the queue, batches and ids.

use super::define::{BYTES, Definitions, RECORDS, SECONDS};
use super::handle::{Histogram, IntCounter, IntGauge};

/// Why a publish got no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The subject, the expiration or the message itself breaks the contract.
    Invalid,
    /// The body is over `limits.body_bytes`.
    TooLarge,
    /// No permit within `limits.admission_wait`.
    QueueFull,
    /// `log.max_bytes` was reached.
    LogFull,
    /// The subject has used all its ids.
    IdsExhausted,
    /// `limits.subjects` was reached, and the subject is a new one.
    SubjectsFull,
    /// The idempotency key stands for another body.
    KeyTaken,
    /// The subject is of another node of the cluster.
    NotOwner,
    /// The slot of the subject is moving to another node.
    Moving,
    /// The node is stopping, or its log has failed.
    Unavailable,
}

const REJECTIONS: [&str; 10] = [
    "invalid",
    "too_large",
    "queue_full",
    "log_full",
    "ids_exhausted",
    "subjects_full",
    "key_taken",
    "not_owner",
    "moving",
    "unavailable",
];

/// Handles of the ingest room.
#[derive(Debug, Clone)]
pub struct IngestMetrics {
    rejections: [IntCounter; REJECTIONS.len()],
    /// Streams of publishes that are open.
    pub publish_streams: IntGauge,
    /// Publishes of streams that got an id.
    pub stream_publishes: IntCounter,
    /// Those that got none by the broker's fault.
    stream_failures: IntCounter,
    /// Bytes of publishes of streams that hold a permit.
    pub stream_bytes: IntGauge,
    /// Bytes of publishes that hold a permit.
    pub queue_bytes: IntGauge,
    /// Publishes that hold a permit.
    pub queue_publishes: IntGauge,
    /// Seconds that the oldest publish of a batch had waited in the queue, one observation per fdatasync.
    pub queue_wait: Histogram,
    /// Records of a batch, one observation per fdatasync.
    pub batch_records: Histogram,
    /// Bytes of a batch, one observation per fdatasync.
    pub batch_bytes: Histogram,
    /// Subjects that have an id.
    pub subjects: IntGauge,
    /// Subjects that have used 80 % of their ids.
    pub subjects_near_last_id: IntGauge,
    /// Publishes that were answered with the id of an earlier one.
    pub duplicates: IntCounter,
    /// Idempotency keys that are held.
    pub keys: IntGauge,
    /// Keys that were forgotten for want of room.
    pub keys_forgotten: IntCounter,
}

impl IngestMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        let rejections =
            define.counters("walcast_publishes_rejected_total", "Publishes that got no id, by reason.", &["reason"]);
        Self {
            rejections: REJECTIONS.map(|reason| rejections.with_label_values(&[reason])),
            publish_streams: define.gauge("walcast_publish_streams", "Streams of publishes that are open."),
            stream_publishes: define.counter(
                "walcast_stream_publishes_total",
                "Publishes of streams that were acknowledged, counted a batch at a time.",
            ),
            stream_failures: define.counter(
                "walcast_stream_publish_failures_total",
                "Publishes of streams that were refused as unavailable: by the broker's fault, not the caller's.",
            ),
            stream_bytes: define.gauge(
                "walcast_stream_queue_bytes",
                "Bytes of publishes of streams, admitted and not yet durable; in walcast_queue_bytes as well.",
            ),
            queue_bytes: define.gauge("walcast_queue_bytes", "Bytes of publishes admitted and not yet durable."),
            queue_publishes: define
                .gauge("walcast_queue_publishes", "Publishes that wait for the log; a batch of a stream is one."),
            queue_wait: define.histogram(
                "walcast_queue_wait_seconds",
                "Seconds that the oldest publish of a batch waited for the committer.",
                &SECONDS,
            ),
            batch_records: define.histogram("walcast_batch_records", "Records in a batch of the log.", &RECORDS),
            batch_bytes: define.histogram("walcast_batch_bytes", "Bytes in a batch of the log.", &BYTES),
            subjects: define.gauge("walcast_subjects", "Subjects that were published on."),
            subjects_near_last_id: define
                .gauge("walcast_subjects_near_last_id", "Subjects that have used 80 % of their ids."),
            duplicates: define.counter(
                "walcast_idempotency_duplicates_total",
                "Publishes whose key was known, answered with the id of the first.",
            ),
            keys: define.gauge("walcast_idempotency_keys", "Idempotency keys that are held."),
            keys_forgotten: define.counter(
                "walcast_idempotency_forgotten_total",
                "Idempotency keys that were forgotten before limits.idempotency_window for want of room.",
            ),
        }
    }

    /// Counts a publish that got no id.
    pub fn rejected(&self, rejection: Rejection) {
        self.rejections[rejection as usize].inc();
    }

    /// Counts a publish of a stream that got no id. `method_count` knows the streams and not their publishes, so those that
    /// failed by the broker's fault have a counter of their own.
    pub fn stream_rejected(&self, rejection: Rejection) {
        self.rejected(rejection);
        if rejection == Rejection::Unavailable {
            self.stream_failures.inc();
        }
    }
}
