//! What came of a fan-out.

use std::collections::BTreeMap;
use std::time::Instant;

use super::order::Faults;
use super::record::Latencies;

/// What the subscribers saw.
#[derive(Debug)]
pub struct Delivered {
    /// How many there were.
    pub subscribers: u32,
    /// From when a message was due until it was received; measured messages only.
    pub latencies: Latencies,
    /// When the last measured message was received.
    pub last: Option<Instant>,
    /// Lost, repeated, reordered.
    pub faults: Faults,
    /// How many of them are too many.
    pub max_faults: u64,
    /// Streams that the broker ended, by code.
    pub ended: BTreeMap<&'static str, u64>,
}
