//! The floors of `make bench` are found out when they are broken. The benchmark has a `main` of its own, so what it decides by is
//! tested from here.
#![allow(dead_code, reason = "the benchmark uses all of it")]

#[path = "../../benches/yardstick/cell.rs"]
mod cell;
#[path = "../../benches/common/figures.rs"]
mod figures;
#[path = "../../benches/common/page.rs"]
mod pages;
#[path = "../../benches/yardstick/report.rs"]
mod report;
#[path = "../../benches/common/client/stamp.rs"]
mod stamp;

use std::time::{Duration, Instant};

use cell::{Cell, Side};
use figures::{Figure, Measured, Quantile};
use report::Report;
use stamp::{due_of, stamped};

/// As in the benchmarks.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

const P50: Figure = Figure::Call(Quantile::P50);

fn rates(noop: [f64; 3], walcast: [f64; 3]) -> Report {
    let mut report = Report::new(vec![Cell::Fetch]);
    for (round, (noop, walcast)) in noop.into_iter().zip(walcast).enumerate() {
        let of = |rate| Measured::default().with(Figure::Rate, rate);
        report.add(round, Cell::Fetch, Side::Noop, of(noop));
        report.add(round, Cell::Fetch, Side::Walcast, of(walcast));
    }
    report
}

#[test]
fn a_ratio_is_the_median_of_the_rounds_and_may_break_its_floor() {
    let kept = rates([100.0, 200.0, 50.0], [95.0, 20.0, 47.5]);
    let rate = kept.floors().next().expect("a floor of fetches");
    assert_eq!((kept.value(rate), kept.holds(rate)), (0.95, true));
    assert!(kept.beyond_floors().is_empty());
    assert_eq!(kept.not_found_out(), ["fetch 8x32, hot: rate, of noop's holds for a broker that stands still"]);
    let broken = rates([100.0, 200.0, 50.0], [95.0, 20.0, 5.0]);
    assert_eq!((broken.value(rate), broken.holds(rate)), (0.1, false));
    assert!(broken.not_found_out().is_empty());
    assert_eq!(broken.beyond_floors(), ["fetch 8x32, hot: rate, of noop's is beyond its floor"]);
}

#[test]
fn what_is_above_noop_counts_in_fdatasyncs_of_its_round() {
    let mut report = Report::new(vec![Cell::PublishAlone]);
    let of = |p50| Measured::default().with(P50, p50);
    report.add(1, Cell::PublishAlone, Side::Disk, of(100.0));
    report.add(1, Cell::PublishAlone, Side::Noop, of(80.0));
    report.add(1, Cell::PublishAlone, Side::Walcast, of(220.0));
    let floor = report.floors().next().expect("a floor");
    assert_eq!((report.value(floor), report.holds(floor)), (1.4, false));
}

#[test]
fn a_floor_without_figures_is_broken() {
    let none = Report::new(Cell::ALL.to_vec());
    assert_eq!(none.beyond_floors().len(), none.floors().count());
}

#[test]
fn a_time_comes_back_out_of_a_body() {
    let clock = Instant::now();
    let due = clock + Duration::from_nanos(1_234_567);
    assert_eq!(due_of(&stamped(256, clock, Some(due)), clock), Ok(Some(due)));
    assert_eq!(due_of(&stamped(256, clock, None), clock), Ok(None));
    assert!(due_of(b"short", clock).is_err());
}

#[test]
fn a_page_that_has_lost_its_marks_is_not_written() {
    let mut page = "before <!-- a: written by a command -->old<!-- a: end --> after".to_owned();
    pages::replace(&mut page, "a", "new").expect("the marks are there");
    assert_eq!(page, "before <!-- a: written by a command -->\nnew<!-- a: end --> after");
    assert!(pages::replace(&mut page, "b", "new").is_err());
}
