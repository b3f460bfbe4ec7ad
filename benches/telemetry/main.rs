//! What metrics and traces cost: the broker with a collector and a sample ratio of 0.01, beside one with neither.
//!
//! `make bench-telemetry` builds the other one with the feature `no-telemetry` (`--without`; the same broker without a collector, if there
//! is none), publishes to both in turn, each round with fresh processes, and prints the median of the rounds' ratios beside its floor.
//! The load comes from one and the same program. The collector takes every span and throws it away, and counts the calls: a broker that
//! exported nothing would measure itself, and so would one that counts where nothing is to be counted.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

mod collector;
#[allow(dead_code, clippy::panic, reason = "shared with the tests")]
#[path = "../../tests/it/support/http.rs"]
mod http;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/processes.rs"]
mod processes;
#[allow(dead_code, reason = "shared with the yardstick")]
#[path = "../common/system.rs"]
mod system;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

use system::{Launch, ServerProcess};

/// Why a run ended early, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The part of the throughput without metrics and traces that is left with them.
const FLOOR: f64 = 0.98;

const PUBLISHED: &str = "method_count{method=\"Publish\",status=\"OK\"}";
const EXPORTED: &str = "walcast_spans_exported_total";
const DROPPED: &str = "walcast_spans_dropped_total";

/// Measures what metrics and traces cost.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the ratio is the median of theirs.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Measured seconds of each side of a round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Share of the publishes that are traced.
    #[arg(long, default_value = "0.01")]
    ratio: String,
    /// Publishes in flight, on each of 8 connections.
    #[arg(long, default_value_t = 32)]
    in_flight: u32,
    /// The broker, which is the load client, too.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_walcast"))]
    walcast: PathBuf,
    /// The broker to compare with, built without metrics. Without it only traces are measured.
    #[arg(long)]
    without: Option<PathBuf>,
    /// Where the broker keeps its data; a real disk.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_root: PathBuf,
    /// Ends with exit code 1 when the ratio is below its floor.
    #[arg(long)]
    check: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one side of a round gave.
#[derive(Debug, Clone, Copy)]
struct Side {
    rate: f64,
    cpu_us: f64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome =
        tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| runtime.block_on(run(&args)));
    outcome.unwrap_or_else(|error| {
        eprintln!("telemetry: {error}");
        ExitCode::FAILURE
    })
}

async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let collector = collector::start_at("127.0.0.1:0").await?;
    let traced =
        vec![("TELEMETRY__OTLP_ENDPOINT", collector.endpoint.clone()), ("TELEMETRY__SAMPLE_RATIO", args.ratio.clone())];
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        // Turn and turn about, so that both meet the same weather on the machine.
        for full in if round.is_multiple_of(2) { [true, false] } else { [false, true] } {
            let server = if full { Server::Full(traced.clone()) } else { Server::Less };
            let side = side(args, server).await?;
            eprintln!("round {round}, telemetry {full}: {:.0}/s, {:.2} us CPU a publish", side.rate, side.cpu_us);
            if full { with.push(side) } else { without.push(side) }
        }
    }
    let calls = collector.calls();
    if calls == 0 {
        return Err("the collector was never called".into());
    }
    let both = || with.iter().zip(&without);
    let rate = median(both().map(|(with, without)| with.rate / without.rate));
    let cpu = median(both().map(|(with, without)| with.cpu_us / without.cpu_us));
    println!("{:<14} {:>10} {:>22}", "", "rate/s", "CPU us a publish");
    let less = if args.without.is_some() { "neither" } else { "without traces" };
    for (name, sides) in [(less.to_owned(), &without), (format!("ratio {}", args.ratio), &with)] {
        let [rate, cpu] = [|side: &Side| side.rate, |side: &Side| side.cpu_us].map(|of| median(sides.iter().map(of)));
        println!("{name:<14} {rate:>10.0} {cpu:>22.2}");
    }
    let verdict = if rate >= FLOOR { "kept" } else { "BROKEN" };
    println!("rate {rate:.3}, floor {FLOOR}: {verdict}; CPU {cpu:.3}; {calls} calls to the collector");
    Ok(if args.check && rate < FLOOR { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A side to measure.
#[derive(Debug, Clone)]
enum Server {
    /// With metrics, and with traces by these settings.
    Full(Vec<(&'static str, String)>),
    /// Without traces, and without metrics if there is such a build.
    Less,
}

/// The load on a fresh broker.
async fn side(args: &Args, side: Server) -> Result<Side, Failure> {
    let (settings, binary) = match &side {
        Server::Full(traced) => (traced.clone(), &args.walcast),
        Server::Less => (Vec::new(), args.without.as_ref().unwrap_or(&args.walcast)),
    };
    let server = ServerProcess::start(Launch::Walcast(settings), binary, &args.data_root).await?;
    let report = tempfile::NamedTempFile::new()?;
    let before = server.cpu_seconds()?;
    let mut load = Command::new(&args.walcast);
    load.args(["bench", "publish", "--server", &server.uri, "--connections", "8", "--max-errors", "0"]);
    load.args(["--in-flight", &args.in_flight.to_string(), "--duration", &format!("{}s", args.seconds)]);
    load.arg("--json").arg(report.path()).stdout(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || load.status()).await??;
    if !ended.success() {
        return Err(format!("the load ended with {ended}").into());
    }
    let cpu = server.cpu_seconds_when_quiet().await? - before;
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(report.path())?)?;
    let rate = json["rate"].as_f64().ok_or("a report without a rate")?;
    // The warm-up of a second has its part of the CPU time.
    let publishes = rate * (args.seconds + 1) as f64;
    let counted = server.metric(PUBLISHED).await?;
    if (counted > 0.0) == (matches!(side, Server::Less) && args.without.is_some()) {
        return Err(format!("{counted} publishes counted: not what is to be measured").into());
    }
    if matches!(side, Server::Full(_)) {
        let (exported, dropped) = (server.metric(EXPORTED).await?, server.metric(DROPPED).await?);
        if exported == 0.0 || dropped > 0.0 {
            return Err(format!("{exported} spans exported, {dropped} dropped: not what is to be measured").into());
        }
    }
    Ok(Side { rate, cpu_us: cpu * 1e6 / publishes })
}

/// The median; NaN of none, which keeps no floor.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
