//! What came of a fan-out.

use std::collections::BTreeMap;

use super::order::Faults;
use super::seconds::Series;

/// What the subscribers saw.
#[derive(Debug)]
pub struct Delivered {
    /// How many there were.
    pub subscribers: u32,
    /// From when a message was due until it was received; measured messages only.
    pub series: Series,
    /// Lost, repeated, reordered.
    pub faults: Faults,
    /// How many of them are too many.
    pub max_faults: u64,
    /// Streams that the broker ended, by code.
    pub ended: BTreeMap<String, u64>,
}
