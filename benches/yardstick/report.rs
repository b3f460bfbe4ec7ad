//! Medians, ratios and the floors they must keep.

use serde_json::{Value, json};

use crate::load::{Cell, Measured};
use crate::server::System;

/// A ratio of the broker to the server that does nothing that must not be crossed.
struct Floor {
    cell: Cell,
    what: &'static str,
    value: fn(&Measured) -> f64,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

const FLOORS: [Floor; 4] = [
    Floor { cell: Cell::Publish, what: "rate", value: |figure| figure.rate, bound: Bound::AtLeast(0.65) },
    Floor { cell: Cell::Publish, what: "server CPU a call", value: |figure| figure.cpu_us, bound: Bound::AtMost(1.8) },
    Floor { cell: Cell::Fetch, what: "rate", value: |figure| figure.rate, bound: Bound::AtLeast(0.85) },
    Floor { cell: Cell::FanOut, what: "rate", value: |figure| figure.rate, bound: Bound::AtLeast(0.85) },
];

/// The figures of all rounds.
pub struct Report {
    cells: Vec<Cell>,
    figures: Vec<(System, Cell, Measured)>,
}

impl Report {
    /// An empty one for these cells.
    pub fn new(cells: Vec<Cell>) -> Self {
        Self { cells, figures: Vec::new() }
    }

    /// Adds a round's figure.
    pub fn add(&mut self, system: System, cell: Cell, measured: Measured) {
        self.figures.push((system, cell, measured));
    }

    /// The values in the order of the rounds.
    fn values(&self, system: System, cell: Cell, value: fn(&Measured) -> f64) -> Vec<f64> {
        let of_both = self.figures.iter().filter(|(of, kind, _)| *of == system && *kind == cell);
        of_both.map(|(_, _, figure)| value(figure)).collect()
    }

    fn median(&self, system: System, cell: Cell, value: fn(&Measured) -> f64) -> f64 {
        median(self.values(system, cell, value))
    }

    /// The median of the rounds' ratios: both systems of a round met the same machine.
    fn ratio(&self, cell: Cell, value: fn(&Measured) -> f64) -> f64 {
        let noop = self.values(System::Noop, cell, value);
        let walcast = self.values(System::Walcast, cell, value);
        median(walcast.iter().zip(noop).map(|(walcast, noop)| walcast / noop).collect())
    }

    /// A row for each cell and system, then the ratios beside their floors.
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        lines.push(format!(
            "{:<20} {:<8} {:>10} {:>17} {:>9} {:>9} {:>10} {:>9}",
            "load", "system", "rate/s", "spread", "p50 us", "p99 us", "CPU us", "peak MiB"
        ));
        for &cell in &self.cells {
            for system in [System::Noop, System::Walcast] {
                let mut rates = self.values(system, cell, |figure| figure.rate);
                rates.sort_by(f64::total_cmp);
                let spread = match (rates.first(), rates.last()) {
                    (Some(lowest), Some(highest)) => format!("{lowest:.0}..{highest:.0}"),
                    _ => String::new(),
                };
                lines.push(format!(
                    "{:<20} {:<8} {:>10.0} {:>17} {:>9.0} {:>9.0} {:>10.2} {:>9.0}",
                    cell.name(),
                    system.to_string(),
                    self.median(system, cell, |figure| figure.rate),
                    spread,
                    self.median(system, cell, |figure| figure.p50_us),
                    self.median(system, cell, |figure| figure.p99_us),
                    self.median(system, cell, |figure| figure.cpu_us),
                    self.median(system, cell, |figure| figure.memory_mib),
                ));
            }
        }
        lines.push(String::new());
        for &cell in &self.cells {
            let rate = self.ratio(cell, |figure| figure.rate);
            let cpu = self.ratio(cell, |figure| figure.cpu_us);
            lines.push(format!("{:<20} walcast / noop: rate {rate:.2}, server CPU {cpu:.2}", cell.name()));
        }
        for floor in self.floors() {
            let ratio = self.ratio(floor.cell, floor.value);
            let (word, bound) = match floor.bound {
                Bound::AtLeast(bound) => ("at least", bound),
                Bound::AtMost(bound) => ("at most", bound),
            };
            let verdict = if floor.bound.holds(ratio) { "kept" } else { "BROKEN" };
            lines.push(format!("floor: {}, {} {word} {bound:.2}: {ratio:.2}, {verdict}", floor.cell, floor.what));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    fn floors(&self) -> impl Iterator<Item = &'static Floor> {
        FLOORS.iter().filter(|floor| self.cells.contains(&floor.cell))
    }

    /// One sentence for each floor that does not hold.
    pub fn beyond_floors(&self) -> Vec<String> {
        self.floors()
            .filter(|floor| !floor.bound.holds(self.ratio(floor.cell, floor.value)))
            .map(|floor| format!("{}: the {} is beyond its floor", floor.cell, floor.what))
            .collect()
    }

    /// Every round's figures.
    pub fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|(system, cell, figure)| {
                json!({
                    "system": system.to_string(), "load": cell.name(), "rate": figure.rate,
                    "p50_us": figure.p50_us, "p99_us": figure.p99_us, "cpu_us": figure.cpu_us,
                    "peak_mib": figure.memory_mib,
                })
            })
            .collect();
        let ratios: Vec<Value> = self
            .cells
            .iter()
            .map(|&cell| {
                json!({
                    "load": cell.name(), "rate": self.ratio(cell, |figure| figure.rate),
                    "cpu": self.ratio(cell, |figure| figure.cpu_us),
                })
            })
            .collect();
        json!({ "figures": figures, "ratios": ratios })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Bound {
    fn holds(&self, ratio: f64) -> bool {
        match *self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}
