//! Restarts under load, kill -9 and SIGTERM mixed, with subscribers that resume where they were: each sees every
//! acknowledged id of its subject once, in order.
//!
//! `WALCAST_RESUME_CYCLES` (4) and `WALCAST_RESUME_SEED` (random, printed). The log is small, so that who is far behind reads
//! the store; the bound of a subscriber's memory is small, so that the slow ones fall back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{Broker, Client, PATIENCE, Setup, from_env};

const SUBJECTS: usize = 10;
const FOLLOWERS: usize = 40;
const PUBLISHERS: usize = 4;
const IN_FLIGHT: usize = 16;
/// What the load must have been, a restart: acknowledged, and read from log or store for those that were behind. A machine of its own does four times
/// that; one that is busy takes more restarts.
const ACKNOWLEDGED: u64 = 50;
const CAUGHT_UP: u64 = 100;

/// What one subscriber saw, across all its streams.
#[derive(Debug, Default)]
struct Follower {
    subject: usize,
    /// What it got under the ids from 1.
    tokens: Vec<u64>,
    /// How often it began a stream.
    streams: usize,
}

/// Everything that was acknowledged and seen, and every promise found broken.
#[derive(Debug)]
struct Journal {
    acknowledged: Vec<BTreeMap<i32, u64>>,
    followers: Vec<Follower>,
    broken: Vec<String>,
}

impl Journal {
    fn new(subjects: usize, followers: usize) -> Self {
        let follower = |number: usize| Follower { subject: number % subjects, ..Follower::default() };
        let followers = (0..followers).map(follower).collect();
        Self { acknowledged: vec![BTreeMap::new(); subjects], followers, broken: Vec::new() }
    }

    fn acknowledged(&mut self, subject: usize, id: i32, token: u64) {
        if let Some(other) = self.acknowledged[subject].insert(id, token) {
            self.broken.push(format!("id {id} of subject {subject} was given to {other} and to {token}"));
        }
    }

    fn delivered(&mut self, number: usize, id: i32, token: u64) {
        let follower = &mut self.followers[number];
        let expected = follower.tokens.len() as i32 + 1;
        if id != expected {
            self.broken.push(format!("follower {number} was to get id {expected} and got {id}"));
        }
        follower.tokens.push(token);
    }

    fn last_acknowledged(&self, subject: usize) -> i32 {
        self.acknowledged[subject].last_key_value().map_or(0, |(id, _)| *id)
    }

    /// Once everybody has read to the end.
    fn judge(&mut self) {
        for (number, follower) in self.followers.iter().enumerate() {
            for (id, token) in &self.acknowledged[follower.subject] {
                let seen = follower.tokens.get(*id as usize - 1);
                if seen != Some(token) {
                    self.broken.push(format!("follower {number} saw {seen:?} under id {id}, and not {token}"));
                }
            }
        }
    }
}

/// How a follower is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    SkipsOne,
}

#[derive(Debug, Clone)]
struct Load {
    journal: Arc<Mutex<Journal>>,
    next_token: Arc<AtomicU64>,
    /// The slow ones hurry up.
    hurry: Arc<AtomicBool>,
    /// Messages that the brokers read from log or store for them.
    caught_up: Arc<AtomicU64>,
    flaw: Flaw,
}

fn name(subject: usize) -> String {
    format!("resumed-{subject}")
}

impl Load {
    fn new(flaw: Flaw) -> Self {
        let journal = Arc::new(Mutex::new(Journal::new(SUBJECTS, FOLLOWERS)));
        Self { journal, next_token: Arc::default(), hurry: Arc::default(), caught_up: Arc::default(), flaw }
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Journal) -> T) -> T {
        use_it(&mut self.journal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn publish_until_gone(self, client: Client, mut random: StdRng) {
        loop {
            let (subject, token) = (random.random_range(0..SUBJECTS), self.next_token.fetch_add(1, Ordering::Relaxed));
            // A token and some weight: a few hundred of them are more than a slow follower may be behind.
            let body = format!("{token} {}", "x".repeat(random.random_range(0..2_000)));
            match client.publish(&name(subject), body, 3_600).await {
                Ok(id) => self.with(|journal| journal.acknowledged(subject, id, token)),
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tokio::time::sleep(Duration::from_millis(5)).await
                }
                // The connection broke: the outcome is unknown, and stays so.
                Err(_) => return,
            }
        }
    }

    async fn follow_until_gone(self, client: Client, number: usize) {
        let (subject, mut after) = self.with(|journal| {
            let follower = &mut journal.followers[number];
            follower.streams += 1;
            (follower.subject, follower.tokens.len() as i32)
        });
        if self.flaw == Flaw::SkipsOne && after > 0 {
            after += 1;
        }
        let Ok(mut resumed) = client.try_resume(&name(subject), Some(after)).await else { return };
        while let Ok(Some(message)) = resumed.try_next().await {
            let text = std::str::from_utf8(&message.body).expect("text");
            let token = text.split(' ').next().and_then(|token| token.parse().ok()).expect("a token");
            self.with(|journal| journal.delivered(number, message.id, token));
            // One in four is slow, each in its own way.
            if number.is_multiple_of(4) && !self.hurry.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(number as u64 / 8)).await;
            }
        }
    }

    async fn follow(&self, grpc: &str, tasks: &mut JoinSet<()>) {
        for number in 0..FOLLOWERS {
            let client =
                if number.is_multiple_of(4) { Client::connect_narrow(grpc).await } else { Client::connect(grpc).await };
            tasks.spawn(self.clone().follow_until_gone(client, number));
        }
    }

    /// Publishes and follows for a while, then ends the broker.
    async fn cycle(&self, broker: Broker, random: &mut StdRng) -> Broker {
        let mut tasks = JoinSet::new();
        self.follow(broker.grpc(), &mut tasks).await;
        for _ in 0..PUBLISHERS {
            let client = Client::connect(broker.grpc()).await;
            for _ in 0..IN_FLIGHT {
                let random = StdRng::seed_from_u64(random.random());
                tasks.spawn(self.clone().publish_until_gone(client.clone(), random));
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..=400))).await;
        self.count(&broker).await;
        let stopped = if random.random_bool(0.5) { broker.kill_nine().await } else { broker.stop().await };
        tasks.join_all().await;
        stopped.start().await
    }

    /// Whether there was as much to do as in so many restarts.
    fn is_enough_for(&self, cycles: u64) -> bool {
        let acknowledged: usize = self.with(|journal| journal.acknowledged.iter().map(BTreeMap::len).sum());
        acknowledged as u64 > cycles * ACKNOWLEDGED && self.caught_up.load(Ordering::Relaxed) > cycles * CAUGHT_UP
    }

    /// A broker counts from its start on.
    async fn count(&self, broker: &Broker) {
        let caught_up = broker.metric("walcast_delivery_catch_up_messages_total").await;
        self.caught_up.fetch_add(caught_up as u64, Ordering::Relaxed);
    }

    /// Everybody reads to the end.
    async fn finish(&self, broker: &Broker) {
        self.hurry.store(true, Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        self.follow(broker.grpc(), &mut tasks).await;
        // Those that are wrong on purpose never are at the end.
        let give_up = Instant::now() + if self.flaw == Flaw::None { PATIENCE / 2 } else { Duration::from_secs(2) };
        let is_behind = |journal: &mut Journal| {
            let last = |follower: &Follower| journal.last_acknowledged(follower.subject);
            journal.followers.iter().any(|follower| (follower.tokens.len() as i32) < last(follower))
        };
        while self.with(is_behind) && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tasks.shutdown().await;
        self.with(Journal::judge);
    }
}

async fn run(flaw: Flaw, cycles: u64) -> Load {
    let seed = from_env("WALCAST_RESUME_SEED", rand::random());
    println!("WALCAST_RESUME_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let setup = Setup::new().set("limits.body_bytes", "64KiB").set("limits.subscriber_bytes", "128KiB");
    let setup = setup.set("log.segment_bytes", "1MiB").set("log.keep_bytes", "2MiB");
    let load = Load::new(flaw);
    let mut broker = setup.start().await;
    let mut done = 0;
    while done < cycles || !load.is_enough_for(cycles) {
        assert!(done < cycles * 20, "the load was not on");
        broker = load.cycle(broker, &mut random).await;
        done += 1;
    }
    load.finish(&broker).await;
    load.count(&broker).await;
    load
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_every_acknowledged_id_once_in_order() {
    let (cycles, started) = (from_env("WALCAST_RESUME_CYCLES", 4), Instant::now());
    let load = run(Flaw::None, cycles).await;
    let caught_up = load.caught_up.load(Ordering::Relaxed);
    load.with(|journal| {
        let acknowledged: usize = journal.acknowledged.iter().map(BTreeMap::len).sum();
        let seen: usize = journal.followers.iter().map(|follower| follower.tokens.len()).sum();
        let streams: usize = journal.followers.iter().map(|follower| follower.streams).sum();
        println!(
            "{cycles} restarts in {:.1} s: {acknowledged} acknowledged, {seen} seen by {FOLLOWERS} subscribers in {streams} \
             streams, {caught_up} of them from log or store, {} promises broken",
            started.elapsed().as_secs_f64(),
            journal.broken.len()
        );
        assert_eq!(journal.broken, [""; 0]);
        assert!(seen > acknowledged, "the load was on");
    });
}

/// The control: subscribers that resume one id too late.
#[tokio::test(flavor = "multi_thread")]
async fn resuming_one_id_too_late_is_found_out() {
    let load = run(Flaw::SkipsOne, 2).await;
    let broken = load.with(|journal| journal.broken.clone());
    println!("control, resuming one id too late: {} promises broken, such as: {}", broken.len(), broken[0]);
    assert!(broken.iter().any(|line| line.contains("was to get id")));
}

#[test]
fn the_journal_notices_a_gap_a_repeat_and_what_never_came() {
    let mut journal = Journal::new(1, 1);
    journal.acknowledged(0, 1, 10);
    journal.acknowledged(0, 2, 11);
    journal.delivered(0, 1, 10);
    assert_eq!(journal.broken, [""; 0]);
    journal.judge();
    assert_eq!(journal.broken.len(), 1, "2 never came");
    journal.delivered(0, 3, 12);
    assert_eq!(journal.broken.len(), 2, "a gap");
    journal.delivered(0, 2, 11);
    assert_eq!(journal.broken.len(), 3, "a repeat");
    journal.acknowledged(0, 2, 13);
    assert_eq!(journal.broken.len(), 4, "given twice");
}
