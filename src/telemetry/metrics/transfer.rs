//! Slots that move between nodes.

use super::define::Definitions;
use super::handle::{Gauge, IntCounter, IntGauge};

/// Handles of the transfer room.
#[derive(Debug, Clone)]
pub struct TransferMetrics {
    /// Slots of this node.
    pub slots_owned: IntGauge,
    /// Slots that were given to other nodes.
    pub given: IntCounter,
    /// Slots that other nodes gave to this one.
    pub taken: IntCounter,
    /// Moves from this node that failed.
    pub failed: IntCounter,
    /// Records that other nodes handed over.
    pub records: IntCounter,
    /// Seconds for which the last move from this node refused publishes.
    pub pause: Gauge,
}

impl TransferMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        Self {
            slots_owned: define
                .gauge("walcast_slots_owned", "Slots of the cluster that this node owns; 0 without a cluster."),
            given: define.counter("walcast_slots_given_total", "Slots that this node has given to other nodes."),
            taken: define.counter("walcast_slots_taken_total", "Slots that other nodes have given to this one."),
            failed: define.counter(
                "walcast_slot_moves_failed_total",
                "Moves of slots from this node that failed; it owns them as before.",
            ),
            records: define
                .counter("walcast_slot_records_total", "Records that other nodes have handed over with slots."),
            pause: define.fraction(
                "walcast_slot_pause_seconds",
                "Seconds for which publishes were refused in the last move of slots from this node.",
            ),
        }
    }
}
