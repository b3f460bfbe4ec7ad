//! The Cassandra store beside a bare loop of concurrent prepared inserts of the same rows, on a node of its own.
//!
//! `make bench-cassandra` prints rows a second of both, the ratio, and how long a fetch takes. Rounds are interleaved, so
//! that both meet the same weather on the machine; the figures are medians over the rounds.
//!
//! What is compared: the bare loop sends one insert a row, as many at once as the store, from one task, and waits for nothing
//! else. The store applies the rows in batches of the projector's size, with the marks of 100 subjects and a moved position
//! each. Both write the same rows with the same statement to the same table, which has all of them after the first round.
#![expect(clippy::print_stdout, reason = "a command that prints a table")]

mod bare;
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use all of it")]
#[path = "../../tests/cassandra/harness/mod.rs"]
mod harness;
mod support;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use futures_util::{StreamExt as _, stream};
use walcast::projector::cassandra::CassandraStore;
use walcast::projector::{Row, Store, StoreBatch};

use self::bare::Bare;
use self::harness::{Place, Setup, batch, id, now, row};

/// The least ratio to the bare loop.
const RATIO_MIN: f64 = 0.8;

/// Subjects of the rows, in turn.
const SUBJECTS: u64 = 100;

/// Rows and bytes of a batch, as the projector's defaults are.
const BATCH_ROWS: usize = 8_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Fetches at once in the second measurement of their time.
const FETCHES_AT_ONCE: usize = 32;

/// Compares the store with a bare loop of inserts.
#[derive(Debug, Parser)]
struct Args {
    /// Interleaved rounds; the figures are medians over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rows of a round.
    #[arg(long, default_value_t = 40_000)]
    rows: u64,
    /// Fetches whose time is measured.
    #[arg(long, default_value_t = 10_000)]
    fetches: u64,
    /// Bytes of a body.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 4096])]
    body: Vec<usize>,
    /// Ends with exit code 1 when a ratio is below its bound.
    #[arg(long)]
    check: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let node = Setup::compiled().start();
    let mut good = true;
    println!(
        "body B   bare rows/s   store rows/s   ratio   fetch p50/p99 us   of {FETCHES_AT_ONCE} at once p50/p99 us"
    );
    for body in &args.body {
        good &= compare(&args, &Place::on(&node), *body).await >= RATIO_MIN;
    }
    if args.check && !good {
        println!("a ratio is below {RATIO_MIN}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// All rounds of one body size; the ratio.
async fn compare(args: &Args, place: &Place, body: usize) -> f64 {
    let store = place.open().await;
    let bare = Bare::connect(&place.config).await;
    let (mut bare_rates, mut store_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up the server's compiler and is not counted.
    for round in 0..=args.rounds as u64 {
        let rows = rows_of(round * args.rows, args.rows, body);
        let batches = batches_of(round * args.rows, &rows);
        let begun = Instant::now();
        bare.insert(&rows).await;
        let bare_rate = rate(args.rows, begun.elapsed());
        let begun = Instant::now();
        for batch in &batches {
            store.apply(batch).await.expect("applied");
        }
        let store_rate = rate(args.rows, begun.elapsed());
        if round > 0 {
            bare_rates.push(bare_rate);
            store_rates.push(store_rate);
            ratios.push(store_rate / bare_rate);
        }
    }
    let (mut alone, mut many) = (fetch(args, &store, 1).await, fetch(args, &store, FETCHES_AT_ONCE).await);
    let ratio = quantile(&mut ratios, 0.5);
    println!(
        "{body:6} {:13.0} {:14.0} {ratio:7.2} {:9.0} / {:6.0} {:19.0} / {:6.0}",
        quantile(&mut bare_rates, 0.5),
        quantile(&mut store_rates, 0.5),
        quantile(&mut alone, 0.5),
        quantile(&mut alone, 0.99),
        quantile(&mut many, 0.5),
        quantile(&mut many, 0.99),
    );
    ratio
}

fn rows_of(previous: u64, count: u64, body: usize) -> Vec<Row> {
    // Half of it does not compress.
    let mut state = 1u32;
    let body: Bytes = (0..body)
        .map(|place| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if place % 2 == 0 { 7 } else { state.to_le_bytes()[3] }
        })
        .collect();
    (previous + 1..=previous + count)
        .map(|sequence| Row {
            id: id(sequence / SUBJECTS + 1),
            ..row(sequence, &format!("subject {}", sequence % SUBJECTS), body.clone())
        })
        .collect()
}

fn batches_of(mut previous: u64, rows: &[Row]) -> Vec<Arc<StoreBatch>> {
    let bytes = rows[0].body.len() + rows[0].subject.as_str().len();
    let size = (BATCH_BYTES / bytes).clamp(1, BATCH_ROWS);
    rows.chunks(size)
        .map(|rows| {
            let made = batch(previous, rows.to_vec());
            previous = made.projected.sequence().get();
            made
        })
        .collect()
}

/// The times of fetches of rows spread over all, in microseconds.
async fn fetch(args: &Args, store: &CassandraStore, at_once: usize) -> Vec<f64> {
    let all = args.rows * (args.rounds as u64 + 1);
    let fetches = (0..args.fetches).map(|number| async move {
        // Jumps about; the step has no factor in common with usual counts.
        let sequence = 1 + number * 7_919 % all;
        let subject = harness::subject(&format!("subject {}", sequence % SUBJECTS));
        let begun = Instant::now();
        let found = store.fetch(&subject, id(sequence / SUBJECTS + 1), now()).await.expect("read");
        assert!(found.is_some(), "{sequence}");
        begun.elapsed().as_secs_f64() * 1e6
    });
    stream::iter(fetches).buffer_unordered(at_once).collect().await
}

fn rate(rows: u64, elapsed: Duration) -> f64 {
    rows as f64 / elapsed.as_secs_f64()
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}
