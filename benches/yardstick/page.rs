//! The report as the tables of `docs/performance.md`. Between two marks of a name the page belongs to this command; all other
//! words on it are people's.

use std::path::Path;

use crate::cell::{Cell, Side};
use crate::figures::{Figure, Quantile};
use crate::pages::{Page, QUICK, machine, made, number, spread};
use crate::report::Report;
use crate::{Args, Failure};

/// What somebody asks first.
const HEADLINE: [Cell; 10] = [
    Cell::Publish,
    Cell::PublishForget,
    Cell::PublishAlone,
    Cell::Stream,
    Cell::StreamForget,
    Cell::Fetch,
    Cell::FetchCold,
    Cell::FanOut1,
    Cell::FanOut64,
    Cell::FanOut1000,
];

/// Writes the tables into a page.
///
/// # Errors
/// The page cannot be read or written, or has lost its marks.
pub fn write(report: &Report, args: &Args, page: &Path) -> Result<(), Failure> {
    let mut page = Page::open(page)?;
    page.put("settings", &settings(args)?)?;
    page.put("headline", &headline(report))?;
    page.put("floors", &floors(report))?;
    page.put("figures", &figures(report))?;
    page.put("deliveries", &deliveries(report))?;
    page.save()
}

fn settings(args: &Args) -> Result<String, Failure> {
    Ok(format!(
        "{}| | |\n|---|---|\n| Made | {} |\n| Machine | {} |\n| Rounds | {} of {} s a load, after half a second of warm-up |\n",
        if args.quick { QUICK } else { "" },
        made()?,
        machine(&args.data_root)?,
        args.rounds(),
        args.plan().measured.as_secs_f64(),
    ))
}

fn headline(report: &Report) -> String {
    let mut text = String::from(
        "| load | walcast, a second | noop, a second | rate, of noop's | client's ceiling, a second | server CPU, of noop's |\n",
    );
    text.push_str("|---|---|---|---|---|---|\n");
    for cell in HEADLINE.into_iter().filter(|cell| report.cells.contains(cell)) {
        let rate = |side| spread(&report.values(cell, side, Figure::Rate));
        let ratio = |figure| report.ratio(cell, figure).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        text.push_str(&format!(
            "| {cell} | {} | {} | {} | {} | {} |\n",
            rate(Side::Walcast),
            rate(Side::Noop),
            ratio(Figure::Rate),
            report.median(cell, Side::Walcast, Figure::Ceiling).map_or_else(|| "-".to_owned(), number),
            ratio(Figure::Cpu)
        ));
    }
    text
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
    let mut text =
        String::from("| load | system | rate/s | client's ceiling | p50 us | p99 us | server CPU us | peak MiB |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for &cell in &report.cells {
        for side in cell.rows() {
            let columns = [
                Figure::Rate,
                Figure::Ceiling,
                Figure::Call(Quantile::P50),
                Figure::Call(Quantile::P99),
                Figure::Cpu,
                Figure::PeakMemory,
            ];
            let columns = columns.map(|figure| match figure {
                Figure::Rate => format!(" {} |", spread(&report.values(cell, side, figure))),
                _ => format!(" {} |", report.median(cell, side, figure).map_or_else(|| "-".to_owned(), number)),
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
