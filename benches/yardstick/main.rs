//! The broker beside a tonic server that does nothing, and beside itself: same client, same machine, interleaved rounds.
//!
//! `cargo bench --bench yardstick -- --check` prints a table of medians and the figures beside their floors.
//! What it has in common with the other comparisons is in `benches/common/`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

mod cell;
#[path = "../common/client/mod.rs"]
mod client;
mod disk;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/figures.rs"]
mod figures;
mod hampered;
#[allow(dead_code, clippy::panic, reason = "shared with the tests")]
#[path = "../../tests/it/support/http.rs"]
mod http;
mod load;
#[path = "../common/noop.rs"]
mod noop;
mod page;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/page.rs"]
mod pages;
#[allow(dead_code, reason = "shared with the comparison of the stores")]
#[path = "../common/processes.rs"]
mod processes;
#[path = "../common/program.rs"]
mod program;
mod report;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/system.rs"]
mod system;
mod table;

pub use program::Failure;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cell::{Cell, Side};
use client::Plan;
use disk::Syncs;
use figures::{Figure, Measured};
use hampered::Hampered;
use program::Role;
use report::Report;
use system::ServerProcess;

/// Compares the broker with a tonic server that does nothing, and with itself.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them [default: 3, quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// Measured seconds of each load, after half a second of warm-up [default: 3, quick: 1].
    #[arg(long)]
    seconds: Option<f64>,
    /// One short round with a tenth of subjects, subscribers and messages: shows that everything works; its figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Only these loads.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Cell>,
    /// Publishes in flight of a fan-out [default: 256 for one subscriber, 16 for more].
    #[arg(long)]
    in_flight: Option<usize>,
    /// Another broker binary than the one built beside this program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_walcast"))]
    walcast: PathBuf,
    /// Where the broker keeps its data; must be a real disk for the figures to mean anything.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_root: PathBuf,
    /// Also writes the figures of every round to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also writes the tables of this page, between its marks: `docs/performance.md`.
    #[arg(long, conflicts_with = "only")]
    write: Option<PathBuf>,
    /// Ends with exit code 1 when a figure is beyond its floor.
    #[arg(long)]
    check: bool,
    /// The control: stops the broker for most of the time, and ends with exit code 1 unless every floor of a rate or of a
    /// high percentile is found to be broken.
    #[arg(long, conflicts_with_all = ["only", "check", "write"])]
    control: bool,
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
        let seconds = self.seconds.unwrap_or(if self.quick { 1.0 } else { 3.0 });
        Plan { measured: Duration::from_secs_f64(seconds), quick: self.quick }
    }

    /// What is measured, in order.
    fn cells(&self) -> Vec<Cell> {
        let asked = |cell: Cell| match self.control {
            true => report::finds_pauses(cell),
            false => self.only.is_empty() || self.only.contains(&cell),
        };
        Cell::ALL.into_iter().filter(|&cell| asked(cell)).collect()
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    program::run("yardstick", args.role, compare(&args))
}

async fn compare(args: &Args) -> Result<ExitCode, Failure> {
    let cells = args.cells();
    let mut report = Report::new(cells.clone());
    for round in 1..=args.rounds() {
        for &cell in cells.iter().filter(|cell| !cell.keeps_servers()) {
            one_round(args, round, cell, &mut report).await?;
        }
    }
    for &cell in cells.iter().filter(|cell| cell.keeps_servers()) {
        all_rounds(args, cell, &mut report).await?;
    }
    print!("{}", table::table(&report));
    if let Some(path) = &args.json {
        std::fs::write(path, report.json().to_string())?;
    }
    if let Some(path) = &args.write {
        page::write(&report, args, path)?;
    }
    let below = if args.control { report.not_found_out() } else { report.beyond_floors() };
    for line in &below {
        println!("{line}");
    }
    Ok(if (args.check || args.control) && !below.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The sides in the order of a round: turn and turn about, so that both meet the same weather on the machine.
fn sides(cell: Cell, round: usize) -> Vec<Side> {
    let mut sides = cell.sides().to_vec();
    if round.is_multiple_of(2) {
        sides.reverse();
    }
    sides
}

/// All sides of a cell in one round, each with a fresh process: nothing that one leaves behind (rows to project, memory)
/// weighs on the next.
async fn one_round(args: &Args, round: usize, cell: Cell, report: &mut Report) -> Result<(), Failure> {
    eprintln!("round {round} of {}: {cell}", args.rounds());
    let offered = match cell.half_of() {
        Some(whole) => Some(0.5 * rate_of(args, round, whole, report).await?),
        None => None,
    };
    let mut syncs = if cell.counts_in_syncs() { Some(Syncs::new()?) } else { None };
    for side in sides(cell, round) {
        if let Some(syncs) = &mut syncs {
            syncs.add(&args.data_root).await?;
        }
        report.add(round, cell, side, fresh(args, cell, side, offered).await?);
    }
    if let Some(mut syncs) = syncs {
        // Before, between and after, for the disk may have become another meanwhile.
        syncs.add(&args.data_root).await?;
        report.add(round, cell, Side::Disk, syncs.measured());
    }
    Ok(())
}

/// What the broker reached in a cell in this round; runs it if it was not asked for.
async fn rate_of(args: &Args, round: usize, cell: Cell, report: &Report) -> Result<f64, Failure> {
    let rate = match report.of_round(round, cell, Side::Walcast, Figure::Rate) {
        Some(rate) => Some(rate),
        None => fresh(args, cell, Side::Walcast, None).await?.get(Figure::Rate),
    };
    rate.ok_or_else(|| format!("{cell} has no rate").into())
}

async fn fresh(args: &Args, cell: Cell, side: Side, offered: Option<f64>) -> Result<Measured, Failure> {
    let server = ServerProcess::start(load::launch(cell, side), &args.walcast, &args.data_root).await?;
    measure(args, cell, side, &server, offered).await
}

async fn measure(
    args: &Args,
    cell: Cell,
    side: Side,
    server: &ServerProcess,
    offered: Option<f64>,
) -> Result<Measured, Failure> {
    let _hampered = (args.control && side == Side::Walcast).then(|| Hampered::begin(server.pid()));
    let measured = Box::pin(load::run(cell, side, server, &args.plan(), offered, args.in_flight)).await;
    Ok(measured.map_err(|error| format!("{}, {cell}: {error}", cell.side_name(side)))?)
}

/// All rounds of a cell whose servers take long to prepare.
async fn all_rounds(args: &Args, cell: Cell, report: &mut Report) -> Result<(), Failure> {
    eprintln!("preparing: {cell}");
    let mut servers = Vec::new();
    for &side in cell.sides() {
        let server = ServerProcess::start(load::launch(cell, side), &args.walcast, &args.data_root).await?;
        let prepared = Box::pin(load::prepare(cell, side, &server, &args.plan())).await;
        prepared.map_err(|error| format!("preparing {}, {cell}: {error}", cell.side_name(side)))?;
        servers.push((side, server));
    }
    for round in 1..=args.rounds() {
        eprintln!("round {round} of {}: {cell}", args.rounds());
        for side in sides(cell, round) {
            let (_, server) = servers.iter().find(|(of, _)| *of == side).ok_or("a side without a server")?;
            report.add(round, cell, side, measure(args, cell, side, server, None).await?);
        }
    }
    Ok(())
}
