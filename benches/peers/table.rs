//! The table: medians, how far the rounds were apart, and ratios within a round.

use std::collections::BTreeMap;

use crate::figures::{Figure, Measured, Quantile, median};
use crate::pages::{number, spread};
use crate::{Args, Failure, Load, System};

/// What each round gave, in order.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<(Load, System), Vec<Measured>>);

impl Results {
    /// Adds a run.
    pub fn add(&mut self, load: Load, system: System, measured: Measured) {
        self.0.entry((load, system)).or_default().push(measured);
    }

    fn values(&self, load: Load, system: System, figure: Figure) -> Vec<f64> {
        let rounds = self.0.get(&(load, system)).into_iter().flatten();
        rounds.filter_map(|measured| measured.get(figure)).collect()
    }

    /// The block of the page.
    pub fn markdown(&self, args: &Args, loads: &[Load]) -> Result<String, Failure> {
        let mut text = format!("{}\n\n", args.settings()?);
        text.push_str("| connections x in flight | system | protocol | publishes/s | of the server that does nothing | client's ceiling | p50 us | p99 us | server CPU us |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|\n");
        for &load in loads {
            for system in System::ALL {
                let rates = self.values(load, system, Figure::Rate);
                if rates.is_empty() {
                    continue;
                }
                let noop = self.values(load, System::Noop, Figure::Rate);
                let ratios: Vec<f64> = rates.iter().zip(&noop).map(|(rate, noop)| rate / noop).collect();
                let ratio = if ratios.is_empty() { "-".to_owned() } else { format!("{:.2}", median(ratios)) };
                let of = |figure| number(median(self.values(load, system, figure)));
                text.push_str(&format!(
                    "| {} x {} | {} | {} | {} | {ratio} | {} | {} | {} | {} |\n",
                    load.connections,
                    load.in_flight,
                    system.title(),
                    system.protocol(),
                    spread(&rates),
                    of(Figure::Ceiling),
                    of(Figure::Call(Quantile::P50)),
                    of(Figure::Call(Quantile::P99)),
                    of(Figure::Cpu),
                ));
            }
        }
        Ok(text)
    }
}
