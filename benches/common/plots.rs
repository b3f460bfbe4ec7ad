//! How plots are painted, as SVG. Nothing is painted behind them and all words are of a grey that can be read on white and on black.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Failure;

/// What is painted on.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Of words and axes.
pub const GREY: RGBColor = RGBColor(0x80, 0x86, 0x8e);
/// Pixels.
pub const SIZE: (u32, u32) = (720, 300);
const FONT: &str = "sans-serif";
const FONT_SIZE: u32 = 13;
/// Room above the highest bar.
pub const HEADROOM: f64 = 1.15;

/// How words look.
pub fn words() -> TextStyle<'static> {
    (FONT, FONT_SIZE).into_font().color(&GREY)
}

/// A bar: its parts from below, and how far the rounds were apart.
pub struct Bar {
    /// Below it.
    pub label: String,
    /// Height and colour.
    pub parts: Vec<(f64, RGBAColor)>,
    /// The least and the greatest.
    pub spread: Option<(f64, f64)>,
}

/// Writes a plot.
///
/// # Errors
/// The disk's, or what `paint` says.
pub fn draw(path: &Path, paint: impl FnOnce(&Area<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        paint(&area)?;
        area.present().map_err(failure)?;
    }
    Ok(fs::write(path, svg)?)
}

/// The library's errors name the backend in their type.
pub fn failure(error: impl std::fmt::Display) -> Failure {
    error.to_string().into()
}

/// Bars beside each other, each with its height above it.
///
/// # Errors
/// The library's.
pub fn bars_of(area: &Area<'_>, title: &str, unit: &str, bars: &[Bar]) -> Result<(), Failure> {
    let height = |bar: &Bar| {
        let sum: f64 = bar.parts.iter().map(|(height, _)| height).sum();
        bar.spread.map_or(sum, |(_, greatest)| greatest.max(sum))
    };
    let highest = bars.iter().map(height).fold(f64::MIN_POSITIVE, f64::max) * HEADROOM;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_bottom(30)
        .caption(title, words())
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..bars.len() as f64, 0.0..highest)
        .map_err(failure)?;
    mesh(&mut chart, unit, 6)?;
    for (place, bar) in bars.iter().enumerate() {
        let middle = place as f64 + 0.5;
        let mut from = 0.0;
        for (height, colour) in &bar.parts {
            let corners = [(middle - 0.28, from), (middle + 0.28, from + height)];
            chart.draw_series([Rectangle::new(corners, colour.filled())]).map_err(failure)?;
            from += height;
        }
        let mut top = from;
        if let Some((least, greatest)) = bar.spread.filter(|(least, greatest)| greatest > least) {
            let line = PathElement::new([(middle, least), (middle, greatest)], GREY.stroke_width(2));
            chart.draw_series([line]).map_err(failure)?;
            top = top.max(greatest);
        }
        let above = words().pos(Pos::new(HPos::Center, VPos::Bottom));
        let below = words().pos(Pos::new(HPos::Center, VPos::Top));
        let sum = format!("{from:.*}", usize::from(from < 10.0));
        chart.draw_series([Text::new(sum, (middle, top + highest * 0.01), above)]).map_err(failure)?;
        chart.draw_series([Text::new(bar.label.clone(), (middle, -highest * 0.03), below)]).map_err(failure)?;
    }
    Ok(())
}

/// A tick, which is a round number but for the last of its bits.
pub fn plain(value: &f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

/// Lines across at `labels` values of the axis, at most.
///
/// # Errors
/// The library's.
pub fn mesh<X, Y>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    unit: &str,
    labels: usize,
) -> Result<(), Failure>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.3))
        .axis_style(GREY)
        .y_label_style(words())
        .y_labels(labels)
        .y_label_formatter(&plain)
        .y_desc(unit)
        .axis_desc_style(words())
        .draw()
        .map_err(failure)
}

/// The names of the lines.
///
/// # Errors
/// The library's.
pub fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<(), Failure>
where
    X: Ranged,
    Y: Ranged,
{
    chart
        .configure_series_labels()
        .position(position)
        .label_font(words())
        .border_style(GREY.mix(0.3))
        .draw()
        .map_err(failure)
}
