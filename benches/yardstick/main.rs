//! The broker beside a tonic server that does nothing: same client, same machine, interleaved rounds.
//!
//! `cargo bench --bench yardstick -- --check` prints a table of medians and the ratios beside their floors.
//! The server that does nothing is this program again (`yardstick noop`), so that each system is a process
//! of its own whose CPU time can be read.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

mod load;
mod noop;
mod report;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use load::{Cell, Measured, Plan};
use report::Report;
use server::{ServerProcess, System};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Compares the broker with a tonic server that does nothing.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measured seconds of each cell, after half a second of warm-up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only these cells.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Cell>,
    /// Another broker binary than the one built beside this program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_walcast"))]
    walcast: PathBuf,
    /// Where the broker keeps its data; must be a real disk for the figures to mean anything.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_root: PathBuf,
    /// Also writes the figures of every round to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Ends with exit code 1 when a ratio is beyond its floor.
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

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let outcome = match args.role {
        Some(Role::Noop) => runtime.block_on(noop::serve()).map(|()| ExitCode::SUCCESS),
        None => runtime.block_on(compare(&args)),
    };
    outcome.unwrap_or_else(|error| fail(&error))
}

fn fail(error: &Failure) -> ExitCode {
    eprintln!("yardstick: {error}");
    ExitCode::FAILURE
}

async fn compare(args: &Args) -> Result<ExitCode, Failure> {
    let cells = if args.only.is_empty() { Cell::ALL.to_vec() } else { args.only.clone() };
    let plan = Plan { measured: Duration::from_secs_f64(args.seconds) };
    let mut report = Report::new(cells.clone());
    for round in 1..=args.rounds {
        for &cell in &cells {
            eprintln!("round {round} of {}: {cell}", args.rounds);
            // Turn and turn about, so that both meet the same weather on the machine.
            for system in if round % 2 == 1 { [System::Noop, System::Walcast] } else { [System::Walcast, System::Noop] }
            {
                report.add(system, cell, one_cell(system, args, cell, &plan).await?);
            }
        }
    }
    print!("{}", report.table());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json().to_string())?;
    }
    let below = report.beyond_floors();
    for line in &below {
        println!("{line}");
    }
    Ok(if args.check && !below.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn one_cell(system: System, args: &Args, cell: Cell, plan: &Plan) -> Result<Measured, Failure> {
    // A fresh process for each cell: nothing that one leaves behind (rows to project, memory) weighs on the next.
    let server = ServerProcess::start(system, &args.walcast, &args.data_root).await?;
    Ok(load::run(cell, &server, plan).await.map_err(|error| format!("{system}, {cell}: {error}"))?)
}
