//! Power cuts under load, again and again, judged by the oracle: `make power-cut` and, as the control, `make power-cut-control`.
//!
//! The broker runs in a guest whose power is cut; clients and oracle run on the host and reach it over TCP, so an ack that
//! counts is one that has left the machine. The same disk goes through all cuts, some of them while the broker starts.
//! Needs root and what `tests/services/install uml` installs.
//!
//! `WALCAST_CUT_CYCLES` (200, the control 10), `WALCAST_CUT_MAX_MS` (2000) and `WALCAST_CUT_SEED` (random, printed).
//!
//! The times until ready are those of an unoptimised build in a guest with one processor: compare them with each other
//! only, `make soak` has the real ones.
//!
//! Not in here: a disk that loses its own write cache. Whatever the guest's kernel has handed to the disk is kept by the
//! host, whether or not it was flushed.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "a test has no supervisor; the runtime of the test ends its tasks")]

#[cfg(feature = "fault-controls")]
mod control;
#[cfg(not(feature = "fault-controls"))]
mod cuts;
mod machine;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the integration tests, which use more of it")]
mod support;

use std::time::Duration;

use machine::Guest;
use rand::RngExt as _;
use rand::rngs::StdRng;
use support::from_env;
use support::load::Load;
use tokio::task::JoinSet;

/// Acks that have left the guest before the cut are read after it.
const LAST_ACKS: Duration = Duration::from_millis(50);

/// Settings of the broker, by the names of their variables without the prefix.
fn settings(segment_bytes: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![("LIMITS__BODY_BYTES", "72KiB"), ("LOG__SEGMENT_BYTES", segment_bytes), ("LOG__KEEP_BYTES", "512KiB")]
}

fn seed() -> u64 {
    let seed = from_env("WALCAST_CUT_SEED", rand::random());
    println!("WALCAST_CUT_SEED={seed}");
    seed
}

/// Cuts the power under load, at a random moment.
async fn cut_under_load(guest: Guest, load: &Load, random: &mut StdRng) -> Vec<String> {
    let longest_ms = from_env("WALCAST_CUT_MAX_MS", 2000).max(50);
    let mut tasks: JoinSet<()> = load.start(guest.grpc(), random).await;
    tokio::time::sleep(Duration::from_millis(random.random_range(50..=longest_ms))).await;
    let lines = guest.cut().await;
    // No connection breaks when the machine behind it is gone: what has not come by now never comes.
    tokio::time::sleep(LAST_ACKS).await;
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()), "a client panicked");
    }
    lines
}
