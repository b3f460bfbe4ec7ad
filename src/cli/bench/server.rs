//! What the broker says of itself during a load: its `/metrics`, second by second.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::super::{output, status};
use super::watch::seconds_from;

/// What the brokers did within a second: sums over all that were asked, and the largest of what is behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerSecond {
    /// Its end, in seconds after the measurement began.
    pub at: f64,
    /// Processors that were busy with the brokers.
    pub cpu: f64,
    /// fdatasyncs of the log, a second.
    pub fsyncs: f64,
    /// Their mean time in seconds; none where there was none.
    pub fsync_mean: Option<f64>,
    /// Their 99th percentile in seconds, as exact as the buckets of the histogram.
    pub fsync_p99: Option<f64>,
    /// Records that are durable and not in the store.
    pub projector_lag: f64,
    /// Messages that the slowest subscriber has not taken.
    pub delivery_lag: f64,
}

/// Counters and gauges of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sample {
    cpu: f64,
    fsyncs: f64,
    fsync_seconds: f64,
    /// Upper bound and cumulated count.
    buckets: Vec<(f64, f64)>,
    projector_lag: f64,
    delivery_lag: f64,
}

const FSYNC: &str = "walcast_fsync_duration_seconds";

/// Asks each second from `from` on until it is finished. A broker that does not answer once is left alone: a load is no
/// place to wait for it.
pub async fn look(admins: Vec<String>, from: Instant, mut finished: watch::Receiver<bool>) -> Vec<ServerSecond> {
    let mut seconds = Vec::new();
    if admins.is_empty() {
        return seconds;
    }
    let mut ticks = seconds_from(from);
    let mut before: Option<(Instant, Sample)> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = finished.changed() => return seconds,
        }
        let asked = admins.clone();
        let answers = tokio::task::spawn_blocking(move || {
            asked.iter().map(|admin| status::get_path(admin, "/metrics")).collect::<Result<Vec<_>, _>>()
        });
        let now = Instant::now();
        match answers.await {
            Ok(Ok(texts)) => {
                let sample = Sample::of(&texts);
                seconds.extend(before.as_ref().map(|(then, earlier)| {
                    let at = now.saturating_duration_since(from).as_secs_f64();
                    sample.since(earlier, at, (now - *then).as_secs_f64())
                }));
                before = Some((now, sample));
            }
            Ok(Err(failure)) => {
                let reason = failure.message().unwrap_or("no answer");
                output::note(&format!("the report is without the broker's own figures from here on: {reason}"));
                return seconds;
            }
            // The runtime ends.
            Err(_) => return seconds,
        }
    }
}

impl Sample {
    fn of(texts: &[String]) -> Self {
        let mut sample = Self::default();
        for (name, labels, value) in texts.iter().flat_map(|text| text.lines()).filter_map(parts) {
            match name {
                "process_cpu_seconds_total" => sample.cpu += value,
                "walcast_projector_lag_records" => sample.projector_lag = sample.projector_lag.max(value),
                "walcast_delivery_lag_messages" => sample.delivery_lag = sample.delivery_lag.max(value),
                _ => match name.strip_prefix(FSYNC) {
                    Some("_count") => sample.fsyncs += value,
                    Some("_sum") => sample.fsync_seconds += value,
                    Some("_bucket") => sample.add_bucket(labels, value),
                    _ => {}
                },
            }
        }
        sample.buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        sample
    }

    fn add_bucket(&mut self, labels: &str, count: f64) {
        let bound = labels.split(',').find_map(|label| label.trim().strip_prefix("le=\"")?.strip_suffix('"'));
        // "+Inf" is a number to `parse`, too.
        let Some(bound) = bound.and_then(|bound| bound.parse::<f64>().ok()) else { return };
        match self.buckets.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count,
            None => self.buckets.push((bound, count)),
        }
    }

    /// What happened since an earlier one, `span` seconds ago. A counter that began anew counts as nothing.
    fn since(&self, earlier: &Self, at: f64, span: f64) -> ServerSecond {
        let fsyncs = (self.fsyncs - earlier.fsyncs).max(0.0);
        let seconds = (self.fsync_seconds - earlier.fsync_seconds).max(0.0);
        ServerSecond {
            at,
            cpu: (self.cpu - earlier.cpu).max(0.0) / span,
            fsyncs: fsyncs / span,
            fsync_mean: (fsyncs > 0.0).then(|| seconds / fsyncs),
            fsync_p99: (fsyncs > 0.0).then(|| self.quantile_since(earlier, 0.99)).flatten(),
            projector_lag: self.projector_lag,
            delivery_lag: self.delivery_lag,
        }
    }

    /// Within the bucket that has it, in proportion, as Prometheus does it.
    fn quantile_since(&self, earlier: &Self, quantile: f64) -> Option<f64> {
        let counts: Vec<(f64, f64)> = self
            .buckets
            .iter()
            .map(|(bound, count)| {
                let before = earlier.buckets.iter().find(|(known, _)| known == bound).map_or(0.0, |(_, count)| *count);
                (*bound, count - before)
            })
            .collect();
        let rank = counts.last()?.1 * quantile;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in counts {
            if count >= rank {
                let inside = if bound.is_finite() { (bound - lower) * (rank - below) / (count - below) } else { 0.0 };
                return Some(lower + inside);
            }
            (lower, below) = (bound, count);
        }
        None
    }
}

/// Name, labels and value of a line of Prometheus' text; none of a comment.
fn parts(line: &str) -> Option<(&str, &str, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some((name, labels.trim_end_matches('}'), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cpu: f64, counts: [u32; 3], sum: f64) -> String {
        let [one, two, all] = counts;
        format!(
            "# TYPE {FSYNC} histogram\n{FSYNC}_bucket{{le=\"0.001\"}} {one}\n{FSYNC}_bucket{{le=\"0.002\"}} {two}\n\
             {FSYNC}_bucket{{le=\"+Inf\"}} {all}\n{FSYNC}_sum {sum}\n{FSYNC}_count {all}\n\
             process_cpu_seconds_total {cpu}\nwalcast_projector_lag_records 7\nwalcast_delivery_lag_messages 3\n"
        )
    }

    #[test]
    fn a_second_is_the_difference_of_two_samples() {
        let before = Sample::of(&[text(10.0, [5, 5, 5], 1.0)]);
        let after = Sample::of(&[text(11.0, [5, 105, 105], 1.15)]);
        let second = after.since(&before, 2.0, 2.0);
        assert_eq!((second.cpu, second.fsyncs, second.projector_lag, second.delivery_lag), (0.5, 50.0, 7.0, 3.0));
        assert!(second.fsync_mean.is_some_and(|mean| (mean - 0.0015).abs() < 1e-9), "{second:?}");
        // 99 of the 100 between 1 and 2 ms.
        assert!(second.fsync_p99.is_some_and(|p99| (p99 - 0.00199).abs() < 1e-9), "{second:?}");
    }

    #[test]
    fn brokers_add_up_and_the_furthest_behind_counts() {
        let one = text(10.0, [1, 1, 1], 0.1);
        let other = text(5.0, [0, 2, 2], 0.2).replace("_records 7", "_records 9");
        let both = Sample::of(&[one, other]);
        assert_eq!((both.cpu, both.fsyncs, both.projector_lag), (15.0, 3.0, 9.0));
        assert_eq!(both.buckets, [(0.001, 1.0), (0.002, 3.0), (f64::INFINITY, 3.0)]);
    }

    #[test]
    fn a_broker_that_began_anew_counts_as_nothing_and_no_fsync_has_no_time() {
        let before = Sample::of(&[text(10.0, [5, 5, 5], 1.0)]);
        let second = Sample::of(&[text(0.1, [0, 0, 0], 0.0)]).since(&before, 1.0, 1.0);
        assert_eq!((second.cpu, second.fsyncs, second.fsync_mean, second.fsync_p99), (0.0, 0.0, None, None));
    }
}
