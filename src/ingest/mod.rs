//! Ingest: from a validated publish to its durable ack.
//!
//! Owns admission in bytes ([`admission`]), the queue, the committer thread that numbers, encodes and
//! appends ([`committer`]), the ids of every subject ([`SubjectTable`]), the window of idempotency keys ([`Keys`]), the
//! checkpoint of both, and the acks,
//! which only a [`Durable`](crate::event::Durable) position releases.
//!
//! Must never wait for a database or a subscriber, and never answer before fdatasync has returned 0.

mod ack;
mod admission;
mod batch;
mod checkpoint;
mod committer;
mod frame;
mod idempotency;
mod publisher;
mod release;
mod repeats;
mod subjects;
mod take_over;
mod taking_over;
mod traced;

pub use admission::{Admission, AdmissionError};
pub use batch::{BATCH_PUBLISHES_MAX, BatchRoom, IntoOutcomes, Outcomes, PublishBatch, QueuedAnswer};
pub use checkpoint::{Checkpoint, CheckpointError, Checkpointer, KeysCheckpoint, forget_lost, restore_keys};
pub use committer::{CheckpointTrigger, Committer, CommitterError, CommitterMetrics};
pub use idempotency::{Fingerprint, Keys, KeysFull, Known, Snapshot, Window, WindowConfig};
pub use publisher::{Publish, PublishError, Publisher};
pub use release::{DurableBatch, DurableMessage, DurableSink, Releaser};
pub use subjects::{IdsExhausted, SubjectKey, SubjectTable};
pub use take_over::{Closed, HandedOver, HandedOverError, TakeOverError};

use std::time::Duration;

/// How ingest is set. Operators set these as `limits.*` and `log.*`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of publishes that are admitted and not yet durable.
    pub in_flight_bytes: usize,
    /// Publishes that wait for the committer. At least 32,768, so that a flood of small calls on one
    /// connection all succeed (contract.md).
    pub in_flight_publishes: usize,
    /// How long a publish waits for room before it is refused.
    pub admission_wait: Duration,
    /// Bytes of records in one frame of the log; at least one record of the largest body fits.
    pub frame_bytes_max: usize,
}

/// Records in one frame at most: with 256-byte bodies the frame stays below 4 MiB, and the acks of a
/// frame are released in well under a millisecond.
pub const FRAME_RECORDS_MAX: usize = 8_192;

/// What a publish costs in memory beside its subject and body while it is in flight: its task, its
/// channel, its entry in the hot tail and the allocations of both (measured: 210 to 250 bytes).
pub const PUBLISH_OVERHEAD_BYTES: usize = 256;

#[cfg(test)]
mod tests;
