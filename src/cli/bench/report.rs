//! The result: a table for people, JSON for programs, and the bounds that it must keep.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::delivered::Delivered;
use super::options::{Bounds, LoadOptions, Loop};
use super::order::Faults;
use super::record::{Calls, Latencies};

/// One run. Latencies are in microseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    bench: &'static str,
    server: String,
    /// Calls a second that were due; none in a closed loop.
    rate_wanted: Option<u32>,
    /// Callers on each connection; none in an open loop.
    in_flight: Option<u32>,
    connections: u32,
    body_bytes: usize,
    expires_seconds: i32,
    #[serde(flatten)]
    calls: Measured,
    errors: BTreeMap<&'static str, u64>,
    /// Of a mixed load; the calls are its publishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetches: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<Deliveries>,
}

/// How many, how fast, how long.
#[derive(Debug, Serialize)]
struct Measured {
    count: u64,
    seconds: f64,
    rate: f64,
    latency_us: Percentiles,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

#[derive(Debug, Serialize)]
struct Deliveries {
    subscribers: u32,
    #[serde(flatten)]
    measured: Measured,
    #[serde(flatten)]
    faults: Faults,
    max_faults: u64,
    streams_ended: BTreeMap<&'static str, u64>,
}

impl Measured {
    fn new(latencies: &Latencies, from: Instant, last: Option<Instant>) -> Self {
        let seconds = last.map_or(0.0, |last| last.saturating_duration_since(from).as_secs_f64());
        let count = latencies.len();
        let at = |quantile| latencies.value_at_quantile(quantile);
        Self {
            count,
            seconds,
            rate: if seconds > 0.0 { count as f64 / seconds } else { 0.0 },
            latency_us: Percentiles {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p99_9: at(0.999),
                max: latencies.max(),
            },
        }
    }
}

impl Report {
    /// The report of calls that were measured from `from` on.
    pub fn new(bench: &'static str, options: &LoadOptions, calls: &Calls, from: Instant) -> Self {
        let (rate_wanted, in_flight) = match options.kind() {
            Loop::Open(rate) => (Some(rate), None),
            Loop::Closed(in_flight) => (None, Some(in_flight)),
        };
        Self {
            bench,
            server: options.server.server.clone(),
            rate_wanted,
            in_flight,
            connections: options.connections,
            body_bytes: options.body_bytes,
            expires_seconds: options.expires,
            calls: Measured::new(&calls.latencies, from, calls.last),
            errors: calls.errors.clone(),
            fetches: None,
            deliveries: None,
        }
    }

    /// Adds the fetches of a mixed load, which were measured from `from` on.
    pub fn with_fetches(mut self, fetches: &Calls, from: Instant) -> Self {
        self.fetches = Some(Measured::new(&fetches.latencies, from, fetches.last));
        for (code, count) in &fetches.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self
    }

    /// Adds what subscribers saw.
    pub fn with_deliveries(mut self, delivered: Delivered, from: Instant) -> Self {
        self.deliveries = Some(Deliveries {
            subscribers: delivered.subscribers,
            measured: Measured::new(&delivered.latencies, from, delivered.last),
            faults: delivered.faults,
            max_faults: delivered.max_faults,
            streams_ended: delivered.ended,
        });
        self
    }

    /// The table, line by line.
    pub fn table(&self) -> Vec<String> {
        let unit = if self.bench == "fetch" { "fetches" } else { "publishes" };
        let header = ["", "count", "per second", "p50", "p90", "p99", "p99.9", "max"];
        let mut lines = vec![columns(&header.map(str::to_owned)), row(unit, &self.calls)];
        lines.extend(self.fetches.as_ref().map(|fetches| row("fetches", fetches)));
        if let Some(deliveries) = &self.deliveries {
            lines.push(row("deliveries", &deliveries.measured));
            let Faults { lost, repeated, reordered } = deliveries.faults;
            lines.push(format!("deliveries  {lost} lost, {repeated} repeated, {reordered} reordered"));
            if !deliveries.streams_ended.is_empty() {
                lines.push(format!("streams     ended by the broker: {}", counts(&deliveries.streams_ended)));
            }
        }
        lines.push(format!("errors      {}", counts(&self.errors)));
        lines
    }

    /// The bounds that were not kept, a part of a sentence each.
    pub fn broken(&self, bounds: &Bounds) -> Vec<String> {
        // Who asks for fan-out asks about deliveries.
        let measured = self.deliveries.as_ref().map_or(&self.calls, |deliveries| &deliveries.measured);
        let mut broken = Vec::new();
        if measured.count == 0 {
            broken.push("nothing succeeded".to_owned());
        }
        let p99 = Duration::from_micros(measured.latency_us.p99);
        if let Some(max) = bounds.max_p99.filter(|max| p99 > *max) {
            broken.push(format!(
                "p99 is {}, above {}",
                millis(measured.latency_us.p99),
                humantime::format_duration(max)
            ));
        }
        if let Some(min) = bounds.min_rate.filter(|min| measured.rate < *min) {
            broken.push(format!("the rate is {:.0} a second, below {min}", measured.rate));
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
fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

fn counts(errors: &BTreeMap<&'static str, u64>) -> String {
    if errors.is_empty() {
        return "none".to_owned();
    }
    errors.iter().map(|(code, count)| format!("{count} {code}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::options;
    use super::super::record::{add, latencies};
    use super::*;

    fn report(micros: &[u64], errors: &[(&'static str, u64)]) -> Report {
        let from = Instant::now();
        let mut calls = Calls::new();
        micros.iter().for_each(|micros| add(&mut calls.latencies, Duration::from_micros(*micros)));
        calls.errors = errors.iter().copied().collect();
        calls.last = Some(from + Duration::from_secs(2));
        Report::new("publish", &options("bench --in-flight 4"), &calls, from)
    }

    fn delivered(lost: u64, max_faults: u64) -> Delivered {
        let mut latencies = latencies();
        add(&mut latencies, Duration::from_micros(900));
        let faults = Faults { lost, repeated: 0, reordered: 0 };
        let ended = BTreeMap::from([("RESOURCE_EXHAUSTED", 1)]);
        Delivered { subscribers: 3, latencies, last: None, faults, max_faults, ended }
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
    fn wrong_deliveries_break_the_run_unless_they_are_allowed() {
        let from = Instant::now();
        let broken = report(&[1], &[]).with_deliveries(delivered(2, 0), from).broken(&Bounds::default());
        assert_eq!(broken, ["deliveries were wrong: 2 lost, 0 repeated, 0 reordered"]);
        let report = report(&[1], &[]).with_deliveries(delivered(2, 2), from);
        assert_eq!(report.broken(&Bounds::default()), Vec::<String>::new());
        let table = report.table().join("\n");
        assert!(table.contains("2 lost, 0 repeated, 0 reordered") && table.contains("1 RESOURCE_EXHAUSTED"), "{table}");
    }

    #[test]
    fn json_names_what_was_run_and_measured() {
        let report = report(&[1000], &[]).with_deliveries(delivered(0, 0), Instant::now());
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(
            (&json["bench"], &json["in_flight"], &json["rate_wanted"]),
            (&"publish".into(), &4.into(), &().into())
        );
        assert_eq!((&json["count"], &json["latency_us"]["max"]), (&1.into(), &1000.into()));
        assert_eq!((&json["deliveries"]["lost"], &json["deliveries"]["count"]), (&0.into(), &1.into()));
    }
}
