//! What the hop to the owner of a subject costs: publishes that reach their owner directly, by another node, and by an Envoy without
//! and with subject affinity, interleaved, on the same processors, beside a server that does nothing.
//!
//! `make bench-hop` runs it; every server is a process of its own and fresh in each round, and so is the load client. Of the
//! cluster of three the first node owns every slot, so that "direct" is a call to it and "by another node" one to the second. Behind Envoy the
//! slots are shared out evenly.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/envoy.rs"]
mod envoy;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/noop.rs"]
mod noop;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/page.rs"]
mod pages;
#[path = "../common/program.rs"]
mod program;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/it/support/programs.rs"]
mod programs;
mod servers;
mod table;

pub use program::Failure;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

use program::Role;
use servers::Servers;

/// Measures what the hop costs.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them [default: 3, quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// Measured seconds of each side, after a second of warm-up [default: 3, quick: 1].
    #[arg(long)]
    seconds: Option<u64>,
    /// One short round: shows that everything works; its figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// The broker, which is the load client, too.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_walcast"))]
    walcast: PathBuf,
    /// Where the brokers keep their data; a real disk.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_root: PathBuf,
    /// An Envoy, for the sides behind one.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Also writes the table of this page, between its marks: `docs/performance.md`.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Ends with exit code 1 when a figure is beyond its floor.
    #[arg(long)]
    check: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
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
pub struct Figures {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Args {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// What was measured, for the page.
    fn settings(&self) -> Result<String, Failure> {
        let quick = if self.quick { pages::QUICK } else { "" };
        Ok(format!("{quick}{}; {} rounds of {} s a load.", pages::made()?, self.rounds(), self.seconds()))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    // Nothing else runs on the runtime: it may block.
    program::run("hop", args.role, async { run(&args) })
}

/// By load and side, in the order of the rounds.
pub type Rounds = BTreeMap<((u32, u32), Side), Vec<Figures>>;

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut sides = vec![Side::Noop, Side::Direct, Side::Forwarded];
    if args.envoy.is_some() {
        sides.extend([Side::Envoy, Side::Affinity]);
    }
    let mut rounds = Rounds::new();
    for round in 1..=args.rounds() {
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
    let text = table::markdown(&rounds, &args.settings()?)?;
    println!("{text}");
    if let Some(page) = &args.write {
        let mut page = pages::Page::open(page)?;
        page.put("hop", &text)?;
        page.save()?;
    }
    let kept = table::keeps_floors(&rounds);
    Ok(if args.check && !kept { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The load on servers that run.
fn measure(args: &Args, servers: &Servers, (connections, in_flight): (u32, u32)) -> Result<Figures, Failure> {
    let report = tempfile::NamedTempFile::new()?;
    let mut load = Command::new(&args.walcast);
    load.args(["bench", "publish", "--server", &servers.uri, "--max-errors", "0", "--subjects", "1000"]);
    load.args(["--connections", &connections.to_string(), "--in-flight", &in_flight.to_string()]);
    load.args(["--duration", &format!("{}s", args.seconds()), "--json"]).arg(report.path());
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
