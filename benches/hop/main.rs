//! What the hop to the owner of a subject costs: publishes that reach their owner directly, by another node, and by an Envoy without
//! and with subject affinity, interleaved, on the same processors, beside a server that does nothing.
//!
//! `make bench-hop` runs it; every server is a process of its own and fresh in each round, and so is the load client. Of the
//! cluster of three the first node owns every slot, so that "direct" is a call to it and "by another node" one to the second. Behind Envoy the
//! slots are shared out evenly.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/it/support/programs.rs"]
mod programs;
mod servers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand};

use servers::Servers;

/// Bytes of each body, as `walcast bench` has them.
pub const BODY_BYTES: usize = 256;

/// Why a run ended early, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Of the direct rate, on the same processors: the hop reads and writes each call once more.
const RATE_FLOOR: f64 = 0.45;

/// Measures what the hop costs.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measured seconds of each side, after a second of warm-up.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The broker, which is the load client, too.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_walcast"))]
    walcast: PathBuf,
    /// Where the brokers keep their data; a real disk.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_root: PathBuf,
    /// An Envoy, for the sides behind one.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Ends with exit code 1 when a figure is beyond its floor.
    #[arg(long)]
    check: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Runs the server that does nothing, until it is killed.
    #[command(hide = true)]
    Noop,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// A server that does nothing.
    Noop,
    /// The owner.
    Direct,
    /// Another node.
    Forwarded,
    /// Three nodes with equal shares behind Envoy.
    Envoy,
    /// The same, and Envoy sends a subject to one node always.
    Affinity,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Direct => "direct",
            Self::Forwarded => "by another node",
            Self::Envoy => "Envoy, three nodes",
            Self::Affinity => "Envoy with affinity",
        }
    }
}

/// Connections, and calls in flight on each.
const LOADS: [(u32, u32); 2] = [(8, 32), (1, 1)];

/// What one side of a round gave.
#[derive(Debug, Clone, Copy)]
struct Figures {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.role {
        Some(Role::Noop) => tokio::runtime::Runtime::new()
            .map_err(Failure::from)
            .and_then(|runtime| runtime.block_on(servers::noop::serve(false)))
            .map(|()| ExitCode::SUCCESS),
        None => run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("hop: {error}");
        ExitCode::FAILURE
    })
}

type Rounds = BTreeMap<((u32, u32), Side), Vec<Figures>>;

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut sides = vec![Side::Noop, Side::Direct, Side::Forwarded];
    if args.envoy.is_some() {
        sides.extend([Side::Envoy, Side::Affinity]);
    }
    let mut rounds = Rounds::new();
    for round in 1..=args.rounds {
        // Turn and turn about, so that all meet the same weather on the machine.
        sides.reverse();
        for &side in &sides {
            let servers = Servers::start(side, &args.walcast, &args.data_root, args.envoy.as_deref())?;
            for load in LOADS {
                let figures = measure(args, &servers, load)?;
                eprintln!("round {round}, {}x{} {}: {figures:?}", load.0, load.1, side.name());
                rounds.entry((load, side)).or_default().push(figures);
            }
        }
    }
    Ok(report(&rounds, args.check))
}

/// The load on servers that run.
fn measure(args: &Args, servers: &Servers, (connections, in_flight): (u32, u32)) -> Result<Figures, Failure> {
    let report = tempfile::NamedTempFile::new()?;
    let mut load = Command::new(&args.walcast);
    load.args(["bench", "publish", "--server", &servers.uri, "--max-errors", "0", "--subjects", "1000"]);
    load.args(["--connections", &connections.to_string(), "--in-flight", &in_flight.to_string()]);
    load.args(["--duration", &format!("{}s", args.seconds), "--json"]).arg(report.path());
    let output = load.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(
            format!("the load ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    servers.prove()?;
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(report.path())?)?;
    let number = |value: &serde_json::Value| value.as_f64().ok_or("a report without its figures");
    let latency = &json["latency_us"];
    Ok(Figures { rate: number(&json["rate"])?, p50_us: number(&latency["p50"])?, p99_us: number(&latency["p99"])? })
}

/// The table, and the floors.
fn report(rounds: &Rounds, check: bool) -> ExitCode {
    println!(
        "{:<8} {:<22} {:>10} {:>10} {:>10}   (medians; spread of the rate)",
        "load", "way", "rate/s", "p50 us", "p99 us"
    );
    for ((load, side), figures) in rounds {
        let of = |part: fn(&Figures) -> f64| median(figures.iter().map(part));
        let rates = || figures.iter().map(|figures| figures.rate);
        let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
        println!(
            "{:<8} {:<22} {:>10.0} {:>10.0} {:>10.0}   ({least:.0} to {most:.0})",
            format!("{}x{}", load.0, load.1),
            side.name(),
            of(|figures| figures.rate),
            of(|figures| figures.p50_us),
            of(|figures| figures.p99_us),
        );
    }
    let all = |load, side| rounds.get(&(load, side)).map_or(&[][..], Vec::as_slice);
    let ratio = median(
        all(LOADS[0], Side::Forwarded)
            .iter()
            .zip(all(LOADS[0], Side::Direct))
            .map(|(hop, direct)| hop.rate / direct.rate),
    );
    let one = |side| all(LOADS[1], side).iter().map(|figures| figures.p50_us).collect::<Vec<_>>();
    let above = one(Side::Forwarded).into_iter().zip(one(Side::Direct)).zip(one(Side::Noop));
    let above = median(above.map(|((hop, direct), noop)| (hop - direct) / noop));
    let verdict = |kept: bool| if kept { "kept" } else { "BROKEN" };
    println!("8x32, rate by another node, of direct: {ratio:.2}, floor {RATE_FLOOR}: {}", verdict(ratio >= RATE_FLOOR));
    println!(
        "1x1, p50 by another node above direct, of a no-op call: {above:.2}, at most 1: {}",
        verdict(above <= 1.0)
    );
    // NaN of nothing keeps no floor.
    let kept = ratio >= RATE_FLOOR && above <= 1.0;
    if check && !kept { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The median; NaN of none, which keeps no floor.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
