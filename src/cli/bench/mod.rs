//! `walcast bench`: a load client that measures.
//!
//! Open loop (`--rate`): calls are due at fixed times whether or not earlier ones were answered, and latency
//! counts from when a call was due, so a stall of the server shows in every call that it delayed. Closed loop
//! (`--in-flight`): each of a fixed number of callers waits for its answer before it calls again.

mod body;
mod delivered;
mod fanout;
mod fetch;
mod files;
mod find;
mod load;
mod mixed;
mod options;
mod order;
mod page;
mod plan;
mod plots;
mod progress;
mod publish;
mod record;
mod report;
mod seconds;
mod server;
mod streams;
mod watch;

use clap::{Args, Subcommand};

use super::client::cannot_start;
use super::output::Output;
use super::{Exit, Failure};
use options::LoadOptions;
use report::Report;

#[derive(Debug, Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Publish: rate and latency of durable acknowledgements
    Publish {
        #[command(flatten)]
        load: LoadOptions,
        /// Give each publish an idempotency key of its own, to see what keys cost
        #[arg(long)]
        keys: bool,
    },
    /// Publish on streams, one on each connection: rate and latency of durable acknowledgements with many in flight
    Stream {
        #[command(flatten)]
        load: LoadOptions,
    },
    /// Publish, and fetch what was just published, on the same connections
    Mixed {
        #[command(flatten)]
        load: LoadOptions,
        /// How many of 100 calls are fetches
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=99))]
        fetch_percent: u64,
    },
    /// Publish messages, then fetch them over and over and compare their bodies
    Fetch {
        #[command(flatten)]
        load: LoadOptions,
        /// Messages that are published first and then fetched in turn
        #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        messages: u64,
    },
    /// Publish to subscribers: latency from publish to delivery; lost, repeated and reordered deliveries fail it
    Fanout {
        #[command(flatten)]
        load: LoadOptions,
        #[command(flatten)]
        fanout: fanout::FanoutOptions,
    },
    /// Draw runs that were measured before: the page of one file of --json, beside another with --compare
    Report {
        /// The file of --json
        #[arg(value_name = "FILE")]
        run: std::path::PathBuf,
        #[command(flatten)]
        files: files::Files,
    },
}

impl BenchCommand {
    /// Of all that put load on a broker.
    fn load(&self) -> Option<&LoadOptions> {
        match self {
            Self::Publish { load, .. }
            | Self::Stream { load }
            | Self::Mixed { load, .. }
            | Self::Fetch { load, .. }
            | Self::Fanout { load, .. } => Some(load),
            Self::Report { .. } => None,
        }
    }

    /// Puts this load on it.
    async fn measure(&self, load: &LoadOptions) -> Result<Report, Failure> {
        match self {
            Self::Publish { keys, .. } => publish::run(load, *keys).await,
            Self::Stream { .. } => streams::run(load).await,
            Self::Mixed { fetch_percent, .. } => mixed::run(load, *fetch_percent).await,
            Self::Fetch { messages, .. } => fetch::run(load, *messages).await,
            Self::Fanout { fanout, .. } => fanout::run(load, fanout).await,
            Self::Report { run, .. } => files::read(run),
        }
    }
}

/// Runs the load, prints the table, writes the files, and checks the bounds.
pub fn run(arguments: &BenchArguments, output: &mut Output) -> Result<(), Failure> {
    let Some(load) = arguments.command.load() else { return draw(&arguments.command, output) };
    // Before minutes of load for nothing.
    let earlier = files::earlier(&load.files)?;
    // The load comes from several threads: one alone would measure itself.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| cannot_start(&error))?;
    let measure = |load: &LoadOptions| runtime.block_on(arguments.command.measure(load));
    let report = if load.find_max { find::run(load, find::REST, measure)? } else { measure(load)? };
    files::show(&report, earlier.as_ref(), &load.files, output)?;
    if let Some(search) = &report.search {
        output.line(&search.conclusion)?;
    }
    let broken = report.broken(&load.bounds);
    if broken.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, broken.join("; "))) }
}

/// Shows runs that were measured before.
fn draw(command: &BenchCommand, output: &mut Output) -> Result<(), Failure> {
    let BenchCommand::Report { run, files } = command else { return Ok(()) };
    let earlier = files::earlier(files)?;
    files::show(&files::read(run)?, earlier.as_ref(), files, output)
}
