//! `--find-max`: the highest rate that keeps the bounds, found by doubling and then halving the gap.
//!
//! Each rate is a run of its own, open loop with its own warm-up, on new connections and new subjects. A rate that breaks a
//! bound is tried once more before it counts as too high: one stall of a disk is no limit. A run that has more long calls
//! than its p99 allows ends early.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::{Exit, Failure, output};
use super::options::{GiveUp, LoadOptions, Loop};
use super::report::{Report, millis};

/// The gap between a rate that holds and one that does not, as a share of the former, below which the search ends:
/// runs of the same rate differ by as much.
const GAP: f64 = 0.05;

/// The largest rate that is tried; `--rate` takes no larger one either.
const RATE_MAX: u32 = 10_000_000;

/// A p99 of fewer calls would be the longest of them.
const CALLS_MIN: f64 = 100.0;

/// Between two runs: what one has left behind is not the next one's fault.
pub const REST: Duration = Duration::from_secs(1);

/// A search, to its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Search {
    /// The bound, in microseconds.
    pub max_p99_us: u64,
    /// The highest rate that held.
    pub highest: Option<u32>,
    /// All runs, in order.
    pub steps: Vec<Step>,
    /// What was found, in a sentence.
    pub conclusion: String,
}

/// One run at one rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Calls a second that were due.
    pub rate: u32,
    /// Whether all bounds were kept.
    pub held: bool,
    /// The longest p99 of what the bounds are about.
    pub p99_us: u64,
    /// Bounds that were not kept.
    pub broken: Vec<String>,
    /// Why the client, not the server, was the limit; if it was.
    pub client: Option<String>,
}

/// Where the answer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bracket {
    start: u32,
    least: u32,
    most: u32,
    held: Option<u32>,
    failed: Option<u32>,
}

impl Bracket {
    /// The rate to be tried next; none at the end.
    fn next(&self) -> Option<u32> {
        match (self.held, self.failed) {
            (None, None) => Some(self.start),
            (Some(held), None) => (held < self.most).then(|| held.saturating_mul(2).min(self.most)),
            (None, Some(failed)) => (failed > self.least).then(|| (failed / 2).max(self.least)),
            (Some(held), Some(failed)) => {
                let gap = failed - held;
                (gap > 1 && f64::from(gap) > GAP * f64::from(held)).then(|| held + gap / 2)
            }
        }
    }

    fn note(&mut self, rate: u32, held: bool) {
        *(if held { &mut self.held } else { &mut self.failed }) = Some(rate);
    }
}

/// Runs `measure` at one rate after the other, with a rest between; the report of the highest that held, or why there is none.
pub fn run(
    options: &LoadOptions,
    rest: Duration,
    mut measure: impl FnMut(&LoadOptions) -> Result<Report, Failure>,
) -> Result<Report, Failure> {
    let max_p99 = options.bounds.max_p99.unwrap_or_default();
    let max_p99_us = u64::try_from(max_p99.as_micros()).unwrap_or(u64::MAX);
    let seconds = options.measured().unwrap_or_default().as_secs_f64().max(f64::MIN_POSITIVE);
    let Loop::Open(start) = options.kind() else { return measure(options) };
    let least = ((CALLS_MIN / seconds).ceil() as u32).clamp(1, RATE_MAX);
    let most = options.max_rate.unwrap_or(RATE_MAX).max(least);
    let mut bracket = Bracket { start: start.clamp(least, most), least, most, held: None, failed: None };
    let mut search = Search { max_p99_us, highest: None, steps: Vec::new(), conclusion: String::new() };
    let mut best = None;
    while let Some(rate) = bracket.next() {
        let planned = f64::from(rate) * seconds;
        let step_options = LoadOptions {
            rate: Some(rate),
            give_up: Some(GiveUp { bound_us: max_p99_us, longer_max: (planned / 100.0) as u64 }),
            ..options.clone()
        };
        let report = match tried(&step_options, rest, &mut search, &mut measure)? {
            Some(report) => report,
            // Once more: it may have been a stall of the machine.
            None => match tried(&step_options, rest, &mut search, &mut measure)? {
                Some(report) => report,
                None => {
                    bracket.note(rate, false);
                    continue;
                }
            },
        };
        bracket.note(rate, true);
        best = Some(report);
    }
    search.highest = bracket.held;
    search.conclusion = conclusion(&search, &bracket, max_p99);
    let Some(mut report) = best else { return Err(Failure::new(Exit::Failed, search.conclusion)) };
    report.search = Some(search);
    Ok(report)
}

/// One run; its report if it kept the bounds.
fn tried(
    options: &LoadOptions,
    rest: Duration,
    search: &mut Search,
    measure: &mut impl FnMut(&LoadOptions) -> Result<Report, Failure>,
) -> Result<Option<Report>, Failure> {
    if !search.steps.is_empty() {
        std::thread::sleep(rest);
    }
    let report = measure(options)?;
    let mut bounds = options.bounds.clone();
    // Calls that fail fast would make any rate hold. What a minimum is for is asked of the rate that is found.
    bounds.max_errors = bounds.max_errors.or(Some(0));
    bounds.min_rate = None;
    let broken = report.broken(&bounds);
    let p99_us = report.judged().iter().map(|(_, measured)| measured.latency_us.p99).max().unwrap_or_default();
    let client = report.limited_by_client().filter(|_| !broken.is_empty());
    let step = Step { rate: options.rate.unwrap_or_default(), held: broken.is_empty(), p99_us, broken, client };
    output::note(&line(&step));
    let held = step.held;
    search.steps.push(step);
    Ok(held.then_some(report))
}

/// A run in a line.
pub fn line(step: &Step) -> String {
    let verdict = if step.held { "holds".to_owned() } else { format!("does not hold: {}", step.broken.join("; ")) };
    let client = step.client.as_ref().map(|client| format!("; the limit was {client}")).unwrap_or_default();
    format!("{} a second: p99 {}, {verdict}{client}", step.rate, millis(step.p99_us))
}

fn conclusion(search: &Search, bracket: &Bracket, max_p99: Duration) -> String {
    let bound = format!("a p99 of {}", humantime::format_duration(max_p99));
    let last = |rate| search.steps.iter().rev().find(|step| Some(step.rate) == rate);
    let failed = last(bracket.failed);
    let why = failed.map(|step| format!(": {}", step.broken.join("; "))).unwrap_or_default();
    let client = failed.and_then(|step| step.client.as_ref());
    let client = client.map(|client| format!("; the server may do more, the limit was {client}")).unwrap_or_default();
    match (bracket.held, bracket.failed) {
        (Some(held), Some(failed)) => format!("{held} calls a second keep {bound}, {failed} do not{why}{client}"),
        (Some(held), None) => format!("{held} calls a second keep {bound}, and more were not tried"),
        (None, Some(failed)) => format!("no rate keeps {bound}: not even {failed} calls a second{why}{client}"),
        (None, None) => "nothing was tried".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::options;
    use super::super::report::tests::report;
    use super::*;

    fn rates(start: u32, limit: u32) -> (Vec<u32>, Bracket) {
        let mut bracket = Bracket { start, least: 10, most: RATE_MAX, held: None, failed: None };
        let mut tried = Vec::new();
        while let Some(rate) = bracket.next() {
            tried.push(rate);
            bracket.note(rate, rate <= limit);
        }
        (tried, bracket)
    }

    #[test]
    fn rates_are_doubled_and_then_the_gap_is_halved() {
        let (tried, bracket) = rates(1000, 5200);
        assert_eq!(tried, [1000, 2000, 4000, 8000, 6000, 5000, 5500, 5250]);
        assert_eq!((bracket.held, bracket.failed), (Some(5000), Some(5250)));
    }

    #[test]
    fn a_start_that_is_too_high_is_halved_down_to_the_least_that_says_something() {
        assert_eq!(rates(1000, 130).0, [1000, 500, 250, 125, 187, 156, 140, 132, 128]);
        let (tried, bracket) = rates(100, 0);
        assert_eq!(tried, [100, 50, 25, 12, 10]);
        assert_eq!((bracket.held, bracket.failed), (None, Some(10)));
        assert_eq!(rates(RATE_MAX, RATE_MAX).0, [RATE_MAX]);
    }

    /// A server whose latency is 1 ms up to a rate, and 100 ms above.
    fn server(limit: u32) -> impl FnMut(&LoadOptions) -> Result<Report, Failure> {
        move |options| Ok(report(&[if options.rate.unwrap_or_default() <= limit { 1000 } else { 100_000 }; 100], &[]))
    }

    #[test]
    fn the_report_is_that_of_the_highest_rate_and_failures_are_tried_twice() {
        let options = options("bench --find-max --max-p99 10ms --rate 1000 --duration 1s");
        let mut measure = server(1500);
        let found = run(&options, Duration::ZERO, &mut measure).expect("1000 holds");
        let search = found.search.expect("a search");
        assert_eq!(search.highest, Some(1500));
        let steps: Vec<_> = search.steps.iter().map(|step| (step.rate, step.held)).collect();
        assert_eq!(steps[..4], [(1000, true), (2000, false), (2000, false), (1500, true)]);
        assert!(search.conclusion.starts_with("1500 calls a second keep a p99 of 10ms, 15"), "{}", search.conclusion);
    }

    #[test]
    fn no_more_is_tried_than_may_be() {
        let options = options("bench --find-max --max-p99 10ms --rate 1000 --max-rate 3000 --duration 1s");
        let found = run(&options, Duration::ZERO, server(RATE_MAX)).expect("all hold");
        let search = found.search.expect("a search");
        assert_eq!(search.steps.iter().map(|step| step.rate).collect::<Vec<_>>(), [1000, 2000, 3000]);
        assert_eq!(search.conclusion, "3000 calls a second keep a p99 of 10ms, and more were not tried");
    }

    #[test]
    fn a_bound_that_cannot_hold_fails_and_says_so() {
        let options = options("bench --find-max --max-p99 10ms --rate 200 --duration 1s");
        let failure = run(&options, Duration::ZERO, server(0)).expect_err("no rate");
        assert_eq!(failure.exit(), Exit::Failed);
        let said = failure.message().expect("a sentence");
        assert!(said.starts_with("no rate keeps a p99 of 10ms: not even 100 calls a second: p99 is 100."), "{said}");
    }

    #[test]
    fn errors_do_not_hold_and_a_late_client_is_named() {
        let options = options("bench --find-max --max-p99 10ms --rate 100 --duration 1s");
        let failing = |_: &LoadOptions| Ok(report(&[1000; 100], &[("UNAVAILABLE", 1)]));
        let failure = run(&options, Duration::ZERO, failing).expect_err("errors");
        assert!(failure.message().is_some_and(|said| said.ends_with("there are 1 errors, above 0")), "{failure:?}");
        let late = |_: &LoadOptions| {
            let mut report = report(&[100_000; 100], &[]);
            report.late_us = Some(report.calls.latency_us);
            Ok(report)
        };
        let failure = run(&options, Duration::ZERO, late).expect_err("late");
        let said = failure.message().unwrap_or_default();
        assert!(said.contains("the server may do more, the limit was the client: it began calls"), "{said}");
    }
}
