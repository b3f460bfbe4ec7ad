//! The result: a table for people, JSON for programs, and the bounds that it must keep.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::delivered::Delivered;
use super::find::Search;
use super::options::{Bounds, LoadOptions, Loop};
use super::order::Faults;
use super::record::Latencies;
use super::seconds::{Percentiles, Second, Series};
use super::watch::Around;
use crate::event::clock;

/// One run. Latencies are in microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Of this program.
    #[serde(default)]
    pub version: String,
    /// When the run ended, RFC 3339.
    #[serde(default)]
    pub ended_at: Option<String>,
    pub bench: String,
    pub server: String,
    /// Calls a second that were due; none in a closed loop.
    pub rate_wanted: Option<u32>,
    /// Callers on each connection; none in an open loop.
    pub in_flight: Option<u32>,
    pub connections: u32,
    pub body_bytes: usize,
    pub expires_seconds: i32,
    #[serde(flatten)]
    pub calls: Measured,
    pub errors: BTreeMap<String, u64>,
    /// Of a mixed load; the calls are its publishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetches: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Deliveries>,
    /// How late calls of an open loop began although there was a place for them.
    #[serde(default)]
    pub late_us: Option<Percentiles>,
    /// Processors of this machine.
    #[serde(default)]
    pub processors: usize,
    /// The processes, second by second.
    #[serde(default)]
    pub around: Around,
    /// How its rate was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
}

/// How many, how fast, how long.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    pub count: u64,
    pub seconds: f64,
    pub rate: f64,
    pub latency_us: Percentiles,
    #[serde(default)]
    pub each_second: Vec<Second>,
    /// Percentile and latency in microseconds, from the median to the longest.
    #[serde(default)]
    pub distribution: Vec<(f64, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Deliveries {
    pub subscribers: u32,
    #[serde(flatten)]
    pub measured: Measured,
    #[serde(flatten)]
    pub faults: Faults,
    pub max_faults: u64,
    pub streams_ended: BTreeMap<String, u64>,
}

/// Points of the distribution between two powers of ten of what is left: 90 %, 99 %, 99.9 %, ...
const POINTS_PER_NINE: u32 = 8;

/// Where the distribution ends, in such powers: one call of ten million.
const NINES_MAX: u32 = 7;

impl Measured {
    fn new(series: Series) -> Self {
        let latencies = &series.total.latencies;
        let last = series.total.last;
        let seconds = last.map_or(0.0, |last| last.saturating_duration_since(series.from).as_secs_f64());
        let count = latencies.len();
        Self {
            count,
            seconds,
            rate: if seconds > 0.0 { count as f64 / seconds } else { 0.0 },
            latency_us: Percentiles::of(latencies),
            distribution: distribution(latencies),
            each_second: series.seconds,
        }
    }
}

/// As far as there are calls for it: the last percentile is that of the longest.
fn distribution(latencies: &Latencies) -> Vec<(f64, u64)> {
    if latencies.is_empty() {
        return Vec::new();
    }
    let left = |step: u32| 10f64.powf(-f64::from(step) / f64::from(POINTS_PER_NINE));
    let steps = (0..=NINES_MAX * POINTS_PER_NINE).map(left).take_while(|left| latencies.len() as f64 * left >= 1.0);
    steps.map(|left| ((1.0 - left) * 100.0, latencies.value_at_quantile(1.0 - left))).collect()
}

impl Report {
    /// The report of calls, and of what was around them.
    pub fn new(bench: &str, options: &LoadOptions, series: Series, around: Around) -> Self {
        let (rate_wanted, in_flight) = match options.kind() {
            Loop::Open(rate) => (Some(rate), None),
            Loop::Closed(in_flight) => (None, Some(in_flight)),
        };
        let late = &series.total.late;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ended_at: jiff::Timestamp::from_microsecond(clock::now().as_micros()).ok().map(|time| time.to_string()),
            bench: bench.to_owned(),
            server: options.server.server.clone(),
            rate_wanted,
            in_flight,
            connections: options.connections,
            body_bytes: options.body_bytes,
            expires_seconds: options.expires,
            late_us: (!late.is_empty()).then(|| Percentiles::of(late)),
            errors: named(&series.total.errors),
            calls: Measured::new(series),
            fetches: None,
            deliveries: None,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            around,
            search: None,
        }
    }

    /// Adds the fetches of a mixed load.
    pub fn with_fetches(mut self, fetches: Series) -> Self {
        for (code, count) in named(&fetches.total.errors) {
            *self.errors.entry(code).or_default() += count;
        }
        self.fetches = Some(Measured::new(fetches));
        self
    }

    /// Adds what subscribers saw.
    pub fn with_deliveries(mut self, delivered: Delivered) -> Self {
        self.deliveries = Some(Deliveries {
            subscribers: delivered.subscribers,
            measured: Measured::new(delivered.series),
            faults: delivered.faults,
            max_faults: delivered.max_faults,
            streams_ended: delivered.ended,
        });
        self
    }

    /// What the bounds are about: of a fan-out its deliveries, of a mixed load both kinds of calls.
    pub fn judged(&self) -> Vec<(&'static str, &Measured)> {
        match (&self.deliveries, &self.fetches) {
            (Some(deliveries), _) => vec![("deliveries", &deliveries.measured)],
            (None, Some(fetches)) => vec![(self.unit(), &self.calls), ("fetches", fetches)],
            (None, None) => vec![(self.unit(), &self.calls)],
        }
    }

    /// All kinds of calls, each with its name.
    pub fn kinds(&self) -> Vec<(&'static str, &Measured)> {
        let mut kinds = vec![(self.unit(), &self.calls)];
        kinds.extend(self.fetches.as_ref().map(|fetches| ("fetches", fetches)));
        kinds.extend(self.deliveries.as_ref().map(|deliveries| ("deliveries", &deliveries.measured)));
        kinds
    }

    fn unit(&self) -> &'static str {
        if self.bench == "fetch" { "fetches" } else { "publishes" }
    }

    /// Processors that the client and the brokers kept busy; none without a full second.
    pub fn busy(&self) -> (Option<f64>, Option<f64>) {
        let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let client = mean(self.around.client.iter().map(|second| second.cpu).collect());
        (client, mean(self.around.server.iter().map(|second| second.cpu).collect()))
    }

    /// The table, line by line.
    pub fn table(&self) -> Vec<String> {
        let header = ["", "count", "per second", "p50", "p90", "p99", "p99.9", "max"];
        let mut lines = vec![columns(&header.map(str::to_owned))];
        lines.extend(self.kinds().iter().map(|(name, measured)| row(name, measured)));
        if let Some(deliveries) = &self.deliveries {
            let Faults { lost, repeated, reordered } = deliveries.faults;
            lines.push(format!("deliveries  {lost} lost, {repeated} repeated, {reordered} reordered"));
            if !deliveries.streams_ended.is_empty() {
                lines.push(format!("streams     ended by the broker: {}", counts(&deliveries.streams_ended)));
            }
        }
        lines.push(format!("errors      {}", counts(&self.errors)));
        lines.extend(self.processes().map(|text| format!("processors  {text}")));
        lines.extend(self.limited_by_client().map(|text| format!("limit       {text}")));
        lines
    }

    /// What client and brokers cost.
    pub fn processes(&self) -> Option<String> {
        let (client, server) = self.busy();
        let server = server.map(|busy| format!(", the broker {busy:.2}")).unwrap_or_default();
        let late = self.late_us.map(|late| format!("; calls began late by {} (p99)", millis(late.p99)));
        let late = late.unwrap_or_default();
        client.map(|busy| format!("the client had {busy:.2} of {}{server}{late}", self.processors))
    }

    /// Why the figures are the client's and not the server's, if they are.
    pub fn limited_by_client(&self) -> Option<String> {
        let longest = self.judged().iter().map(|(_, measured)| measured.latency_us.p99).max().unwrap_or_default();
        let late = self.late_us.unwrap_or_default().p99;
        if late >= LATE_MIN_US && late >= longest / 2 {
            let (late, longest) = (millis(late), millis(longest));
            return Some(format!("the client: it began calls {late} late of a p99 of {longest}"));
        }
        let busy = self.busy().0.filter(|busy| *busy >= CLIENT_BUSY * self.processors as f64)?;
        Some(format!("the client: it kept {busy:.2} of {} processors busy", self.processors))
    }

    /// The bounds that were not kept, a part of a sentence each.
    pub fn broken(&self, bounds: &Bounds) -> Vec<String> {
        let judged = self.judged();
        let mut broken = Vec::new();
        if judged.iter().all(|(_, measured)| measured.count == 0) {
            broken.push("nothing succeeded".to_owned());
        }
        for (name, measured) in &judged {
            let p99 = measured.latency_us.p99;
            if let Some(max) = bounds.max_p99.filter(|max| Duration::from_micros(p99) > *max) {
                let of = if judged.len() > 1 { format!(" of {name}") } else { String::new() };
                broken.push(format!("p99{of} is {}, above {}", millis(p99), humantime::format_duration(max)));
            }
        }
        let rate: f64 = judged.iter().map(|(_, measured)| measured.rate).sum();
        if let Some(min) = bounds.min_rate.filter(|min| rate < *min) {
            broken.push(format!("the rate is {rate:.0} a second, below {min}"));
        }
        let errors: u64 = self.errors.values().sum();
        if let Some(max) = bounds.max_errors.filter(|max| errors > *max) {
            broken.push(format!("there are {errors} errors, above {max}"));
        }
        if let Some(deliveries) = self.deliveries.as_ref().filter(|found| found.faults.total() > found.max_faults) {
            let Faults { lost, repeated, reordered } = deliveries.faults;
            broken.push(format!("deliveries were wrong: {lost} lost, {repeated} repeated, {reordered} reordered"));
        }
        broken
    }
}

/// Calls that begin later than this, and half of the p99, are the client's doing.
const LATE_MIN_US: u64 = 1_000;

/// A client that keeps so much of the machine busy is what limits.
const CLIENT_BUSY: f64 = 0.9;

fn named(errors: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    errors.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect()
}

fn row(name: &str, measured: &Measured) -> String {
    let latency = &measured.latency_us;
    columns(&[
        name.to_owned(),
        measured.count.to_string(),
        format!("{:.0}", measured.rate),
        millis(latency.p50),
        millis(latency.p90),
        millis(latency.p99),
        millis(latency.p99_9),
        millis(latency.max),
    ])
}

fn columns([name, count, rate, p50, p90, p99, p99_9, max]: &[String; 8]) -> String {
    format!("{name:10} {count:>11} {rate:>11} {p50:>11} {p90:>11} {p99:>11} {p99_9:>11} {max:>11}")
}

/// Microseconds as milliseconds with three decimals.
pub fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

pub fn counts(errors: &BTreeMap<String, u64>) -> String {
    if errors.is_empty() {
        return "none".to_owned();
    }
    errors.iter().map(|(code, count)| format!("{count} {code}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use super::super::options::tests::options;
    use super::super::record::{Calls, add};
    use super::super::watch::ClientSecond;
    use super::*;

    fn series(micros: &[u64], errors: &[(&'static str, u64)]) -> Series {
        let from = Instant::now();
        let mut calls = Calls::new();
        micros.iter().for_each(|micros| add(&mut calls.latencies, Duration::from_micros(*micros)));
        calls.errors = errors.iter().copied().collect();
        calls.last = Some(from + Duration::from_secs(2));
        let mut series = Series::new(from);
        series.add(&calls, from + Duration::from_secs(2));
        series
    }

    pub fn report(micros: &[u64], errors: &[(&'static str, u64)]) -> Report {
        Report::new("publish", &options("bench --in-flight 4"), series(micros, errors), Around::default())
    }

    pub fn delivered(lost: u64, max_faults: u64) -> Delivered {
        let faults = Faults { lost, repeated: 0, reordered: 0 };
        let ended = BTreeMap::from([("RESOURCE_EXHAUSTED".to_owned(), 1)]);
        Delivered { subscribers: 3, series: series(&[900], &[]), faults, max_faults, ended }
    }

    #[test]
    fn the_table_has_rates_latencies_and_errors() {
        let table = report(&[1000, 1000, 2000, 8000], &[("UNAVAILABLE", 2)]).table();
        let words: Vec<Vec<_>> = table.iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1][..5], ["publishes", "4", "2", "1.000", "ms"]);
        assert_eq!(words[2], ["errors", "2", "UNAVAILABLE"]);
    }

    #[test]
    fn bounds_that_are_not_kept_are_named() {
        let bounds = Bounds { max_p99: Some(Duration::from_millis(5)), min_rate: Some(3.0), max_errors: Some(0) };
        let broken = report(&[1000, 1000, 2000, 8000], &[("UNAVAILABLE", 2)]).broken(&bounds);
        assert_eq!(broken.len(), 3, "{broken:?}");
        assert!(broken[0].starts_with("p99 is 8.00") && broken[0].ends_with("above 5ms"), "{broken:?}");
        assert_eq!(broken[1..], ["the rate is 2 a second, below 3", "there are 2 errors, above 0"]);
        assert_eq!(report(&[1000; 10], &[]).broken(&bounds), Vec::<String>::new());
        assert_eq!(report(&[], &[]).broken(&Bounds::default()), ["nothing succeeded"]);
    }

    #[test]
    fn both_kinds_of_a_mixed_load_keep_the_bound() {
        let bounds = Bounds { max_p99: Some(Duration::from_millis(5)), ..Bounds::default() };
        let broken = report(&[1000], &[]).with_fetches(series(&[9000], &[])).broken(&bounds);
        assert!(broken.len() == 1 && broken[0].starts_with("p99 of fetches is 9.00"), "{broken:?}");
    }

    #[test]
    fn wrong_deliveries_break_the_run_unless_they_are_allowed() {
        let broken = report(&[1], &[]).with_deliveries(delivered(2, 0)).broken(&Bounds::default());
        assert_eq!(broken, ["deliveries were wrong: 2 lost, 0 repeated, 0 reordered"]);
        let report = report(&[1], &[]).with_deliveries(delivered(2, 2));
        assert_eq!(report.broken(&Bounds::default()), Vec::<String>::new());
        let table = report.table().join("\n");
        assert!(table.contains("2 lost, 0 repeated, 0 reordered") && table.contains("1 RESOURCE_EXHAUSTED"), "{table}");
    }

    #[test]
    fn json_names_what_was_run_and_measured_and_is_read_back() {
        let report = report(&[1000], &[]).with_deliveries(delivered(0, 0));
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(
            (&json["bench"], &json["in_flight"], &json["rate_wanted"]),
            (&"publish".into(), &4.into(), &().into())
        );
        assert_eq!((&json["count"], &json["latency_us"]["max"]), (&1.into(), &1000.into()));
        assert_eq!((&json["deliveries"]["lost"], &json["deliveries"]["count"]), (&0.into(), &1.into()));
        let read: Report = serde_json::from_value(json.clone()).expect("a report");
        assert_eq!(serde_json::to_value(&read).expect("JSON"), json);
    }

    #[test]
    fn the_distribution_ends_where_there_are_no_calls_for_it() {
        let points = report(&(1..=1000).collect::<Vec<_>>(), &[]).calls.distribution;
        assert_eq!(points.first().map(|(percentile, _)| *percentile), Some(0.0));
        assert!(
            points.iter().any(|(percentile, micros)| (percentile - 99.0).abs() < 1e-9 && *micros == 990),
            "{points:?}"
        );
        assert_eq!(
            points.last().map(|(percentile, micros)| ((percentile * 10.0).round(), *micros)),
            Some((999.0, 999))
        );
        assert_eq!(report(&[], &[]).calls.distribution, []);
    }

    #[test]
    fn a_client_that_is_late_or_busy_is_named_as_the_limit() {
        let mut report = report(&[9000], &[]);
        assert_eq!(report.limited_by_client(), None);
        report.late_us = Some(Percentiles { p99: 4000, ..Percentiles::default() });
        assert_eq!(report.limited_by_client(), None, "less than half of the latency");
        report.late_us = Some(Percentiles { p99: 8000, ..Percentiles::default() });
        let said = report.limited_by_client().expect("late");
        assert!(said.starts_with("the client: it began calls 8.000 ms late"), "{said}");
        report.late_us = None;
        report.processors = 2;
        report.around.client = vec![ClientSecond { at: 1.0, cpu: 1.9 }];
        assert!(report.limited_by_client().is_some_and(|said| said.contains("1.90 of 2 processors")));
    }
}
