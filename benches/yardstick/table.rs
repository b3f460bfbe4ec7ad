//! The report for a terminal.

use crate::cell::Cell;
use crate::figures::{Figure, Quantile};
use crate::report::{ELSEWHERE, Report};

/// All figures, then the distributions, then the ratios and the floors.
pub fn table(report: &Report) -> String {
    let mut lines = vec![format!(
        "{:<20} {:<9} {:>10} {:>17} {:>9} {:>9} {:>10} {:>9}",
        "load", "system", "rate/s", "spread", "p50 us", "p99 us", "CPU us", "peak MiB"
    )];
    for &cell in &report.cells {
        figures(report, cell, &mut lines);
    }
    deliveries(report, &mut lines);
    lines.push(String::new());
    for &cell in &report.cells {
        ratios(report, cell, &mut lines);
    }
    for floor in report.floors() {
        let verdict = if report.holds(floor) { "kept" } else { "BROKEN" };
        let value = report.value(floor);
        lines.push(format!(
            "floor {}: {}, {}, {}: {value:.2}, {verdict}",
            floor.item, floor.cell, floor.what, floor.bound
        ));
    }
    lines.push(ELSEWHERE.to_owned());
    lines.push(String::new());
    lines.join("\n")
}

fn figures(report: &Report, cell: Cell, lines: &mut Vec<String>) {
    for side in cell.rows() {
        let of = |figure, digits| or_dash(report.median(cell, side, figure), digits);
        let mut rates = report.values(cell, side, Figure::Rate);
        rates.sort_by(f64::total_cmp);
        let spread = match (rates.first(), rates.last()) {
            (Some(lowest), Some(highest)) => format!("{lowest:.0}..{highest:.0}"),
            _ => "-".to_owned(),
        };
        lines.push(format!(
            "{:<20} {:<9} {:>10} {spread:>17} {:>9} {:>9} {:>10} {:>9}",
            cell.name(),
            cell.side_name(side),
            of(Figure::Rate, 0),
            of(Figure::Call(Quantile::P50), 0),
            of(Figure::Call(Quantile::P99), 0),
            of(Figure::Cpu, 2),
            of(Figure::PeakMemory, 0),
        ));
    }
}

/// Publish to delivery, of the cells that time it.
fn deliveries(report: &Report, lines: &mut Vec<String>) {
    let timed = report.cells.iter().filter(|cell| cell.is_timed() || **cell == Cell::Slow);
    for (place, &cell) in timed.enumerate() {
        if place == 0 {
            lines.push(String::new());
            let quantiles = Quantile::ALL.map(|quantile| format!(" {:>9}", quantile.name())).concat();
            lines.push(format!("{:<20} {:<9}{quantiles}", "publish to delivery", "us"));
        }
        for &side in cell.sides() {
            let quantiles = Quantile::ALL
                .map(|quantile| format!(" {:>9}", or_dash(report.median(cell, side, Figure::Delivery(quantile)), 0)));
            lines.push(format!("{:<20} {:<9}{}", cell.name(), cell.side_name(side), quantiles.concat()));
        }
    }
}

/// The medians of the last side as parts of those of the first.
fn ratios(report: &Report, cell: Cell, lines: &mut Vec<String>) {
    let &[first, last] = cell.sides() else { return };
    let of = |name: &str, figure| report.ratio(cell, figure).map(|ratio| format!("{name} {ratio:.2}"));
    let found: Vec<String> = [of("rate", Figure::Rate), of("server CPU", Figure::Cpu)].into_iter().flatten().collect();
    let (last, first) = (cell.side_name(last), cell.side_name(first));
    lines.push(format!("{:<20} {last} / {first}: {}", cell.name(), found.join(", ")));
}

fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
