//! kill -9 under load, again and again, judged by the oracle.
//!
//! `WALCAST_KILL_CYCLES` (25), `WALCAST_KILL_MAX_MS` (400) and `WALCAST_KILL_SEED` (random, printed).

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::oracle::{Found, Ledger};
use crate::support::{Broker, Client, Setup, eventually};

const PUBLISHERS: usize = 8;
const IN_FLIGHT: usize = 32;
const SUBJECTS: usize = 200;
const FOLLOWERS: usize = 32;

/// What the client tasks share.
type Shared = Arc<Mutex<Ledger>>;

fn with<T>(ledger: &Shared, use_it: impl FnOnce(&mut Ledger) -> T) -> T {
    use_it(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Publishes one after the other until the broker is gone.
async fn publish_until_killed(client: Client, ledger: Shared, mut random: StdRng) {
    loop {
        let message = with(&ledger, |ledger| ledger.send(random.random_range(0..SUBJECTS)));
        let name = Ledger::name(message.subject);
        match client.publish(&name, message.body, message.expiration_seconds).await {
            Ok(id) => with(&ledger, |ledger| ledger.acknowledged(message.token, id)),
            Err(status) if status.code() == Code::ResourceExhausted => {
                with(&ledger, |ledger| ledger.refused(message.token));
            }
            // The connection broke: the outcome is unknown, and stays so.
            Err(_) => return,
        }
    }
}

/// Follows one subject until the broker is gone.
async fn follow_until_killed(client: Client, ledger: Shared, subject: usize) {
    let mut follower = with(&ledger, |ledger| ledger.follow(subject));
    let Ok(mut subscription) = client.try_subscribe(&Ledger::name(subject)).await else { return };
    while let Ok(Some(message)) = subscription.try_next().await {
        with(&ledger, |ledger| ledger.delivered(&mut follower, message.id, &message.body));
    }
}

/// Load until the kill, then the same data directory again.
async fn kill_under_load(broker: Broker, ledger: &Shared, random: &mut StdRng, longest_ms: u64) -> Broker {
    let mut tasks = JoinSet::new();
    let watcher = broker.client().await;
    for _ in 0..FOLLOWERS {
        let subject = random.random_range(0..SUBJECTS);
        tasks.spawn(follow_until_killed(watcher.clone(), Arc::clone(ledger), subject));
    }
    for _ in 0..PUBLISHERS {
        let client = broker.client().await;
        for _ in 0..IN_FLIGHT {
            let random = StdRng::seed_from_u64(random.random());
            tasks.spawn(publish_until_killed(client.clone(), Arc::clone(ledger), random));
        }
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(50..=longest_ms))).await;
    let stopped = broker.kill_nine().await;
    tasks.join_all().await;
    stopped.start().await
}

/// Everything the broker has of a subject from id `from` on.
async fn read_all(client: &Client, subject: usize, from: i32) -> Vec<Found> {
    let mut found = Vec::new();
    for id in from.. {
        match client.fetch(&Ledger::name(subject), id).await {
            Ok(message) => found.push(Found::Body(message.body)),
            Err(status) if status.message() == "message with id provided is expired" => found.push(Found::Expired),
            Err(status) => {
                assert_eq!(status.message(), "message with id provided is not valid or never published", "{status:?}");
                break;
            }
        }
    }
    found
}

/// Reads each subject from `from` on and lets the oracle judge; gives the next ids.
async fn judge(broker: &Broker, ledger: &Shared, from: Vec<i32>) -> Vec<i32> {
    let mut readers = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..PUBLISHERS {
        clients.push(broker.client().await);
    }
    for (subject, from) in from.iter().copied().enumerate() {
        let client = clients[subject % clients.len()].clone();
        readers.spawn(async move { (subject, from, read_all(&client, subject, from).await) });
    }
    let mut next = from;
    for (subject, from, found) in readers.join_all().await {
        with(ledger, |ledger| ledger.judge(subject, from, &found));
        next[subject] = from + found.len() as i32;
    }
    next
}

/// After the last fault: every subject takes a publish and delivers it, and the store catches up.
async fn is_alive(broker: &Broker, ledger: &Shared, next: &[i32]) {
    let client = broker.client().await;
    for (subject, next) in next.iter().enumerate() {
        let mut subscription = client.subscribe(&Ledger::name(subject)).await;
        let message = with(ledger, |ledger| ledger.send(subject));
        let id = client.publish(&Ledger::name(subject), message.body.clone(), message.expiration_seconds).await;
        let id = id.expect("a healed broker takes publishes");
        with(ledger, |ledger| ledger.acknowledged(message.token, id));
        assert_eq!(id, *next, "ids stay dense on subject {subject}");
        assert_eq!(subscription.next().await.body, message.body);
    }
    eventually("the store to catch up", || async {
        (broker.position("projected").await == broker.position("durable").await).then_some(())
    })
    .await;
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
    let ledger: Shared = Arc::new(Mutex::new(Ledger::new(seed, SUBJECTS)));
    let mut broker = setup().start().await;
    let mut next = vec![1; SUBJECTS];
    let started = Instant::now();
    for cycle in 1..=cycles {
        broker = kill_under_load(broker, &ledger, &mut random, longest_ms).await;
        next = judge(&broker, &ledger, next).await;
        let broken = with(&ledger, |ledger| ledger.broken().to_vec());
        assert!(broken.is_empty(), "cycle {cycle} of seed {seed}: {broken:#?}");
    }
    is_alive(&broker, &ledger, &next).await;
    // Once more from the first id on: what was there after its own crash is there after all of them.
    judge(&broker, &ledger, vec![1; SUBJECTS]).await;
    let broken = with(&ledger, |ledger| ledger.broken().to_vec());
    assert!(broken.is_empty(), "after all cycles of seed {seed}: {broken:#?}");
    broker.stop().await;
    let (acknowledged, delivered) = with(&ledger, |ledger| (ledger.acknowledged_count(), ledger.delivered_count()));
    println!(
        "{cycles} cycles in {:.1} s: {acknowledged} acknowledged, {delivered} seen by subscribers, 0 lost, 0 ids given twice",
        started.elapsed().as_secs_f64()
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
    let ledger: Shared = Arc::new(Mutex::new(Ledger::new(seed, SUBJECTS)));
    let broker = kill_under_load(setup().start().await, &ledger, &mut random, 200).await;
    let stopped = broker.kill_nine().await;
    let older = stopped.data().with_extension("older");
    copy_folder(stopped.data(), &older);
    let broker = kill_under_load(stopped.start().await, &ledger, &mut random, 200).await;
    let next = judge(&broker, &ledger, vec![1; SUBJECTS]).await;
    assert!(with(&ledger, |ledger| ledger.broken().is_empty()), "so far nothing is wrong");

    let stopped = broker.kill_nine().await;
    std::fs::remove_dir_all(stopped.data()).expect("it is ours");
    std::fs::rename(&older, stopped.data()).expect("it is ours");
    let broker = stopped.start().await;
    judge(&broker, &ledger, vec![1; SUBJECTS]).await;
    let lost = |ledger: &mut Ledger| ledger.broken().iter().filter(|line| line.starts_with("lost:")).count();
    assert!(with(&ledger, lost) > 0, "the losses are seen at once");

    let client = broker.client().await;
    for subject in 0..next.len() {
        let message = with(&ledger, |ledger| ledger.send(subject));
        let id = client.publish(&Ledger::name(subject), message.body, 60).await.expect("it takes publishes");
        with(&ledger, |ledger| ledger.acknowledged(message.token, id));
    }
    let twice = |ledger: &mut Ledger| ledger.broken().iter().any(|line| line.contains("was given"));
    assert!(with(&ledger, twice), "ids given twice are seen as well");
}
