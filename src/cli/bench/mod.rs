//! `walcast bench`: a load client that measures.
//!
//! Open loop (`--rate`): calls are due at fixed times whether or not earlier ones were answered, and latency
//! counts from when a call was due, so a stall of the server shows in every call that it delayed. Closed loop
//! (`--in-flight`): each of a fixed number of callers waits for its answer before it calls again.

mod body;
mod delivered;
mod fanout;
mod fetch;
mod load;
mod mixed;
mod options;
mod order;
mod plan;
mod progress;
mod publish;
mod record;
mod report;
mod streams;

use clap::{Args, Subcommand};

use super::client::cannot_start;
use super::output::Output;
use super::{Exit, Failure};
use options::{Bounds, LoadOptions};
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
}

/// Runs the load, prints the table, writes the file, and checks the bounds.
pub fn run(arguments: &BenchArguments, output: &mut Output) -> Result<(), Failure> {
    // The load comes from several threads: one alone would measure itself.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| cannot_start(&error))?;
    let (load, report) = match &arguments.command {
        BenchCommand::Publish { load, keys } => (load, runtime.block_on(publish::run(load, *keys))?),
        BenchCommand::Stream { load } => (load, runtime.block_on(streams::run(load))?),
        BenchCommand::Mixed { load, fetch_percent } => (load, runtime.block_on(mixed::run(load, *fetch_percent))?),
        BenchCommand::Fetch { load, messages } => (load, runtime.block_on(fetch::run(load, *messages))?),
        BenchCommand::Fanout { load, fanout } => (load, runtime.block_on(fanout::run(load, fanout))?),
    };
    finish(&load.bounds, load.json.as_deref(), &report, output)
}

fn finish(
    bounds: &Bounds,
    file: Option<&std::path::Path>,
    report: &Report,
    output: &mut Output,
) -> Result<(), Failure> {
    report.table().iter().try_for_each(|line| output.line(line))?;
    if let Some(path) = file {
        let mut text = serde_json::to_string(report).expect("a report has text keys and finite numbers only");
        text.push('\n');
        std::fs::write(path, text).map_err(|error| Failure::writing(&path.display().to_string(), &error))?;
    }
    let broken = report.broken(bounds);
    if broken.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, broken.join("; "))) }
}
