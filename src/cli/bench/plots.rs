//! The plots of the page, as SVG. Nothing is painted behind them and all words are of a grey that can be read on white and on
//! black.

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::{Exit, Failure};

/// A plot.
#[derive(Debug)]
pub struct Panel {
    /// What it shows.
    pub title: &'static str,
    /// Of the values.
    pub unit: &'static str,
    /// Whether the values are on an axis of powers of ten.
    pub powers: bool,
    /// What is below it.
    pub across: Across,
    /// In the order of the legend.
    pub lines: Vec<Line>,
}

/// The axis from left to right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Across {
    /// Seconds after the measurement began, up to this many: all plots of a page end there.
    Seconds(f64),
    /// Runs in their order, so many.
    Runs(usize),
    /// Percentiles, where the distance from 90 to 99 % is that from 99 to 99.9 %.
    Percentiles,
}

/// A line: its name, which colour of the two rows, and its points.
#[derive(Debug)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Of the run itself or of the one that it is compared with.
    pub run: Run,
    /// Lines of a run have colours of one family.
    pub number: usize,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// The run that the page is about.
    This,
    /// The one that it is compared with.
    Earlier,
}

const SIZE: (u32, u32) = (940, 280);
/// For the names of the lines.
const LEGEND_WIDTH: u32 = 170;
const LEGEND_TOP: i32 = 36;
const LEGEND_STEP: i32 = 18;
const GREY: RGBColor = RGBColor(0x80, 0x86, 0x8e);
const FONT_SIZE: u32 = 13;
/// Room above the highest point.
const HEADROOM: f64 = 1.15;
/// Powers of ten of an axis that has only one value.
const POWERS_MIN: f64 = 10.0;

/// Blue and green for the run, orange and red for the one before.
const THIS: [RGBColor; 4] =
    [RGBColor(0x3b, 0x82, 0xd6), RGBColor(0x2f, 0x9e, 0x5b), RGBColor(0x8a, 0x6f, 0xd1), RGBColor(0x17, 0x9f, 0xb0)];
const EARLIER: [RGBColor; 4] =
    [RGBColor(0xd9, 0x7b, 0x16), RGBColor(0xc2, 0x4f, 0x7c), RGBColor(0x9a, 0x8b, 0x2c), RGBColor(0xb0, 0x4a, 0x2f)];

fn words() -> TextStyle<'static> {
    ("sans-serif", FONT_SIZE).into_font().color(&GREY)
}

impl Panel {
    /// The plot; none if there is nothing to show.
    pub fn svg(&self) -> Result<Option<String>, Failure> {
        let values = || self.lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value);
        let values = || values().filter(|value| value.is_finite() && (!self.powers || *value > 0.0));
        if values().next().is_none() {
            return Ok(None);
        }
        let highest = values().fold(f64::MIN_POSITIVE, f64::max);
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let (chart, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
            self.legend(&legend)?;
            let mut builder = ChartBuilder::on(&chart);
            builder.margin(8).margin_right(16).caption(self.title, words()).y_label_area_size(70).x_label_area_size(40);
            if self.powers {
                let least = values().fold(f64::MAX, f64::min);
                let (from, to) = powers_around(least, highest);
                self.draw(builder.build_cartesian_2d(self.range(), (from..to).log_scale()).map_err(failure)?)?;
            } else {
                self.draw(builder.build_cartesian_2d(self.range(), 0.0..highest * HEADROOM).map_err(failure)?)?;
            }
            area.present().map_err(failure)?;
        }
        Ok(Some(svg))
    }

    /// From left to right, in what is drawn.
    fn range(&self) -> std::ops::Range<f64> {
        match self.across {
            Across::Seconds(last) => 0.0..last.max(1.0),
            Across::Runs(count) => 0.0..count as f64 + 0.5,
            Across::Percentiles => {
                let last = self.lines.iter().flat_map(|line| &line.points).map(|(percentile, _)| nines(*percentile));
                0.0..last.fold(1.0, f64::max)
            }
        }
    }

    fn draw<'a, X, Y>(&self, mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Result<(), Failure>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let percentile = |value: &f64| format!("{} %", plain(&(100.0 - 100.0 * 10f64.powf(-value))));
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT).bold_line_style(GREY.mix(0.3)).axis_style(GREY).label_style(words());
        mesh.y_labels(8).y_label_formatter(&plain).y_desc(self.unit).axis_desc_style(words());
        match self.across {
            Across::Seconds(_) => mesh.x_desc("seconds").x_label_formatter(&plain),
            Across::Runs(_) => mesh.x_desc("run").x_label_formatter(&plain),
            Across::Percentiles => mesh.x_desc("percentile").x_labels(8).x_label_formatter(&percentile),
        };
        mesh.draw().map_err(failure)?;
        for line in &self.lines {
            let colour = line.colour();
            let points = line.points.iter().filter(|(_, value)| value.is_finite() && (!self.powers || *value > 0.0));
            let points: Vec<(f64, f64)> = points.map(|(at, value)| (self.place(*at), *value)).collect();
            let [.., last] = points.as_slice() else { continue };
            // A run of a second has a point and no line.
            let dot = Circle::new(*last, 2, colour.filled());
            chart.draw_series([dot]).map_err(failure)?;
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2))).map_err(failure)?;
        }
        Ok(())
    }

    /// The names of the lines, beside the plot: over it they would hide a line sooner or later.
    fn legend(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Failure> {
        for (place, line) in (0..).zip(&self.lines) {
            let y = LEGEND_TOP + place * LEGEND_STEP;
            let stroke = PathElement::new([(4, y), (22, y)], line.colour().stroke_width(3));
            area.draw(&stroke).map_err(failure)?;
            let left = words().pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(line.name.clone(), (28, y), left)).map_err(failure)?;
        }
        Ok(())
    }

    fn place(&self, at: f64) -> f64 {
        match self.across {
            Across::Seconds(_) | Across::Runs(_) => at,
            Across::Percentiles => nines(at),
        }
    }
}

impl Line {
    fn colour(&self) -> RGBColor {
        let row = match self.run {
            Run::This => THIS,
            Run::Earlier => EARLIER,
        };
        row[self.number % row.len()]
    }
}

/// 90 % is 1, 99 % is 2, and so on.
fn nines(percentile: f64) -> f64 {
    -((100.0 - percentile) / 100.0).max(1e-9).log10()
}

/// The powers of ten that lie around all values.
fn powers_around(least: f64, highest: f64) -> (f64, f64) {
    let from = 10f64.powf(least.log10().floor());
    let to = 10f64.powf(highest.log10().ceil());
    (from, if to > from { to } else { from * POWERS_MIN })
}

/// A tick, which is a round number but for the last of its bits.
fn plain(value: &f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

/// The library's errors name the backend in their type.
fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("a plot cannot be drawn: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(powers: bool, across: Across, points: &[(f64, f64)]) -> Panel {
        let line = Line { name: "a <line>".to_owned(), run: Run::This, number: 0, points: points.to_vec() };
        Panel { title: "calls & more", unit: "ms", powers, across, lines: vec![line] }
    }

    #[test]
    fn a_plot_is_an_svg_with_its_words_escaped() {
        let svg = panel(false, Across::Seconds(3.0), &[(1.0, 2.0), (2.0, 5.0)]).svg().expect("drawn").expect("points");
        assert!(svg.starts_with("<svg") && svg.contains("calls &amp; more") && svg.contains("a &lt;line&gt;"), "{svg}");
        assert!(svg.contains("#3B82D6"), "{svg}");
    }

    #[test]
    fn an_axis_of_powers_of_ten_leaves_out_what_it_cannot_show() {
        let points = [(1.0, 0.0), (2.0, 0.5), (3.0, 700.0), (4.0, f64::INFINITY)];
        let svg = panel(true, Across::Seconds(4.0), &points).svg().expect("drawn").expect("points");
        assert!(svg.contains("\n1000\n") && svg.contains("\n10\n"), "{svg}");
        assert_eq!(panel(true, Across::Seconds(1.0), &[(1.0, 0.0)]).svg().expect("nothing to draw"), None);
    }

    #[test]
    fn percentiles_are_as_far_apart_as_their_nines() {
        assert!((nines(99.0) - 2.0).abs() < 1e-9 && nines(0.0).abs() < 1e-9);
        let svg = panel(true, Across::Percentiles, &[(0.0, 1.0), (99.0, 9.0)]).svg().expect("drawn").expect("points");
        assert!(svg.contains("\n90 %\n") && svg.contains("\n99 %\n"), "{svg}");
    }

    #[test]
    fn one_value_has_an_axis_too() {
        assert_eq!(powers_around(10.0, 10.0), (10.0, 100.0));
        assert_eq!(powers_around(0.5, 700.0), (0.1, 1000.0));
        assert!(panel(false, Across::Seconds(0.0), &[(1.0, 0.0)]).svg().expect("drawn").is_some());
    }
}
