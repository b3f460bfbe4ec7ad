//! What the dashboards look like: their own queries, asked of a real Prometheus over a time and drawn.
//!
//! `make observe-plots` draws two minutes into docs/observe; without its settings a few seconds are drawn into a temporary
//! folder, so that the way to the pictures is tested.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::api::Series;
use crate::boards::{self, Shown};
use crate::load::{self, Load};
use crate::prometheus::{Plan, Prometheus, Target};
use crate::server::Server;
use crate::support::from_env;
use crate::work::Work;

/// Dashboard and panel, and the file. Each shows something that happens to the broker in [`happen`].
const PICTURES: [(&str, &str, &str); 6] = [
    ("overview.json", "Calls", "calls.svg"),
    ("overview.json", "How long calls take", "latency.svg"),
    ("pipeline.json", "fdatasync", "fdatasync.svg"),
    ("pipeline.json", "Lag in records", "lag.svg"),
    ("delivery.json", "The furthest behind", "behind.svg"),
    ("stores.json", "Fetches by source", "fetches.svg"),
];
const RATE_INTERVAL: &str = "5s";
const SIZE: (u32, u32) = (720, 280);
const GREY: RGBColor = RGBColor(0x80, 0x86, 0x8e);
/// Of lines, in the order of the legend; readable on white and on black.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x3b, 0x82, 0xd6),
    RGBColor(0xd9, 0x7b, 0x16),
    RGBColor(0x2f, 0x9e, 0x5b),
    RGBColor(0xc2, 0x4f, 0x7c),
    RGBColor(0x8a, 0x6f, 0xd1),
    RGBColor(0x9a, 0x8b, 0x2c),
];
fn words() -> TextStyle<'static> {
    ("sans-serif", 13).into_font().color(&GREY)
}

/// A value as the panel's unit writes it: what an axis is divided by, and its name.
fn scale(unit: &str, highest: f64) -> (f64, &'static str) {
    match unit {
        "s" if highest < 1.0 => (1e-3, "ms"),
        "s" => (1.0, "seconds"),
        "reqps" => (1.0, "calls a second"),
        "ops" => (1.0, "a second"),
        _ if highest >= 10_000.0 => (1e3, "thousand"),
        _ => (1.0, ""),
    }
}

/// The legend of a series: `{{label}}` is the label's value. There is one broker: its address says nothing.
fn name(legend: &str, series: &Series) -> String {
    let mut name = legend.replace("{{instance}}", "broker");
    for (label, value) in &series.labels {
        name = name.replace(&format!("{{{{{label}}}}}"), value);
    }
    name
}

/// The lines of a panel over the last `span`, named, with seconds since its begin.
async fn lines(prometheus: &Prometheus, panel: &Shown, span: Duration) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut lines = Vec::new();
    for (expression, legend) in &panel.queries {
        let found = prometheus.query_range(expression, span, Duration::from_millis(500)).await.expect("a valid query");
        for series in found {
            let begin = series.points[0].0;
            let points = series.points.iter().filter(|(_, value)| value.is_finite());
            lines.push((name(legend, &series), points.map(|(at, value)| (at - begin, *value)).collect::<Vec<_>>()));
        }
    }
    // A line that is 0 all the time hides the others' names.
    lines.retain(|(_, points)| points.iter().any(|(_, value)| *value > 0.0));
    lines
}

/// How much higher than its highest point a picture is, so that the legend lies on no line.
fn headroom(lines: usize) -> f64 {
    const PLOT: f64 = 200.0;
    1.05 / (1.0 - (lines as f64 * 18.0 + 15.0).min(PLOT / 2.0) / PLOT)
}

fn draw(panel: &Shown, lines: &[(String, Vec<(f64, f64)>)]) -> Result<String, Box<dyn std::error::Error>> {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let last = all().map(|(at, _)| *at).fold(f64::MIN_POSITIVE, f64::max);
    let highest = all().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let (divisor, unit) = scale(&panel.unit, highest);
    let mut svg = String::new();
    {
        let area: DrawingArea<SVGBackend<'_>, Shift> = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .margin_right(20)
            .caption(&panel.title, words())
            .y_label_area_size(62)
            .x_label_area_size(40)
            .build_cartesian_2d(0.0..last, 0.0..highest / divisor * headroom(lines.len()))?;
        let plain = |value: &f64| format!("{}", (value * 1e6).round() / 1e6);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.3))
            .axis_style(GREY)
            .label_style(words())
            .x_label_formatter(&plain)
            .y_label_formatter(&plain)
            .y_labels(6)
            .y_desc(unit)
            .x_desc("seconds")
            .axis_desc_style(words())
            .draw()?;
        for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            let points = points.iter().map(|(at, value)| (*at, value / divisor));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(name)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(words())
            .border_style(GREY.mix(0.3))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

/// A calm third, a third with the database away, a third in which it comes back and subscribers fall behind.
async fn happen(load: &mut Load, server: &Server, third: Duration) {
    load.begin_all([Work::Publish, Work::PublishStream, Work::Subscribe, Work::Fetch, Work::Repeat]);
    tokio::time::sleep(third).await;
    server.stop();
    tokio::time::sleep(third).await;
    server.start_again();
    load.begin(Work::FallBehind);
    tokio::time::sleep(third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboards_can_be_drawn() {
    let third = Duration::from_secs(from_env("WALCAST_OBSERVE_SECONDS", 9) / 3);
    let temporary = tempfile::TempDir::new().expect("a folder");
    let folder = std::env::var_os("WALCAST_OBSERVE_FOLDER").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&folder).expect("a folder");
    let server = tokio::task::block_in_place(Server::start);
    let url = server.url(&server.database().await);
    let setup = load::setup().store("postgres").arg("--postgres-url").arg(url).expect_log("projection waits");
    let broker = setup.set("store.postgres.connect_timeout", "1s").start().await;
    let prometheus = Plan::new().scrape(Target::broker(broker.admin())).start().await;
    let mut load = Load::on(broker.grpc());
    happen(&mut load, &server, third).await;
    load.goes_on(1).await;
    prometheus.scraped(2).await;
    let boards = boards::shipped();
    for (board, title, file) in PICTURES {
        let (_, json) = boards.iter().find(|(name, _)| name == board).expect("it is shipped");
        let panel = boards::panel(json, title, RATE_INTERVAL);
        let lines = lines(&prometheus, &panel, third * 3).await;
        assert!(!lines.is_empty(), "{title} has no line");
        let svg = draw(&panel, &lines).expect("drawn into memory");
        assert!(svg.matches("<polyline").count() >= lines.len(), "{title}: {svg}");
        fs::write(folder.join(file), svg).expect("the folder is ours");
    }
    drop(load);
    broker.stop().await;
}
