//! The log beside okaywal and beside a bare loop of one pwrite and one fdatasync, on a real disk.
//!
//! `make bench-log` prints commits/s and p99 by batch size with the ratio to the bare loop, then a sustained run with
//! its worst commits. Rounds are interleaved, so that all contenders meet the same weather on the machine; the
//! figures are medians over the rounds.
//!
//! What is compared: a commit makes `batch` records of 256 bytes durable. The bare loop writes the bytes of our frame,
//! prepared beforehand, into zero-filled files of our segments' size, in turn; our log and okaywal build the batch
//! from its records within the measured time.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints a table")]

mod batches;
mod contenders;
mod sustained;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Compares the log with okaywal and with a bare loop of pwrite and fdatasync.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them. Many short ones: a disk's weather changes within seconds.
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// Measured seconds of each cell.
    #[arg(long, default_value_t = 0.02)]
    seconds: f64,
    /// Records in a batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64, 256, 1024])]
    batch: Vec<usize>,
    /// Seconds of each part of the sustained run; 0 leaves it out.
    #[arg(long, default_value_t = 60.0)]
    sustained: f64,
    /// Megabytes a second in the sustained run.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// A short run that shows that everything works; its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Where the files are written; must be a real disk for the figures to mean anything.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    /// Ends with exit code 1 when a figure is beyond its bound.
    #[arg(long)]
    check: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.quick {
        (args.rounds, args.seconds, args.sustained) = (10, 0.02, args.sustained.min(3.0));
    }
    match compare(&args) {
        Ok(within) if within || !args.check => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("log: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the tables; whether every figure is within its bound.
fn compare(args: &Args) -> Result<bool, Failure> {
    let mut told = String::new();
    let dir = tempfile::Builder::new().prefix("bench-log-").tempdir_in(&args.dir)?;
    if !args.batch.is_empty() {
        let measured = batches::run(dir.path(), &args.batch, args.rounds, Duration::from_secs_f64(args.seconds))?;
        let table = measured.table();
        print!("{table}");
        told += &table;
    }
    if args.sustained > 0.0 {
        let lines = sustained::run(dir.path(), args.rate, Duration::from_secs_f64(args.sustained))?;
        println!("{lines}");
        told += &lines;
    }
    Ok(!told.contains("MISSED"))
}
