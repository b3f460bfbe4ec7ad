//! The report as the tables of `docs/performance.md`. Between two marks of a name the page belongs to this command; all other
//! words on it are people's.

use std::fs;
use std::path::Path;

use crate::cell::Cell;
use crate::figures::{Figure, Quantile};
use crate::pages::{machine, number, replace};
use crate::report::Report;
use crate::{Args, Failure};

/// Writes the tables into a page.
///
/// # Errors
/// The page cannot be read or written, or has lost its marks.
pub fn write(report: &Report, args: &Args, page: &Path) -> Result<(), Failure> {
    let mut text = fs::read_to_string(page)?;
    replace(&mut text, "settings", &settings(args)?)?;
    replace(&mut text, "floors", &floors(report))?;
    replace(&mut text, "figures", &figures(report))?;
    replace(&mut text, "deliveries", &deliveries(report))?;
    Ok(fs::write(page, text)?)
}

fn settings(args: &Args) -> Result<String, Failure> {
    let warning = "**From a quick run: it shows that everything works, and its figures mean nothing.**\n\n";
    Ok(format!(
        "{}| | |\n|---|---|\n| Machine | {} |\n| Rounds | {} of {} s a load, after half a second of warm-up |\n",
        if args.quick { warning } else { "" },
        machine(&args.data_root)?,
        args.rounds(),
        args.plan().measured.as_secs_f64(),
    ))
}

fn floors(report: &Report) -> String {
    let mut text =
        String::from("| of the issue | load | figure | bound | measured | why |\n|---|---|---|---|---|---|\n");
    for floor in report.floors() {
        let value = report.value(floor);
        let verdict = if report.holds(floor) { "" } else { " **missed**" };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {value:.2}{verdict} | {} |\n",
            floor.item, floor.cell, floor.what, floor.bound, floor.reason
        ));
    }
    text
}

fn figures(report: &Report) -> String {
    let mut text = String::from("| load | system | rate/s | p50 us | p99 us | server CPU us | peak MiB |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    for &cell in &report.cells {
        for side in cell.rows() {
            let columns = [
                Figure::Rate,
                Figure::Call(Quantile::P50),
                Figure::Call(Quantile::P99),
                Figure::Cpu,
                Figure::PeakMemory,
            ];
            let columns = columns.map(|figure| {
                let values = report.values(cell, side, figure);
                let median = report.median(cell, side, figure).map_or_else(|| "-".to_owned(), number);
                let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                match figure {
                    Figure::Rate if values.len() > 1 => {
                        format!(" {median} ({} to {}) |", number(least), number(greatest))
                    }
                    _ => format!(" {median} |"),
                }
            });
            text.push_str(&format!("| {} | {} |{}\n", cell.name(), cell.side_name(side), columns.concat()));
        }
    }
    text
}

fn deliveries(report: &Report) -> String {
    let mut text = String::from("| load | system |");
    text.extend(Quantile::ALL.map(|quantile| format!(" {} |", quantile.name())));
    text.push_str("\n|---|---|---|---|---|---|---|\n");
    for &cell in report.cells.iter().filter(|cell| cell.is_timed() || **cell == Cell::Slow) {
        for &side in cell.sides() {
            let quantiles = Quantile::ALL.map(|quantile| {
                let median = report.median(cell, side, Figure::Delivery(quantile));
                format!(" {} |", median.map_or_else(|| "-".to_owned(), number))
            });
            text.push_str(&format!("| {} | {} |{}\n", cell.name(), cell.side_name(side), quantiles.concat()));
        }
    }
    text
}
