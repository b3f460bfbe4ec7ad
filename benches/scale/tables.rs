//! The tables of the page.

use crate::Failure;
use crate::axis::{Axis, Side, System};
use crate::figures::{Figure, Quantile, median};
use crate::pages::{number, spread};
use crate::results::Results;

/// A column: its head, and what stands in the row of a value and a side.
type Column = (String, Box<dyn Fn(&Results, usize, Side) -> String>);

/// The table of an axis.
///
/// # Errors
/// Nothing was measured.
pub fn table(axis: Axis, results: &Results) -> Result<String, Failure> {
    let columns = columns(axis);
    let heads: Vec<&str> = columns.iter().map(|(head, _)| head.as_str()).collect();
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    let mut rows = 0;
    for (value, side) in results.all() {
        let cells: Vec<String> = columns.iter().map(|(_, cell)| cell(results, value, side)).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        rows += 1;
    }
    if rows == 0 { Err("nothing was measured".into()) } else { Ok(text) }
}

fn columns(axis: Axis) -> Vec<Column> {
    let medians = |head: &str, figure: Figure| -> Column {
        let cell = move |results: &Results, value, side| {
            let values = results.values(value, side, figure);
            if values.is_empty() { "-".to_owned() } else { number(median(values)) }
        };
        (head.to_owned(), Box::new(cell))
    };
    let mut columns = first(axis);
    columns.push((
        format!("{}/s", axis.counted()),
        Box::new(|results, value, side| spread(&results.values(value, side, Figure::Rate))),
    ));
    columns.push((
        "of noop's".to_owned(),
        Box::new(|results, value, side| format!("{:.2}", results.of_noop(value, side, Figure::Rate))),
    ));
    match axis {
        Axis::Size => columns
            .push(("MB/s".to_owned(), Box::new(|results, value, side| per(results, value, side, value as f64 / 1e6)))),
        Axis::Subscribers => {
            columns.push((
                "publishes/s".to_owned(),
                Box::new(|results, value, side| per(results, value, side, 1.0 / value as f64)),
            ));
        }
        Axis::Stores | Axis::Connections | Axis::Subjects => {}
    }
    columns.push(medians("client's ceiling", Figure::Ceiling));
    columns.push(medians("p50 us", Figure::Call(Quantile::P50)));
    columns.push(medians("p99 us", Figure::Call(Quantile::P99)));
    columns.push(medians("server CPU us", Figure::Cpu));
    if axis == Axis::Stores {
        columns.push(medians("Envoy CPU us", Figure::EnvoyCpu));
        columns.push(medians("database CPU us", Figure::DatabaseCpu));
        columns.push(medians("all projected after s", Figure::Projected));
    }
    columns.push(medians("peak MiB", Figure::PeakMemory));
    if axis != Axis::Subscribers {
        columns.push(medians("publishes a sync", Figure::Batch));
    }
    columns
}

/// What names a row.
fn first(axis: Axis) -> Vec<Column> {
    let system: Column = match axis {
        Axis::Stores => ("store".to_owned(), Box::new(|_, _, side: Side| side.system.name().to_owned())),
        _ => ("system".to_owned(), Box::new(|_, _, side: Side| broker(side).to_owned())),
    };
    let value: Column = match axis {
        Axis::Stores => {
            ("way".to_owned(), Box::new(|_, _, side: Side| if side.envoy { "Envoy" } else { "direct" }.to_owned()))
        }
        _ => (axis.title().to_owned(), Box::new(move |_, value, _| axis.label(value))),
    };
    let mut columns = vec![value];
    if matches!(axis, Axis::Size | Axis::Connections) {
        let in_flight = move |_: &Results, value, _| {
            let load = axis.load(value);
            format!("{} x {}", load.connections, load.in_flight)
        };
        columns.push(("in flight".to_owned(), Box::new(in_flight)));
    }
    columns.push(system);
    columns
}

/// The name of a side where there is only one kind of broker.
pub fn broker(side: Side) -> &'static str {
    if side.system == System::Noop { "noop" } else { "walcast" }
}

/// The rate times something.
fn per(results: &Results, value: usize, side: Side, factor: f64) -> String {
    number(median(results.values(value, side, Figure::Rate)) * factor)
}
