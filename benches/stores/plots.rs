//! The plots of the comparison.

use std::fs;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Failure;
use crate::figures::{Figure, Kind, Results, Spread};
use crate::painting::{Bar, GREY, HEADROOM, SIZE, bars_of, draw, failure, mesh, plain, words};
use crate::soak::Sample;

const fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Embedded => RGBColor(0x3b, 0x82, 0xd6),
        Kind::Postgres => RGBColor(0xd9, 0x7b, 0x16),
        Kind::Cassandra => RGBColor(0x2f, 0x9e, 0x5b),
    }
}

/// A line: its name, and its points.
struct Line {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Writes the plots of a comparison into `folder`; gives their names.
///
/// # Errors
/// The disk's.
pub fn compared(results: &Results, folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    projection(results, &folder.join("projection.svg"))?;
    fetch(results, &folder.join("fetch.svg"))?;
    cpu(results, &folder.join("cpu.svg"))?;
    if !results.backlogs.is_empty() {
        backlog(results, &folder.join("killed.svg"))?;
    }
    Ok(())
}

fn projection(results: &Results, path: &Path) -> Result<(), Failure> {
    draw(path, |area| {
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        for (part, title, figure) in [
            (left, "bodies of 256 B", Figure::ProjectionSmallRowsPerSecond),
            (right, "bodies of 4 KiB", Figure::ProjectionLargeRowsPerSecond),
        ] {
            let bar = |kind: Kind, spread: Spread| Bar {
                label: kind.title().to_owned(),
                parts: vec![(spread.median / 1e3, colour(kind).to_rgba())],
                spread: Some((spread.least / 1e3, spread.greatest / 1e3)),
            };
            let bars = Kind::ALL.into_iter().filter_map(|kind| Some(bar(kind, results.of(kind, figure)?)));
            bars_of(&part, title, "thousand rows/s", &bars.collect::<Vec<_>>())?;
        }
        Ok(())
    })
}

fn cpu(results: &Results, path: &Path) -> Result<(), Failure> {
    draw(path, |area| {
        let bar = |kind: Kind| {
            let broker = results.of(kind, Figure::BrokerCpuSecondsPerMillion)?.median;
            let database = results.of(kind, Figure::DatabaseCpuSecondsPerMillion).map(|spread| spread.median);
            let mut parts = vec![(broker, colour(kind).to_rgba())];
            parts.extend(database.map(|seconds| (seconds, colour(kind).mix(0.45))));
            Some(Bar { label: kind.title().to_owned(), parts, spread: None })
        };
        let bars: Vec<Bar> = Kind::ALL.into_iter().filter_map(bar).collect();
        let title = "CPU for a million messages: the broker (full colour) and its database (light) above it";
        bars_of(area, title, "CPU seconds", &bars)
    })
}

/// From the median to the 99th percentile, on an axis of powers of ten.
fn fetch(results: &Results, path: &Path) -> Result<(), Failure> {
    let cases = [
        ("cold", Figure::FetchColdP50Micros, Figure::FetchColdP99Micros),
        ("warm", Figure::FetchWarmP50Micros, Figure::FetchWarmP99Micros),
    ];
    let mut found = Vec::new();
    for kind in Kind::ALL {
        for (case, p50, p99) in cases {
            let (Some(p50), Some(p99)) = (results.of(kind, p50), results.of(kind, p99)) else { continue };
            found.push((kind, case, p50.median / 1e3, p99.median / 1e3));
        }
    }
    let least = found.iter().map(|(_, _, p50, _)| *p50).fold(f64::MAX, f64::min);
    let greatest = found.iter().map(|(_, _, _, p99)| *p99).fold(f64::MIN_POSITIVE, f64::max);
    draw(path, |area| {
        let range = (10f64.powf(least.log10().floor())..10f64.powf(greatest.log10().ceil())).log_scale();
        let bottom = 10f64.powf(least.log10().floor());
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .margin_bottom(30)
            .caption("Fetch from the store: median (dot) to 99th percentile (bar)", words())
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..found.len() as f64, range)
            .map_err(failure)?;
        mesh(&mut chart, "ms", 11)?;
        for (place, (kind, case, p50, p99)) in found.iter().enumerate() {
            let middle = place as f64 + 0.5;
            let line = PathElement::new([(middle, *p50), (middle, *p99)], colour(*kind).stroke_width(3));
            chart.draw_series([line]).map_err(failure)?;
            let end = PathElement::new([(middle - 0.12, *p99), (middle + 0.12, *p99)], colour(*kind).stroke_width(3));
            chart.draw_series([end]).map_err(failure)?;
            chart.draw_series([Circle::new((middle, *p50), 6, colour(*kind).filled())]).map_err(failure)?;
            let below = words().pos(Pos::new(HPos::Center, VPos::Top));
            let label = format!("{}, {case}", kind.title());
            chart.draw_series([Text::new(label, (middle, bottom * 0.92), below)]).map_err(failure)?;
        }
        Ok(())
    })
}

fn backlog(results: &Results, path: &Path) -> Result<(), Failure> {
    let lines: Vec<_> = results
        .backlogs
        .iter()
        .map(|(kind, points)| {
            let points = points.iter().map(|(seconds, messages)| (*seconds, messages / 1e3)).collect();
            Line { name: kind.title(), colour: colour(*kind), points }
        })
        .collect();
    lines_of(
        path,
        "Messages that wait for a database that is killed after 2 s and started when the load is over",
        "thousand messages",
        SeriesLabelPosition::UpperLeft,
        &lines,
    )
}

/// Sizes over time.
///
/// # Errors
/// The disk's.
pub fn soaked(samples: &[Sample], path: &Path) -> Result<(), Failure> {
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    let line = |name, kind, of: fn(&Sample) -> u64| {
        let points = samples.iter().map(|sample| (sample.seconds, mib(of(sample)))).collect();
        Line { name, colour: colour(kind), points }
    };
    let lines = [
        line("tables", Kind::Postgres, |sample| sample.table_bytes),
        line("indexes", Kind::Embedded, |sample| sample.index_bytes),
    ];
    lines_of(
        path,
        "Postgres: size of all partitions while messages come and expire",
        "MiB",
        SeriesLabelPosition::MiddleRight,
        &lines,
    )
}

fn lines_of(path: &Path, title: &str, unit: &str, legend: SeriesLabelPosition, lines: &[Line]) -> Result<(), Failure> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let last = all().map(|(x, _)| *x).fold(f64::MIN_POSITIVE, f64::max);
    let highest = all().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max) * HEADROOM;
    draw(path, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .margin_right(20)
            .caption(title, words())
            .y_label_area_size(62)
            .x_label_area_size(40)
            .build_cartesian_2d(0.0..last, 0.0..highest)
            .map_err(failure)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.3))
            .axis_style(GREY)
            .label_style(words())
            .x_label_formatter(&plain)
            .y_label_formatter(&plain)
            .y_desc(unit)
            .x_desc("seconds")
            .axis_desc_style(words())
            .draw()
            .map_err(failure)?;
        for Line { name, colour, points } in lines {
            let colour = *colour;
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))
                .map_err(failure)?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        }
        crate::painting::legend(&mut chart, legend)
    })
}
