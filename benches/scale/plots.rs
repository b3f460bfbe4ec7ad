//! The plots: rate and cost of a message beside each other, over what is varied.

use std::path::Path;

use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Failure;
use crate::axis::{Axis, Side, System};
use crate::figures::{Figure, median};
use crate::painting::{Area, Bar, HEADROOM, SIZE, bars_of, draw as paint, failure, words};
use crate::results::Results;
use crate::tables::broker;

/// From this factor on between the least and the greatest an axis is logarithmic: on another one the least would lie on the ground.
const LOGARITHMIC_FROM: f64 = 8.0;

const fn colour(system: System) -> RGBColor {
    match system {
        System::Noop => RGBColor(0x9a, 0x9f, 0xa6),
        System::NoStore => RGBColor(0x8a, 0x63, 0xd2),
        System::Embedded => RGBColor(0x3b, 0x82, 0xd6),
        System::Postgres => RGBColor(0xd9, 0x7b, 0x16),
        System::Cassandra => RGBColor(0x2f, 0x9e, 0x5b),
    }
}

/// A point of a line, with how far the rounds were apart.
struct Point {
    median: f64,
    least: f64,
    greatest: f64,
}

/// Points at steps of equal width.
struct Line {
    name: &'static str,
    colour: RGBColor,
    points: Vec<Point>,
}

/// Writes the plot of an axis.
///
/// # Errors
/// The disk's.
pub fn draw(axis: Axis, results: &Results, path: &Path) -> Result<(), Failure> {
    if axis == Axis::Stores {
        return stores(results, path);
    }
    paint(path, |area| {
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        let mut values: Vec<usize> = results.all().map(|(value, _)| value).collect();
        values.dedup();
        let labels: Vec<String> = values.into_iter().map(|value| axis.label(value)).collect();
        let rate = format!("thousand {}/s by {}", axis.counted(), axis.title());
        let call = if axis == Axis::Subscribers { "a delivery" } else { "a publish" };
        let cost = format!("server CPU us of {call} by {}", axis.title());
        panel(&left, &labels, &rate, &lines(axis, results, Figure::Rate, 1e-3))?;
        panel(&right, &labels, &cost, &lines(axis, results, Figure::Cpu, 1.0))
    })
}

/// Bars of the rate, direct and through Envoy.
fn stores(results: &Results, path: &Path) -> Result<(), Failure> {
    paint(path, |area| {
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        for (part, title, envoy) in [(left, "direct", false), (right, "through Envoy", true)] {
            let bars: Vec<Bar> = results
                .all()
                .filter(|(_, side)| side.envoy == envoy)
                .map(|(value, side)| {
                    let rates = results.values(value, side, Figure::Rate);
                    let point = point(rates, 1e-3);
                    Bar {
                        label: side.system.name().to_owned(),
                        parts: vec![(point.median, colour(side.system).to_rgba())],
                        spread: Some((point.least, point.greatest)),
                    }
                })
                .collect();
            bars_of(&part, title, "thousand publishes/s", &bars)?;
        }
        Ok(())
    })
}

fn point(values: Vec<f64>, factor: f64) -> Point {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min) * factor;
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max) * factor;
    Point { median: median(values) * factor, least, greatest }
}

fn lines(axis: Axis, results: &Results, figure: Figure, factor: f64) -> Vec<Line> {
    let line = |side: Side| {
        let values = results.all().filter(|(_, of)| *of == side);
        let points = values.map(|(value, side)| point(results.values(value, side, figure), factor)).collect();
        Line { name: broker(side), colour: colour(side.system), points }
    };
    axis.sides().into_iter().map(line).collect()
}

fn panel(area: &Area<'_>, labels: &[String], unit: &str, lines: &[Line]) -> Result<(), Failure> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let least = all().map(|point| point.least).fold(f64::INFINITY, f64::min);
    let greatest = all().map(|point| point.greatest).fold(f64::MIN_POSITIVE, f64::max);
    let across = -0.5..labels.len() as f64 - 0.5;
    let mut chart = ChartBuilder::on(area);
    chart.margin(10).margin_bottom(34).y_label_area_size(62).caption(unit, words());
    if greatest / least > LOGARITHMIC_FROM {
        // A point on the ground would stand in the labels.
        let powers = 10f64.powf((least * 0.9).log10().floor())..10f64.powf(greatest.log10().ceil());
        let bottom = powers.start;
        let legend = free_corner(lines, |value| (value / powers.start).ln() / (powers.end / powers.start).ln());
        let chart = chart.build_cartesian_2d(across, powers.log_scale()).map_err(failure)?;
        fill(chart, labels, lines, bottom * 0.88, legend)
    } else {
        let top = greatest * HEADROOM;
        let legend = free_corner(lines, |value| value / top);
        let chart = chart.build_cartesian_2d(across, 0.0..top).map_err(failure)?;
        fill(chart, labels, lines, -top * 0.03, legend)
    }
}

/// Where the first half of the lines is not, at the left; `height` is a value's part of the axis.
fn free_corner(lines: &[Line], height: impl Fn(f64) -> f64) -> SeriesLabelPosition {
    let first = lines.iter().flat_map(|line| line.points.iter().take(line.points.len().div_ceil(2)));
    let (sum, count) = first.fold((0.0, 0.0), |(sum, count), point| (sum + height(point.median), count + 1.0));
    if sum / count > 0.5 { SeriesLabelPosition::LowerLeft } else { SeriesLabelPosition::UpperLeft }
}

fn fill<'a, Y>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>,
    labels: &[String],
    lines: &[Line],
    below: f64,
    legend: SeriesLabelPosition,
) -> Result<(), Failure>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    crate::painting::mesh(&mut chart, "", 6)?;
    for Line { name, colour, points } in lines {
        let colour = *colour;
        let at = |place: usize| place as f64;
        let medians = points.iter().enumerate().map(|(place, point)| (at(place), point.median));
        chart
            .draw_series(LineSeries::new(medians.clone(), colour.stroke_width(2)))
            .map_err(failure)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        chart.draw_series(medians.map(|middle| Circle::new(middle, 4, colour.filled()))).map_err(failure)?;
        for (place, point) in points.iter().enumerate().filter(|(_, point)| point.greatest > point.least) {
            let apart =
                PathElement::new([(at(place), point.least), (at(place), point.greatest)], colour.stroke_width(2));
            chart.draw_series([apart]).map_err(failure)?;
        }
    }
    let style = words().pos(Pos::new(HPos::Center, VPos::Top));
    for (place, label) in labels.iter().enumerate() {
        chart.draw_series([Text::new(label.clone(), (place as f64, below), style.clone())]).map_err(failure)?;
    }
    crate::painting::legend(&mut chart, legend)
}
