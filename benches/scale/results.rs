//! What the rounds of an axis gave.

use std::collections::BTreeMap;

use crate::axis::{Side, System};
use crate::figures::{Figure, Measured, median};

/// By value and side, in the order of the rounds.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<(usize, Side), Vec<Measured>>);

impl Results {
    /// Adds a run.
    pub fn add(&mut self, value: usize, side: Side, measured: Measured) {
        self.0.entry((value, side)).or_default().push(measured);
    }

    /// All that was measured, the smallest value first.
    pub fn all(&self) -> impl Iterator<Item = (usize, Side)> {
        self.0.keys().copied()
    }

    /// The values of a figure; none where it was not measured.
    pub fn values(&self, value: usize, side: Side, figure: Figure) -> Vec<f64> {
        let rounds = self.0.get(&(value, side)).into_iter().flatten();
        rounds.filter_map(|measured| measured.get(figure)).collect()
    }

    /// The median of a figure's ratios to that of the server that does nothing, reached the same way in the same round.
    pub fn of_noop(&self, value: usize, side: Side, figure: Figure) -> f64 {
        let noop = self.values(value, Side { system: System::Noop, ..side }, figure);
        median(self.values(value, side, figure).into_iter().zip(noop).map(|(own, noop)| own / noop).collect())
    }
}
