//! The page of `--html`: one file with tables and plots that loads nothing from elsewhere.

use std::fmt::Write as _;

use super::super::Failure;
use super::find;
use super::plots::{Across, Line, Panel, Run};
use super::report::{Report, counts, millis};
use super::seconds::Percentiles;

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#24292f;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;margin:1rem 0}\
td,th{padding:.2rem .8rem;border-bottom:1px solid #80868e55;text-align:right}td:first-child,th:first-child{text-align:left}\
svg{max-width:100%;height:auto}.limit{border-left:4px solid #d97b16;padding-left:.8rem}\
@media(prefers-color-scheme:dark){body{color:#d0d7de;background:#0d1117}}";

/// One of the percentiles.
type Choose = fn(&Percentiles) -> u64;

/// The run that a page is about, and the one that it is compared with.
#[derive(Debug, Clone, Copy)]
struct Runs<'a> {
    this: &'a Report,
    earlier: Option<&'a Report>,
}

/// The page of a run, beside an earlier one if there is one.
pub fn html(this: &Report, earlier: Option<&Report>) -> Result<String, Failure> {
    let runs = Runs { this, earlier };
    let mut body = String::new();
    let title = format!("walcast bench {}", escaped(&this.bench));
    add(&mut body, format_args!("<h1>{title}</h1>\n<p>{}</p>\n", escaped(&summary(this))));
    if let Some(earlier) = earlier {
        add(&mut body, format_args!("<p>Compared with (orange): {}</p>\n", escaped(&summary(earlier))));
    }
    if let Some(search) = &this.search {
        add(&mut body, format_args!("<p><strong>{}</strong></p>\n", escaped(&search.conclusion)));
    }
    for (name, text) in [("Processors", this.processes()), ("Limit", this.limited_by_client())] {
        let class = if name == "Limit" { " class=\"limit\"" } else { "" };
        let Some(text) = text else { continue };
        add(&mut body, format_args!("<p{class}>{name}: {}</p>\n", escaped(&text)));
    }
    body.push_str(&runs.table());
    for panel in runs.panels() {
        if let Some(svg) = panel.svg()? {
            add(&mut body, format_args!("{svg}\n"));
        }
    }
    if let Some(search) = &this.search {
        body.push_str("<h2>All rates that were tried</h2>\n<ol>\n");
        for step in &search.steps {
            add(&mut body, format_args!("<li>{}</li>\n", escaped(&find::line(step))));
        }
        body.push_str("</ol>\n");
    }
    body.push_str(NOTES);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    ))
}

const NOTES: &str = "<p>Latencies of an open loop count from when a call was due, not from when it was sent: a stall shows in every \
call that it delayed. A second has the calls that were answered in it. Figures of the broker come from its /metrics, once a second; \
percentiles of the sync are as exact as the buckets there.</p>\n";

/// What was run, in a sentence.
fn summary(report: &Report) -> String {
    let load = match (report.rate_wanted, report.in_flight) {
        (Some(rate), _) => format!("open loop, {rate} calls a second"),
        (None, in_flight) => format!("closed loop, {} in flight on each connection", in_flight.unwrap_or_default()),
    };
    let when = report.ended_at.as_ref().map(|ended| format!("; ended {ended}")).unwrap_or_default();
    let subscribers = report.deliveries.as_ref().map(|found| format!(", {} subscribers", found.subscribers));
    format!(
        "{} against {}: {load}, {} connections, bodies of {} bytes, kept {} s{}; walcast {}{when}",
        report.bench,
        report.server,
        report.connections,
        report.body_bytes,
        report.expires_seconds,
        subscribers.unwrap_or_default(),
        report.version
    )
}

impl<'a> Runs<'a> {
    /// The run, and the earlier one.
    fn each(self) -> impl Iterator<Item = (Run, &'a Report)> {
        std::iter::once((Run::This, self.this)).chain(self.earlier.map(|earlier| (Run::Earlier, earlier)))
    }

    /// The name of a line, which run it is of if there are two.
    fn name(self, run: Run, name: &str) -> String {
        match (run, self.earlier) {
            (Run::Earlier, _) => format!("{name}, earlier"),
            (Run::This, Some(_)) => format!("{name}, now"),
            (Run::This, None) => name.to_owned(),
        }
    }

    fn table(self) -> String {
        let mut table =
            "<table>\n<tr><th></th><th>count</th><th>per second</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th>\
                         <th>max</th><th>errors</th></tr>\n"
                .to_owned();
        for (run, report) in self.each() {
            for (place, (name, measured)) in report.kinds().into_iter().enumerate() {
                let times = measured.latency_us.each().map(|micros| format!("<td>{}</td>", millis(micros))).concat();
                let errors = if place == 0 { escaped(&counts(&report.errors)) } else { String::new() };
                let (name, count, rate) = (self.name(run, name), measured.count, measured.rate);
                add(
                    &mut table,
                    format_args!(
                        "<tr><td>{name}</td><td>{count}</td><td>{rate:.0}</td>{times}<td>{errors}</td></tr>\n"
                    ),
                );
            }
            if let Some(found) = &report.deliveries {
                let faults = found.faults;
                let text =
                    format!("{} lost, {} repeated, {} reordered", faults.lost, faults.repeated, faults.reordered);
                let name = self.name(run, "wrong deliveries");
                add(&mut table, format_args!("<tr><td>{name}</td><td colspan=\"8\">{text}</td></tr>\n"));
            }
        }
        if let Some(earlier) = self.earlier {
            for ((name, now), (_, before)) in self.this.kinds().into_iter().zip(earlier.kinds()) {
                let (now, before, rate) = (now.latency_us, before.latency_us, ratio(now.rate, before.rate));
                let times: String = now
                    .each()
                    .into_iter()
                    .zip(before.each())
                    .map(|(now, before)| format!("<td>{}</td>", ratio(now as f64, before as f64)))
                    .collect();
                let row = format!("<tr><td>{name}, now / earlier</td><td></td><td>{rate}</td>{times}<td></td></tr>\n");
                table.push_str(&row);
            }
        }
        table.push_str("</table>\n");
        table
    }

    fn panels(self) -> Vec<Panel> {
        let ends = self.each().flat_map(|(_, report)| {
            report.kinds().into_iter().filter_map(|(_, measured)| Some(measured.each_second.last()?.at))
        });
        let across = Across::Seconds(ends.fold(1.0, f64::max));
        let mut panels = vec![
            self.rates(across),
            self.latencies(across),
            self.distribution(),
            self.lag(across),
            self.processors(across),
            self.fsync_times(across),
            self.fsyncs(across),
        ];
        panels.extend(self.search());
        panels
    }

    fn rates(self, across: Across) -> Panel {
        let mut lines = Vec::new();
        for (run, report) in self.each() {
            for (number, (name, measured)) in report.kinds().into_iter().enumerate() {
                let points = measured.each_second.iter().map(|second| (second.at, second.rate)).collect();
                lines.push(Line { name: self.name(run, name), run, number, points });
            }
            let errors: Vec<(f64, f64)> =
                report.calls.each_second.iter().map(|second| (second.at, second.errors as f64)).collect();
            if errors.iter().any(|(_, count)| *count > 0.0) {
                lines.push(Line { name: self.name(run, "errors"), run, number: 3, points: errors });
            }
        }
        Panel { title: "Throughput", unit: "a second", powers: false, across, lines }
    }

    fn latencies(self, across: Across) -> Panel {
        let wanted: [(&str, Choose); 3] =
            [("p50", |found| found.p50), ("p99", |found| found.p99), ("max", |found| found.max)];
        // Three or four lines can be told apart, a dozen cannot.
        let many = self.each().map(|(_, report)| report.judged().len()).sum::<usize>() > 1;
        let wanted = if many { &wanted[..2] } else { &wanted[..] };
        let mut lines = Vec::new();
        for (run, report) in self.each() {
            // Of what the bounds are about.
            for (place, (kind, measured)) in report.judged().into_iter().enumerate() {
                for (number, (name, of)) in wanted.iter().enumerate() {
                    let millis = |found: &Percentiles| of(found) as f64 / 1e3;
                    let seconds = measured.each_second.iter();
                    let points = seconds.filter_map(|second| Some((second.at, millis(second.latency_us.as_ref()?))));
                    let name = self.name(run, &format!("{name} of {kind}"));
                    lines.push(Line { name, run, number: number + place * 2, points: points.collect() });
                }
            }
        }
        Panel { title: "Latency of the calls answered in each second", unit: "ms", powers: true, across, lines }
    }

    fn distribution(self) -> Panel {
        let mut lines = Vec::new();
        for (run, report) in self.each() {
            for (number, (name, measured)) in report.kinds().into_iter().enumerate() {
                let points =
                    measured.distribution.iter().map(|(percentile, micros)| (*percentile, *micros as f64 / 1e3));
                lines.push(Line { name: self.name(run, name), run, number, points: points.collect() });
            }
        }
        Panel { title: "Latency by percentile", unit: "ms", powers: true, across: Across::Percentiles, lines }
    }

    fn lag(self, across: Across) -> Panel {
        let mut lines = Vec::new();
        for (run, report) in self.each() {
            let seconds = &report.around.server;
            let delivery = seconds.iter().map(|second| (second.at, second.delivery_lag)).collect();
            let store = seconds.iter().map(|second| (second.at, second.projector_lag)).collect();
            lines.push(Line { name: self.name(run, "slowest subscriber"), run, number: 0, points: delivery });
            lines.push(Line { name: self.name(run, "store"), run, number: 1, points: store });
        }
        Panel {
            title: "Delivery and projection lag: durable, and not taken yet",
            unit: "messages",
            powers: false,
            across,
            lines,
        }
    }

    fn processors(self, across: Across) -> Panel {
        let mut lines = Vec::new();
        for (run, report) in self.each() {
            let server = report.around.server.iter().map(|second| (second.at, second.cpu)).collect();
            let client = report.around.client.iter().map(|second| (second.at, second.cpu)).collect();
            lines.push(Line { name: self.name(run, "broker"), run, number: 0, points: server });
            lines.push(Line { name: self.name(run, "this client"), run, number: 1, points: client });
        }
        Panel { title: "Processors in use", unit: "processors", powers: false, across, lines }
    }

    fn fsync_times(self, across: Across) -> Panel {
        let mut lines = Vec::new();
        for (run, report) in self.each() {
            let seconds = &report.around.server;
            let mean = seconds.iter().filter_map(|second| Some((second.at, second.fsync_mean? * 1e3))).collect();
            let p99 = seconds.iter().filter_map(|second| Some((second.at, second.fsync_p99? * 1e3))).collect();
            lines.push(Line { name: self.name(run, "mean"), run, number: 0, points: mean });
            lines.push(Line { name: self.name(run, "p99"), run, number: 1, points: p99 });
        }
        Panel { title: "Time of an fdatasync of the log", unit: "ms", powers: true, across, lines }
    }

    fn fsyncs(self, across: Across) -> Panel {
        let line = |(run, report): (Run, &Report)| {
            let points = report.around.server.iter().map(|second| (second.at, second.fsyncs)).collect();
            Line { name: self.name(run, "fdatasyncs"), run, number: 0, points }
        };
        let lines = self.each().map(line).collect();
        Panel { title: "fdatasyncs of the log", unit: "a second", powers: false, across, lines }
    }

    /// The p99 of all runs, in their order.
    fn search(self) -> Option<Panel> {
        let search = self.this.search.as_ref()?;
        let steps = || (1..).zip(&search.steps).map(|(place, step)| (f64::from(place), step));
        let p99 = steps().map(|(at, step)| (at, step.p99_us as f64 / 1e3)).collect();
        let bound = steps().map(|(at, _)| (at, search.max_p99_us as f64 / 1e3)).collect();
        let lines = vec![
            Line { name: "p99".to_owned(), run: Run::This, number: 0, points: p99 },
            Line { name: "bound".to_owned(), run: Run::Earlier, number: 0, points: bound },
        ];
        let across = Across::Runs(search.steps.len());
        Some(Panel { title: "The search: p99 of each run", unit: "ms", powers: true, across, lines })
    }
}

/// How many times as much, with two digits.
pub fn ratio(now: f64, before: f64) -> String {
    if before > 0.0 { format!("{:.2}", now / before) } else { "-".to_owned() }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::super::find::{Search, Step};
    use super::super::report::tests::{delivered, report};
    use super::super::server::ServerSecond;
    use super::*;

    fn whole() -> Report {
        let mut report = report(&[1000, 2000, 9000], &[]).with_deliveries(delivered(0, 0));
        let fsync = (Some(0.001), Some(0.003));
        report.around.server = vec![ServerSecond {
            at: 1.0,
            cpu: 0.5,
            fsyncs: 100.0,
            fsync_mean: fsync.0,
            fsync_p99: fsync.1,
            projector_lag: 3.0,
            delivery_lag: 1.0,
        }];
        report
    }

    #[test]
    fn the_page_has_every_plot_and_loads_nothing() {
        let page = html(&whole(), None).expect("drawn");
        assert_eq!(page.matches("<svg").count(), 7, "{page}");
        for forbidden in ["<script", "href=", "src=", "@import", "url("] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        let elsewhere = page.replace("http://www.w3.org/2000/svg", "").replace(&whole().server, "");
        assert!(!elsewhere.contains("http"), "an address");
        assert!(page.contains("0 lost, 0 repeated, 0 reordered"));
    }

    #[test]
    fn two_runs_share_their_plots() {
        let slow = report(&[4000, 4000, 4000], &[]);
        let page = html(&report(&[1000, 2000, 2000], &[]), Some(&slow)).expect("drawn");
        for text in ["publishes, now", "publishes, earlier", "now / earlier", "<td>0.50</td>", "#D97B16"] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }

    #[test]
    fn a_search_is_told_and_drawn() {
        let mut report = report(&[1000], &[]);
        let step =
            |rate, held| Step { rate, held, p99_us: rate.into(), broken: vec!["<p99>".to_owned()], client: None };
        let steps = vec![step(1000, true), step(2000, false)];
        let conclusion = "1000 calls a second keep it".to_owned();
        report.search = Some(Search { max_p99_us: 1500, highest: Some(1000), steps, conclusion });
        let page = html(&report, None).expect("drawn");
        assert!(page.contains("<strong>1000 calls a second keep it</strong>"), "{page}");
        assert!(page.contains("2000 a second: p99 2.000 ms, does not hold: &lt;p99&gt;"), "{page}");
    }

    #[test]
    fn what_the_server_is_called_cannot_become_a_tag() {
        let mut report = report(&[1000], &[]);
        report.server = "<script>".to_owned();
        assert!(!html(&report, None).expect("drawn").contains("<script>"));
    }
}
