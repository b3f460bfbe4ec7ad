//! What a run of a cell gives: figures by name.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::Failure;

/// Longest latency that is told from longer ones, in microseconds: a minute.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Latencies in microseconds.
pub type Latencies = Histogram<u64>;

/// An empty histogram of latencies, exact to three digits.
pub fn latencies() -> Result<Latencies, Failure> {
    Ok(Histogram::new_with_max(LATENCY_MAX_US, 3)?)
}

/// A point of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantile {
    P50,
    P90,
    P99,
    P999,
    Max,
}

impl Quantile {
    /// From the median up.
    pub const ALL: [Self; 5] = [Self::P50, Self::P90, Self::P99, Self::P999, Self::Max];

    /// Its name in tables and in the JSON file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Max => "max",
        }
    }

    fn of(self, latencies: &Latencies) -> f64 {
        let micros = match self {
            Self::P50 => latencies.value_at_quantile(0.5),
            Self::P90 => latencies.value_at_quantile(0.9),
            Self::P99 => latencies.value_at_quantile(0.99),
            Self::P999 => latencies.value_at_quantile(0.999),
            Self::Max => latencies.max(),
        };
        micros as f64
    }
}

/// A figure of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Calls (with subscribers: deliveries) a second.
    Rate,
    /// Latency of a call, microseconds: in a closed loop from when it was sent, in an open one from when it was due.
    Call(Quantile),
    /// From when a publish was due until a subscriber had the message, microseconds.
    Delivery(Quantile),
    /// CPU of the server for a call (with subscribers: a delivery), microseconds, with all that the call causes later.
    Cpu,
    /// Calls a second that the client could make if it had all processors for itself: as many as its own CPU time for a call, in
    /// the same run, goes into them.
    Ceiling,
    /// CPU of Envoy for a call, microseconds.
    EnvoyCpu,
    /// CPU of the database for a call, microseconds, until it has what was published.
    DatabaseCpu,
    /// Seconds after the last call until the store had everything.
    Projected,
    /// Calls for each fdatasync of the log.
    Batch,
    /// Peak resident memory of the server, MiB.
    PeakMemory,
    /// What resident memory grew by during the load, MiB.
    Growth,
    /// What resident memory grew by for each subscriber, KiB.
    Subscriber,
    /// Part of the offered rate at which the calls were answered; below 1 a queue grew, and nothing was measured at that rate.
    Kept,
}

impl Figure {
    /// Its name in the JSON file, with its unit.
    pub fn key(self) -> String {
        match self {
            Self::Rate => "rate_per_s".to_owned(),
            Self::Call(quantile) => format!("{}_us", quantile.name()),
            Self::Delivery(quantile) => format!("delivery_{}_us", quantile.name()),
            Self::Cpu => "cpu_us".to_owned(),
            Self::Ceiling => "client_ceiling_per_s".to_owned(),
            Self::EnvoyCpu => "envoy_cpu_us".to_owned(),
            Self::DatabaseCpu => "database_cpu_us".to_owned(),
            Self::Projected => "projected_after_s".to_owned(),
            Self::Batch => "calls_per_fdatasync".to_owned(),
            Self::PeakMemory => "peak_mib".to_owned(),
            Self::Growth => "growth_mib".to_owned(),
            Self::Subscriber => "kib_per_subscriber".to_owned(),
            Self::Kept => "kept_of_offered".to_owned(),
        }
    }
}

/// What one run of a cell gave.
#[derive(Debug, Clone, Default)]
pub struct Measured(BTreeMap<Figure, f64>);

impl Measured {
    /// With one more figure.
    #[must_use]
    pub fn with(mut self, figure: Figure, value: f64) -> Self {
        self.0.insert(figure, value);
        self
    }

    /// With the client's ceiling: it has used so many CPU seconds for so many calls.
    #[must_use]
    pub fn with_client(self, cpu_seconds: f64, calls: u64) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.with(Figure::Ceiling, processors as f64 * calls as f64 / cpu_seconds)
    }

    /// With the quantiles of a histogram, as [`Figure::Call`] or [`Figure::Delivery`].
    #[must_use]
    pub fn with_latencies(mut self, figure: fn(Quantile) -> Figure, latencies: &Latencies) -> Self {
        self.0.extend(Quantile::ALL.map(|quantile| (figure(quantile), quantile.of(latencies))));
        self
    }

    /// A figure, if this run gives it.
    pub fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (Figure, f64)> {
        self.0.iter().map(|(figure, value)| (*figure, *value))
    }
}

/// The median; NaN of none, which keeps no bound.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
