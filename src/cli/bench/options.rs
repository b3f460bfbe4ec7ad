//! What the three loads have in common.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::arguments::{ServerArguments, duration, whole_seconds};
use crate::event::limits::BODY_BYTES_CEILING;

#[derive(Debug, Clone, Args)]
pub struct LoadOptions {
    #[command(flatten)]
    pub server: ServerArguments,
    /// Open loop: calls a second in all; the default, with 1000, unless --in-flight is given
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "in_flight", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Closed loop: callers on each connection that wait for one answer each (fanout: in all)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub in_flight: Option<u32>,
    /// Connections that the load is spread over
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// How long to measure [default: 10s unless --count is given]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Measure this many calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Load before the measurement
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Bytes of each body
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = body_bytes)]
    pub body_bytes: usize,
    /// Subjects that the messages are spread over [default: 100, fanout 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub subjects: Option<u32>,
    /// How long published messages can be fetched
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = whole_seconds)]
    pub expires: i32,
    /// Write the result to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub bounds: Bounds,
}

/// What must hold, or the command fails.
#[derive(Debug, Clone, Default, Args)]
pub struct Bounds {
    /// Fail if the 99th percentile of the latency is above this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub max_p99: Option<Duration>,
    /// Fail if the rate is below this many a second (fanout: deliveries)
    #[arg(long, value_name = "PER_SECOND")]
    pub min_rate: Option<f64>,
    /// Fail if there are more errors than this
    #[arg(long, value_name = "N")]
    pub max_errors: Option<u64>,
}

/// Measured time if neither a time nor a number is given.
const DURATION: Duration = Duration::from_secs(10);

/// Calls a second if no load is given.
const RATE: u32 = 1000;

/// Callers on a connection in an open loop: together they must cover the rate times the longest latency
/// worth measuring. Calls that find none free wait, and their waiting counts as latency.
const OPEN_LOOP_CALLERS: u32 = 512;

/// Subjects of loads whose messages nobody receives.
pub const SUBJECTS: u32 = 100;

/// How calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// This many calls a second.
    Open(u32),
    /// This many callers on each connection.
    Closed(u32),
}

impl LoadOptions {
    /// How calls are made.
    pub fn kind(&self) -> Loop {
        match (self.in_flight, self.rate) {
            (Some(in_flight), _) => Loop::Closed(in_flight),
            (None, rate) => Loop::Open(rate.unwrap_or(RATE)),
        }
    }

    /// Callers on each connection.
    pub fn callers(&self) -> u32 {
        match self.kind() {
            Loop::Closed(in_flight) => in_flight,
            Loop::Open(_) => OPEN_LOOP_CALLERS,
        }
    }

    /// How long to measure, if time is the measure.
    pub fn measured(&self) -> Option<Duration> {
        self.duration.or_else(|| self.count.is_none().then_some(DURATION))
    }
}

fn body_bytes(text: &str) -> Result<usize, String> {
    let size: bytesize::ByteSize = text.parse().map_err(|_| "write it like 256 or 64KiB".to_owned())?;
    let max = BODY_BYTES_CEILING;
    usize::try_from(size.as_u64())
        .ok()
        .filter(|bytes| *bytes <= max)
        .ok_or_else(|| format!("at most {max} bytes, the largest body that any broker takes"))
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadOptions,
    }

    pub fn options(line: &str) -> LoadOptions {
        Line::try_parse_from(line.split_whitespace()).expect("a valid line").load
    }

    #[test]
    fn the_loop_is_open_unless_callers_are_given() {
        assert_eq!(options("bench").kind(), Loop::Open(1000));
        assert_eq!(options("bench --rate 5").kind(), Loop::Open(5));
        assert_eq!(options("bench --in-flight 32").kind(), Loop::Closed(32));
        assert!(Line::try_parse_from(["bench", "--rate", "5", "--in-flight", "1"]).is_err());
    }

    #[test]
    fn time_is_the_measure_unless_a_number_is_given() {
        assert_eq!(options("bench").measured(), Some(DURATION));
        assert_eq!(options("bench --count 5").measured(), None);
        assert_eq!(options("bench --count 5 --duration 2s").measured(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn bodies_are_sizes_up_to_the_largest_of_any_broker() {
        assert_eq!(body_bytes("64KiB"), Ok(65_536));
        assert_eq!(body_bytes("0"), Ok(0));
        assert!(body_bytes("17MiB").is_err());
        assert!(body_bytes("many").is_err());
    }
}
