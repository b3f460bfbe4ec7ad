//! The Postgres store beside a bare loop of UNNEST inserts, interleaved, and Fetch with few and many partitions.
//!
//! `cargo bench --bench postgres [-- --check] [--rounds N] [--body BYTES]`. Starts a server of its own with fsync on (`tests/services/install postgres`).
//! `--check` fails below 0.8 of the bare loop.
#![expect(clippy::disallowed_methods, reason = "a bench has no supervisor")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench prints, and ends where something is wrong"
)]

mod bare;
mod fetches;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/postgres/keeper.rs"]
mod keeper;
mod rows;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/postgres/server.rs"]
mod server;
mod support;

use std::time::{Duration, Instant};

use walcast::projector::Store as _;

use crate::server::Server;

/// Rows and bytes of a batch: as the projector's at full load.
const BATCH_ROWS: usize = 8_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The bound that `--check` holds the store to.
const RATIO_MIN: f64 = 0.8;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number =
        |name: &str| arguments.iter().skip_while(|word| *word != name).nth(1).map(|word| word.parse().unwrap());
    let (rounds, only) = (number("--rounds").unwrap_or(5), number("--body"));
    // Both write the same; a checkpoint in one of them only would be noise.
    let server = Server::with(&[
        "fsync=on",
        "shared_buffers=256MB",
        "max_wal_size=4GB",
        "checkpoint_timeout=1h",
        "autovacuum=off",
    ]);
    let mut worst = f64::MAX;
    for (body_bytes, batches) in [(256, 20), (4_096, 40)] {
        if only.is_none_or(|only| only == body_bytes) {
            worst = worst.min(compare(&server, body_bytes, batches, rounds).await);
        }
    }
    if only.is_none() {
        fetches::measure(&server).await;
    }
    if arguments.iter().any(|word| word == "--check") && worst < RATIO_MIN {
        println!("FAILED: {worst:.2} is below {RATIO_MIN}");
        std::process::exit(1);
    }
}

/// The store's rate as a part of the bare loop's: the median of the rounds.
async fn compare(server: &Server, body_bytes: usize, batches: usize, rounds: usize) -> f64 {
    let in_a_batch = BATCH_ROWS.min(BATCH_BYTES / body_bytes);
    println!(
        "bodies of {body_bytes} B, {batches} batches of {in_a_batch} rows, 1,000 subjects: rows/s bare, store, ratio"
    );
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let database = server.database().await;
        let runs = rows::runs(batches, in_a_batch, body_bytes);
        let admin = server.client(&database).await;
        admin.batch_execute("CHECKPOINT").await.unwrap();
        let (bare, store) = if round % 2 == 0 {
            let bare = bare::insert(&admin, &runs).await;
            (bare, apply(server, &database, &runs).await)
        } else {
            let store = apply(server, &database, &runs).await;
            (bare::insert(&admin, &runs).await, store)
        };
        let rate = |took: Duration| (batches * in_a_batch) as f64 / took.as_secs_f64();
        println!("  {:>9.0} {:>9.0}  {:.2}", rate(bare), rate(store), bare.as_secs_f64() / store.as_secs_f64());
        ratios.push(bare.as_secs_f64() / store.as_secs_f64());
        if round == 0 {
            rows::print_sizes(&admin, batches * in_a_batch).await;
        }
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("  median ratio {median:.2} ({:.2} to {:.2})", ratios[0], ratios[ratios.len() - 1]);
    median
}

async fn apply(server: &Server, database: &str, runs: &[rows::Run]) -> Duration {
    let store = server::store(&server.url(database), 1, 1);
    store.prepare().await.unwrap();
    let started = Instant::now();
    for run in runs {
        store.apply(run).await.unwrap();
    }
    started.elapsed()
}
