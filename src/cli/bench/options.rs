//! What all loads have in common.

use std::time::Duration;

use clap::Args;

use super::super::arguments::{ServerArguments, duration, whole_seconds};
use super::files::Files;
use super::record::Calls;
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
    /// Admin port whose /metrics go into the report: processor time, fdatasyncs and lag; once for each node
    /// [default: port 9464 of the server's host if its own port is 50051, else none]
    #[arg(long, value_name = "URL", env = "WALCAST_ADMIN", value_delimiter = ',')]
    pub admin: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub bounds: Bounds,
    /// Find the highest rate that keeps the bounds by itself: from --rate on it is doubled until they break, then the gap is
    /// halved until it is 5 %; each rate is tried for --warmup and --duration, and once more before it counts as too high
    #[arg(long, requires = "max_p99", conflicts_with_all = ["in_flight", "count"])]
    pub find_max: bool,
    /// With --find-max: try no higher rate
    #[arg(long, value_name = "PER_SECOND", requires = "find_max", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub max_rate: Option<u32>,
    /// When the run is lost and may end early.
    #[arg(skip)]
    pub give_up: Option<GiveUp>,
}

/// A percentile that cannot be kept any more.
#[derive(Debug, Clone, Copy)]
pub struct GiveUp {
    /// The longest latency that keeps the bound, in microseconds.
    pub bound_us: u64,
    /// This many calls may be longer.
    pub longer_max: u64,
}

impl GiveUp {
    /// Whether too many calls were too long, however the others will be.
    pub fn is_due(&self, calls: &Calls) -> bool {
        calls.latencies.count_between(self.bound_us.saturating_add(1), u64::MAX) > self.longer_max
    }
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

/// Where a broker listens if nobody has set it: for calls, and for operators.
const SERVER_PORT: u16 = 50051;
const ADMIN_PORT: u16 = 9464;

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

    /// Admin ports to be asked.
    pub fn admin(&self) -> Vec<String> {
        if !self.admin.is_empty() {
            return self.admin.clone();
        }
        // Another port is another broker's as likely as not.
        let uri: Option<http::Uri> = self.server.server.parse().ok();
        let host = uri.as_ref().filter(|uri| uri.port_u16() == Some(SERVER_PORT)).and_then(http::Uri::host);
        host.map(|host| format!("http://{host}:{ADMIN_PORT}")).into_iter().collect()
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

    use super::super::record::add;
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
    fn only_a_broker_at_its_usual_port_is_asked_by_itself() {
        assert_eq!(options("bench").admin(), ["http://127.0.0.1:9464"]);
        assert_eq!(options("bench --server http://[::1]:50051").admin(), ["http://[::1]:9464"]);
        assert_eq!(options("bench --server http://127.0.0.1:8080").admin(), Vec::<String>::new());
        let given = options("bench --server http://h:1 --admin http://a:1 --admin http://b:1");
        assert_eq!(given.admin(), ["http://a:1", "http://b:1"]);
    }

    #[test]
    fn a_search_needs_a_bound_and_an_open_loop() {
        assert!(options("bench --find-max --max-p99 10ms --rate 5").find_max);
        for wrong in ["bench --find-max", "bench --find-max --max-p99 1ms --in-flight 1"] {
            assert!(Line::try_parse_from(wrong.split_whitespace()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_run_is_lost_when_too_many_calls_are_too_long() {
        let give_up = GiveUp { bound_us: 1000, longer_max: 1 };
        let mut calls = Calls::new();
        for micros in [900, 5000] {
            add(&mut calls.latencies, Duration::from_micros(micros));
        }
        assert!(!give_up.is_due(&calls));
        add(&mut calls.latencies, Duration::from_micros(1100));
        assert!(give_up.is_due(&calls));
    }

    #[test]
    fn bodies_are_sizes_up_to_the_largest_of_any_broker() {
        assert_eq!(body_bytes("64KiB"), Ok(65_536));
        assert_eq!(body_bytes("0"), Ok(0));
        assert!(body_bytes("17MiB").is_err());
        assert!(body_bytes("many").is_err());
    }
}
