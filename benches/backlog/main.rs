//! A broker with a long log beside one with an empty log: start-up, memory, Fetch, publishes.
//!
//! `cargo bench --bench backlog` writes a log of 10 GiB through the library (messages of 256 bytes on 10,000 subjects),
//! starts the real broker on it, and prints a table. The history store is `none`, so everything that is fetched is
//! read from the log: as during an outage of a store that began before the first of these messages.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

mod broker;
mod make;
mod measure;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures a broker with a long log.
#[derive(Debug, Parser)]
pub struct Args {
    /// Size of the log in GiB.
    #[arg(long, default_value_t = 10.0)]
    gib: f64,
    /// Subjects that its messages are spread over.
    #[arg(long, default_value_t = 10_000)]
    subjects: usize,
    /// Bytes of each body.
    #[arg(long, default_value_t = 256)]
    body_bytes: usize,
    /// Random messages that are fetched.
    #[arg(long, default_value_t = 20_000)]
    fetches: usize,
    /// Fetches in flight at once.
    #[arg(long, default_value_t = 8)]
    fetchers: usize,
    /// Rounds of publishing to each of the two, interleaved; the rate is the median.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of publishing in each round.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Use this data directory, and make the log if it is empty; otherwise one is made and removed.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The broker.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_walcast"))]
    walcast: PathBuf,
    /// Where the data directories are made; a real disk.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_root: PathBuf,
    /// Ends with exit code 1 when a figure is beyond its bound.
    #[arg(long)]
    check: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async {
            let scratch = tempfile::Builder::new().prefix("backlog").tempdir_in(&args.data_root)?;
            let long = args.dir.clone().unwrap_or_else(|| scratch.path().join("long"));
            let made = make::make(&args, &long)?;
            measure::measure(&args, &long, &scratch.path().join("empty"), &made).await
        })
    });
    match outcome {
        Ok(within) if within || !args.check => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("backlog: {error}");
            ExitCode::FAILURE
        }
    }
}
