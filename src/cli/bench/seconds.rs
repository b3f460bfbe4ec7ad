//! Calls second by second.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::record::{Calls, Latencies};

/// What was answered within one second, or what was left of it at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Its end, in seconds after the measurement began.
    pub at: f64,
    /// Calls that succeeded.
    pub count: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Calls that succeeded, a second.
    pub rate: f64,
    /// Their latencies; none where there is no call.
    pub latency_us: Option<Percentiles>,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of them are no longer.
    pub p50: u64,
    /// Nine of ten.
    pub p90: u64,
    /// Ninety-nine of a hundred.
    pub p99: u64,
    /// All but one of a thousand.
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
}

impl Percentiles {
    /// Those of a histogram; zeros if it is empty.
    pub fn of(latencies: &Latencies) -> Self {
        let at = |quantile| latencies.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: latencies.max() }
    }

    /// All of them, from the median on.
    pub fn each(&self) -> [u64; 5] {
        [self.p50, self.p90, self.p99, self.p99_9, self.max]
    }
}

/// Calls of one kind: their sum, and second by second.
#[derive(Debug, Clone)]
pub struct Series {
    /// When the measurement began.
    pub from: Instant,
    /// All of them.
    pub total: Calls,
    /// Second by second.
    pub seconds: Vec<Second>,
    until: Instant,
}

/// A rest that is shorter than this is added to the second before: its rate would be that of chance.
const REST_MIN: Duration = Duration::from_millis(500);

impl Series {
    /// No call yet.
    pub fn new(from: Instant) -> Self {
        Self { from, total: Calls::new(), seconds: Vec::new(), until: from }
    }

    /// Adds what was answered until `now`.
    pub fn add(&mut self, calls: &Calls, now: Instant) {
        let span = now.saturating_duration_since(self.until).as_secs_f64();
        let count = calls.latencies.len();
        self.total.merge(calls);
        self.until = now;
        self.seconds.push(Second {
            at: now.saturating_duration_since(self.from).as_secs_f64(),
            count,
            errors: calls.errors.values().sum(),
            rate: if span > 0.0 { count as f64 / span } else { 0.0 },
            latency_us: (count > 0).then(|| Percentiles::of(&calls.latencies)),
        });
    }

    /// Adds what was answered between the last full second and the last answer.
    pub fn add_rest(&mut self, calls: &Calls) {
        let Some(last) = calls.last else { return };
        if last.saturating_duration_since(self.until) >= REST_MIN || self.seconds.is_empty() {
            self.add(calls, last);
            return;
        }
        self.total.merge(calls);
        let before = self.seconds.iter().rev().nth(1).map_or(0.0, |second| second.at);
        if let Some(second) = self.seconds.last_mut() {
            second.at = second.at.max(last.saturating_duration_since(self.from).as_secs_f64());
            second.count += calls.latencies.len();
            second.errors += calls.errors.values().sum::<u64>();
            second.rate = second.count as f64 / (second.at - before).max(f64::MIN_POSITIVE);
            second.latency_us = second.latency_us.or_else(|| Some(Percentiles::of(&calls.latencies)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::add;
    use super::*;

    fn calls(count: u64, micros: u64, last: Instant) -> Calls {
        let mut calls = Calls::new();
        (0..count).for_each(|_| add(&mut calls.latencies, Duration::from_micros(micros)));
        calls.last = Some(last);
        calls
    }

    #[test]
    fn each_second_has_its_own_rate_and_latencies() {
        let from = Instant::now();
        let after = |millis| from + Duration::from_millis(millis);
        let mut series = Series::new(from);
        series.add(&calls(10, 100, after(1000)), after(1000));
        series.add(&calls(30, 9000, after(2500)), after(2500));
        series.add(&Calls::new(), after(3500));
        let rates: Vec<f64> = series.seconds.iter().map(|second| second.rate).collect();
        assert_eq!(rates, [10.0, 20.0, 0.0]);
        let p50: Vec<_> = series.seconds.iter().map(|second| second.latency_us.map(|found| found.p50 / 1000)).collect();
        assert_eq!(p50, [Some(0), Some(9), None]);
        assert_eq!(series.total.latencies.len(), 40);
    }

    #[test]
    fn a_short_rest_belongs_to_the_last_second() {
        let from = Instant::now();
        let after = |millis| from + Duration::from_millis(millis);
        let mut series = Series::new(from);
        series.add(&calls(10, 100, after(1000)), after(1000));
        series.add_rest(&calls(2, 100, after(1200)));
        assert_eq!((series.seconds.len(), series.seconds[0].count), (1, 12));
        assert!((series.seconds[0].rate - 10.0).abs() < 1e-9, "{:?}", series.seconds);
        series.add_rest(&calls(6, 100, after(1900)));
        series.add_rest(&Calls::new());
        assert_eq!((series.seconds.len(), series.total.latencies.len()), (2, 18));
    }
}
