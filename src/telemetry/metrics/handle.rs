//! Metrics as the rooms hold them: what the library has, and in a build for measuring nothing.
//!
//! The feature `no-telemetry` makes every observation of this file a no-op, so that `make bench-telemetry` can tell what
//! they cost. The series are exported as ever, and stand at 0.

use prometheus::core::{MetricVec, MetricVecBuilder};

use crate::telemetry::OFF;

/// A metric of the library's; a clone is the same metric.
#[derive(Debug, Clone)]
pub struct Handle<M>(pub(super) M);

/// Only rises.
pub type IntCounter = Handle<prometheus::IntCounter>;
/// A whole number.
pub type IntGauge = Handle<prometheus::IntGauge>;
/// A number.
pub type Gauge = Handle<prometheus::Gauge>;
/// Counts values by their size.
pub type Histogram = Handle<prometheus::Histogram>;

impl IntCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// Adds so many.
    pub fn inc_by(&self, count: u64) {
        if !OFF {
            self.0.inc_by(count);
        }
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl IntGauge {
    /// Is this now.
    pub fn set(&self, value: i64) {
        if !OFF {
            self.0.set(value);
        }
    }

    /// Adds one.
    pub fn inc(&self) {
        if !OFF {
            self.0.inc();
        }
    }

    /// Takes one off.
    pub fn dec(&self) {
        if !OFF {
            self.0.dec();
        }
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

impl Gauge {
    /// Is this now.
    pub fn set(&self, value: f64) {
        if !OFF {
            self.0.set(value);
        }
    }

    /// The value.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

impl Histogram {
    /// Counts a value.
    pub fn observe(&self, value: f64) {
        if !OFF {
            self.0.observe(value);
        }
    }
}

/// Metrics of one name, by their labels.
#[derive(Debug, Clone)]
pub(super) struct Family<V>(pub V);

impl<B: MetricVecBuilder> Family<MetricVec<B>> {
    /// The one with these values, in the order of its labels.
    pub fn with_label_values(&self, values: &[&str]) -> Handle<B::M> {
        Handle(self.0.with_label_values(values))
    }
}
