//! What is written down of each call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tonic::Code;

use crate::telemetry::metrics::code_name;

/// Latencies are kept from a microsecond to this, with three digits: longer ones count as this.
const LATENCY_MAX_US: u64 = 600_000_000;

/// Latencies in microseconds.
pub type Latencies = Histogram<u64>;

/// A histogram for latencies.
pub fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are constants that hdrhistogram takes")
}

/// Adds a latency.
pub fn add(latencies: &mut Latencies, latency: Duration) {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_MAX_US);
    latencies.saturating_record(micros);
}

/// Calls of some connections that nobody has gathered yet. Their callers share it: a lock of a few nanoseconds beside a
/// call of microseconds.
#[derive(Debug)]
pub struct Record(Mutex<Calls>);

/// Records of a load. Some threads share each, and a thousand connections need no thousand histograms.
const RECORDS: usize = 16;

/// Where the calls of a load with so many connections are written down; connection n in the n-th, and round again.
pub fn records(connections: usize) -> Vec<Arc<Record>> {
    (0..connections.clamp(1, RECORDS)).map(|_| Arc::default()).collect()
}

/// Calls that were measured.
#[derive(Debug, Clone)]
pub struct Calls {
    /// Latencies of those that succeeded.
    pub latencies: Latencies,
    /// How late calls of an open loop began although there was a place for them: the client's own fault.
    pub late: Latencies,
    /// Those that failed, by their code.
    pub errors: BTreeMap<&'static str, u64>,
    /// When the last one ended.
    pub last: Option<Instant>,
}

impl Default for Record {
    fn default() -> Self {
        Self(Mutex::new(Calls::new()))
    }
}

impl Record {
    /// Writes a call down that was due at `due` and has ended just now.
    pub fn add(&self, due: Instant, outcome: Result<(), Code>) {
        self.add_all(std::iter::once((due, outcome)));
    }

    /// Writes down how late a call began that the client could have made when it was due.
    pub fn add_late(&self, late: Duration) {
        add(&mut self.0.lock().late, late);
    }

    /// Writes down calls that were due at these times and were answered together.
    pub fn add_all(&self, answered: impl Iterator<Item = (Instant, Result<(), Code>)>) {
        let now = Instant::now();
        let mut calls = self.0.lock();
        for (due, outcome) in answered {
            match outcome {
                Ok(()) => add(&mut calls.latencies, now.saturating_duration_since(due)),
                Err(code) => *calls.errors.entry(code_name(code)).or_default() += 1,
            }
            calls.last = Some(now);
        }
    }

    /// Takes away what was written down.
    pub fn take(&self) -> Calls {
        let empty = Calls::new();
        std::mem::replace(&mut *self.0.lock(), empty)
    }
}

impl Calls {
    /// None yet.
    pub fn new() -> Self {
        Self { latencies: latencies(), late: latencies(), errors: BTreeMap::new(), last: None }
    }

    /// Adds those of another record.
    pub fn merge(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("all histograms have the same bounds");
        self.late.add(&other.late).expect("all histograms have the same bounds");
        for (code, count) in &other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.last = self.last.max(other.last);
    }
}

/// What progress is made of, warm-up included.
#[derive(Debug, Default)]
pub struct Tally {
    /// Calls or deliveries that succeeded.
    pub done: AtomicU64,
    /// Calls that failed.
    pub failed: AtomicU64,
}

impl Tally {
    /// Counts one.
    pub fn add(&self, success: bool) {
        let counter = if success { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Successes and failures so far.
    pub fn read(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_add_up() {
        let (one, other) = (Record::default(), Record::default());
        let due = Instant::now();
        one.add(due, Ok(()));
        one.add(due, Err(Code::Unavailable));
        other.add(due, Err(Code::Unavailable));
        let mut all = one.take();
        all.merge(&other.take());
        assert_eq!((all.latencies.len(), all.errors.get("UNAVAILABLE")), (1, Some(&2)));
        assert!(all.last.is_some_and(|last| last >= due));
        assert_eq!(one.take().latencies.len(), 0, "what was taken is not there any more");
    }

    #[test]
    fn latencies_beyond_the_range_count_at_its_end() {
        let mut latencies = latencies();
        add(&mut latencies, Duration::ZERO);
        add(&mut latencies, Duration::from_secs(100_000));
        assert_eq!((latencies.min(), latencies.len()), (1, 2));
        assert!(latencies.max() >= LATENCY_MAX_US);
    }
}
