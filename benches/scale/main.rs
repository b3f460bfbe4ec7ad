//! How rate, latency and cost grow: the broker beside a server that does nothing, on every store and through the shipped Envoy,
//! and with the size of messages, connections, subjects and subscribers. One thing is varied at a time.
//!
//! `make bench-scale` prints its tables and writes them, and a plot of each, into `docs/performance.md`. Client, server that does
//! nothing and the handling of processes are the yardstick's (`benches/common/`), and so are the rules: rounds are interleaved, ratios
//! are made within a round, and the first error ends the run.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints tables")]
#![expect(clippy::disallowed_methods, reason = "a bench has no supervisor")]

mod axis;
#[path = "../common/client/mod.rs"]
mod client;
#[path = "../common/databases.rs"]
mod databases;
#[path = "../common/envoy.rs"]
mod envoy;
#[allow(dead_code, reason = "shared with the yardstick, which uses all of it")]
#[path = "../common/figures.rs"]
mod figures;
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/cassandra/harness/mod.rs"]
mod harness;
#[allow(dead_code, clippy::panic, reason = "shared with the tests")]
#[path = "../../tests/postgres/keeper.rs"]
mod keeper;
#[path = "../common/noop.rs"]
mod noop;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/page.rs"]
mod pages;
#[allow(dead_code, reason = "shared with the comparison of the stores")]
#[path = "../common/plots.rs"]
mod painting;
mod places;
mod plots;
#[allow(dead_code, reason = "shared with the comparison of the stores")]
#[path = "../common/processes.rs"]
mod processes;
#[path = "../common/program.rs"]
mod program;
mod results;
mod run;
#[allow(dead_code, clippy::panic, reason = "shared with the tests")]
#[path = "../../tests/postgres/server.rs"]
mod server;
#[path = "../common/support.rs"]
mod support;
#[allow(dead_code, reason = "shared with the yardstick, which uses all of it")]
#[path = "../common/system.rs"]
mod system;
mod tables;

pub use program::Failure;
pub use support::{http, programs};

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use axis::Axis;
use client::Plan;
use pages::Page;
use places::Places;
use program::Role;
use results::Results;

/// Measures how rate, latency and cost grow.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them [default: 3, quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// Measured seconds of each load, after half a second of warm-up [default: 2, quick: 1].
    #[arg(long)]
    seconds: Option<f64>,
    /// One short round with a tenth of the most subjects: shows that everything works; its figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Axis>,
    /// Another broker binary than the one built beside this program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_walcast"))]
    walcast: PathBuf,
    /// The program envoy.
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    /// Where the broker keeps its data; must be a real disk for the figures to mean anything.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_root: PathBuf,
    /// Also writes the tables of this page, between its marks, and the plots beside it: `docs/performance.md`. Each as soon as it
    /// is whole.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

impl Args {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn plan(&self) -> Plan {
        let seconds = self.seconds.unwrap_or(if self.quick { 1.0 } else { 2.0 });
        Plan { measured: Duration::from_secs_f64(seconds), quick: self.quick }
    }

    /// What was measured, for the page.
    fn settings(&self) -> Result<String, Failure> {
        let quick = if self.quick { pages::QUICK } else { "" };
        let seconds = self.plan().measured.as_secs_f64();
        Ok(format!("{quick}{}; {} rounds of {seconds} s a load.", pages::made()?, self.rounds()))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run("scale", args.role, async {
        for axis in Axis::ALL.into_iter().filter(|axis| args.only.is_empty() || args.only.contains(axis)) {
            whole(&args, axis).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// All rounds of an axis, its table and its plot.
async fn whole(args: &Args, axis: Axis) -> Result<(), Failure> {
    let begun = Instant::now();
    // Databases cost processor time that the others would not have: they are there for their own axis only.
    let places = if axis == Axis::Stores { Places::start().await? } else { Places::default() };
    let mut results = Results::default();
    if axis == Axis::Stores {
        // A Java machine that was just started compiles meanwhile.
        run::side(args, &places, axis, 0, axis::CASSANDRA).await?;
    }
    for round in 1..=args.rounds() {
        for value in axis.values(&args.plan()) {
            let mut sides = axis.sides();
            // Turn and turn about, so that all meet the same weather on the machine.
            if round.is_multiple_of(2) {
                sides.reverse();
            }
            for side in sides {
                eprintln!(
                    "{:4.0} s, round {round} of {}: {axis}, {value}, {side}",
                    begun.elapsed().as_secs_f64(),
                    args.rounds()
                );
                let measured = Box::pin(run::side(args, &places, axis, value, side)).await;
                results.add(value, side, measured.map_err(|error| format!("{axis}, {value}, {side}: {error}"))?);
            }
        }
    }
    let text = format!("{}{}", places.settings(args.settings()?), tables::table(axis, &results)?);
    println!("{axis}\n{text}");
    match &args.write {
        Some(page) => write(page, axis, &text, &results),
        None => Ok(()),
    }
}

fn write(path: &Path, axis: Axis, text: &str, results: &Results) -> Result<(), Failure> {
    let mut page = Page::open(path)?;
    // Each by its own name, so that a test finds who writes a block.
    match axis {
        Axis::Stores => page.put("stores", text)?,
        Axis::Size => page.put("size", text)?,
        Axis::Connections => page.put("connections", text)?,
        Axis::Subjects => page.put("subjects", text)?,
        Axis::Subscribers => page.put("subscribers", text)?,
    }
    let folder = page.plots()?;
    std::fs::create_dir_all(&folder)?;
    plots::draw(axis, results, &folder.join(format!("{axis}.svg")))?;
    page.save()
}
