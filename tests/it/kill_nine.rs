//! kill -9 under load, again and again, judged by the oracle.
//!
//! `WALCAST_KILL_CYCLES` (25), `WALCAST_KILL_MAX_MS` (400) and `WALCAST_KILL_SEED` (random, printed).

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::load::{Load, RestartTimes};
use crate::support::oracle::Ledger;
use crate::support::{Broker, Setup, Stopped, from_env};

/// Load until the kill.
async fn kill_under_load(broker: Broker, load: &Load, random: &mut StdRng, longest_ms: u64) -> Stopped {
    let tasks = load.start(broker.grpc(), random).await;
    tokio::time::sleep(Duration::from_millis(random.random_range(50..=longest_ms))).await;
    let stopped = broker.kill_nine().await;
    tasks.join_all().await;
    stopped
}

fn seed() -> u64 {
    let seed = from_env("WALCAST_KILL_SEED", rand::random());
    println!("WALCAST_KILL_SEED={seed}");
    seed
}

fn setup() -> Setup {
    // Small enough that segments are finished, trimmed and used again within a few cycles.
    let setup = Setup::new().set("limits.body_bytes", "256KiB").set("log.segment_bytes", "1MiB");
    setup.set("log.keep_bytes", "2MiB")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_no_id_is_given_twice() {
    let (seed, cycles) = (seed(), from_env("WALCAST_KILL_CYCLES", 25));
    let longest_ms = from_env("WALCAST_KILL_MAX_MS", 400).max(50);
    let mut random = StdRng::seed_from_u64(seed);
    let load = Load::new(seed);
    let mut restarts = RestartTimes::default();
    let mut broker = setup().start().await;
    let mut next = Load::first_ids();
    let started = Instant::now();
    for cycle in 1..=cycles {
        let stopped = kill_under_load(broker, &load, &mut random, longest_ms).await;
        let restarted = Instant::now();
        broker = stopped.start().await;
        restarts.add(restarted.elapsed());
        next = load.judge(broker.grpc(), next).await;
        assert_eq!(load.broken(), [""; 0], "cycle {cycle} of seed {seed}");
    }
    load.is_taken_by(broker.grpc(), broker.admin(), &next).await;
    // Once more from the first id on: what was there after its own crash is there after all of them.
    load.judge(broker.grpc(), Load::first_ids()).await;
    assert_eq!(load.broken(), [""; 0], "after all cycles of seed {seed}");
    broker.stop().await;
    let (acknowledged, delivered) = load.with(|ledger| (ledger.acknowledged_count(), ledger.delivered_count()));
    let (lost, twice) = load.with(|ledger| (ledger.lost_count(), ledger.given_twice_count()));
    let (p50, max) = restarts.p50_and_max();
    println!(
        "{cycles} kills in {:.1} s: {acknowledged} acknowledged, {delivered} seen by subscribers, {lost} lost, \
         {twice} ids given twice; ready after a kill in {:.0} ms (p50), {:.0} ms (max)",
        started.elapsed().as_secs_f64(),
        p50.as_secs_f64() * 1e3,
        max.as_secs_f64() * 1e3,
    );
    assert!(acknowledged as u64 > cycles * 100, "the load was on");
    assert!(delivered as u64 > cycles, "the subscribers were there");
}

fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

/// The control: a broker that comes back with the data it had one kill ago has lost what it acknowledged since.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_is_found_out() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let load = Load::new(seed);
    let stopped = kill_under_load(setup().start().await, &load, &mut random, 200).await;
    let stopped = stopped.start().await.kill_nine().await;
    let older = stopped.data().with_extension("older");
    copy_folder(stopped.data(), &older);
    let stopped = kill_under_load(stopped.start().await, &load, &mut random, 200).await;
    let broker = stopped.start().await;
    let next = load.judge(broker.grpc(), Load::first_ids()).await;
    assert_eq!(load.broken(), [""; 0], "so far nothing is wrong");

    let stopped = broker.kill_nine().await;
    std::fs::remove_dir_all(stopped.data()).expect("it is ours");
    std::fs::rename(&older, stopped.data()).expect("it is ours");
    let broker = stopped.start().await;
    load.judge(broker.grpc(), Load::first_ids()).await;
    let lost = load.with(|ledger| ledger.lost_count());
    assert!(lost > 0, "the losses are seen at once");

    let client = broker.client().await;
    for subject in 0..next.len() {
        let message = load.with(|ledger| ledger.send(subject));
        let id = client.publish(&Ledger::name(subject), message.body, 60).await.expect("it takes publishes");
        load.with(|ledger| ledger.acknowledged(message.token, id));
    }
    let (acknowledged, twice) = load.with(|ledger| (ledger.acknowledged_count(), ledger.given_twice_count()));
    assert!(twice > 0, "ids given twice are seen as well");
    println!("control, a broker that forgets: {acknowledged} acknowledged, {lost} lost, {twice} ids given twice");
}
