//! Embedded, Postgres and Cassandra through the same workloads, and what expiry does to tables over time.
//!
//! `make bench-stores` compares the three and writes tables and plots into `docs/stores.md`; `make bench-expiry` publishes at a
//! steady rate and fails unless the tables stay as large as they are; `make draw-stores` writes the report again from the figures
//! of the last comparison. Each starts servers of its own, with their default durability.
//!
//! Rounds are interleaved: each goes through all stores, so that all meet the same weather on the machine.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints what it does")]
#![expect(clippy::disallowed_methods, reason = "a bench has no supervisor")]

mod broker;
mod compare;
#[path = "../common/databases.rs"]
mod databases;
mod expiry;
mod figures;
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/cassandra/harness/mod.rs"]
mod harness;
#[allow(dead_code, clippy::panic, reason = "shared with the tests")]
#[path = "../../tests/postgres/keeper.rs"]
mod keeper;
mod kill;
mod lag;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/page.rs"]
mod page;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/plots.rs"]
mod painting;
mod places;
mod plots;
#[allow(dead_code, reason = "shared with the other comparisons")]
#[path = "../common/processes.rs"]
mod processes;
mod projection;
mod report;
mod rows;
#[allow(dead_code, clippy::panic, reason = "shared with the tests")]
#[path = "../../tests/postgres/server.rs"]
mod server;
mod servers;
mod soak;
#[path = "../common/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Why a run ended early, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all stores through all workloads.
    Compare(CompareArguments),
    /// Publish into Postgres while messages expire; fails unless the tables stay as large as they are.
    Soak {
        #[command(flatten)]
        soak: soak::SoakArguments,
        /// The page whose table and plot are written; none without it.
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Write the report again from the figures of the last comparison.
    Draw(CompareArguments),
}

/// What is compared, and where the report goes.
#[derive(Debug, Clone, Args)]
pub struct CompareArguments {
    /// A small run of some two minutes that shows that everything works; its figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds; the figures are medians over them [default: 3, quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// The stores.
    #[arg(long, value_delimiter = ',', default_values_t = figures::Kind::ALL)]
    stores: Vec<figures::Kind>,
    /// The page whose tables and plots are written [default: docs/stores.md; quick: a copy below target/].
    #[arg(long)]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Compare(arguments) => compare::run(&arguments).await,
        Command::Draw(arguments) => compare::report(&arguments),
        Command::Soak { soak, report } => soaked(&soak, report.as_deref()).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stores: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn soaked(arguments: &soak::SoakArguments, page: Option<&Path>) -> Result<(), Failure> {
    let soak = soak::run(arguments).await?;
    match page {
        Some(page) if !arguments.control => report::soaked(&soak, page),
        _ => Ok(()),
    }
}
