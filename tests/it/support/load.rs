//! Publishers and followers that work until the broker is gone, and the judgement over what it has afterwards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::Code;

use super::oracle::{Found, Ledger};
use super::{Client, eventually, http};

const PUBLISHERS: usize = 8;
const IN_FLIGHT: usize = 32;
const SUBJECTS: usize = 200;
const FOLLOWERS: usize = 32;

/// The load of one run, across all restarts of its broker; a clone is the same load.
#[derive(Debug, Clone)]
pub struct Load(Arc<Mutex<Ledger>>);

/// The id of each subject that comes after the last one read.
pub type NextIds = Vec<i32>;

impl Load {
    /// Nothing was sent yet; bodies follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Ledger::new(seed, SUBJECTS))))
    }

    /// The first id of every subject.
    pub fn first_ids() -> NextIds {
        vec![1; SUBJECTS]
    }

    /// Looks at the ledger, or writes into it.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Ledger) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The promises that were broken so far.
    pub fn broken(&self) -> Vec<String> {
        self.with(|ledger| ledger.broken().to_vec())
    }

    /// Publishes to and follows the broker at `grpc` until it is gone.
    pub async fn start(&self, grpc: &str, random: &mut StdRng) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let watcher = Client::connect(grpc).await;
        for _ in 0..FOLLOWERS {
            let subject = random.random_range(0..SUBJECTS);
            tasks.spawn(follow_until_gone(watcher.clone(), self.clone(), subject));
        }
        for _ in 0..PUBLISHERS {
            let client = Client::connect(grpc).await;
            for _ in 0..IN_FLIGHT {
                let random = StdRng::seed_from_u64(random.random());
                tasks.spawn(publish_until_gone(client.clone(), self.clone(), random));
            }
        }
        tasks
    }

    /// Reads each subject from `from` on and lets the oracle judge; gives the next ids.
    pub async fn judge(&self, grpc: &str, from: NextIds) -> NextIds {
        let mut readers = JoinSet::new();
        let mut clients = Vec::new();
        for _ in 0..PUBLISHERS {
            clients.push(Client::connect(grpc).await);
        }
        for (subject, from) in from.iter().copied().enumerate() {
            let client = clients[subject % clients.len()].clone();
            readers.spawn(async move { (subject, from, read_all(&client, subject, from).await) });
        }
        let mut next = from;
        for (subject, from, found) in readers.join_all().await {
            self.with(|ledger| ledger.judge(subject, from, &found));
            next[subject] = from + found.len() as i32;
        }
        next
    }

    /// After the last fault: every subject takes a publish and delivers it, and the store catches up.
    pub async fn is_taken_by(&self, grpc: &str, admin: &str, next: &[i32]) {
        let client = Client::connect(grpc).await;
        for (subject, next) in next.iter().enumerate() {
            let mut subscription = client.subscribe(&Ledger::name(subject)).await;
            let message = self.with(|ledger| ledger.send(subject));
            let id = client.publish(&Ledger::name(subject), message.body.clone(), message.expiration_seconds).await;
            let id = id.expect("a healed broker takes publishes");
            self.with(|ledger| ledger.acknowledged(message.token, id));
            assert_eq!(id, *next, "ids stay dense on subject {subject}");
            assert_eq!(subscription.next().await.body, message.body);
        }
        eventually("the store to catch up", || async {
            let metrics = http::get(admin, "/metrics").await?;
            let position = |name| metrics.metric(&format!("walcast_position{{position=\"{name}\"}}"));
            (position("projected") == position("durable")).then_some(())
        })
        .await;
    }
}

/// Publishes one after the other until the broker is gone.
async fn publish_until_gone(client: Client, load: Load, mut random: StdRng) {
    loop {
        let message = load.with(|ledger| ledger.send(random.random_range(0..SUBJECTS)));
        let name = Ledger::name(message.subject);
        match client.publish(&name, message.body, message.expiration_seconds).await {
            Ok(id) => load.with(|ledger| ledger.acknowledged(message.token, id)),
            Err(status) if status.code() == Code::ResourceExhausted => {
                load.with(|ledger| ledger.refused(message.token));
            }
            // The connection broke: the outcome is unknown, and stays so.
            Err(_) => return,
        }
    }
}

/// Follows one subject until the broker is gone.
async fn follow_until_gone(client: Client, load: Load, subject: usize) {
    let mut follower = load.with(|ledger| ledger.follow(subject));
    let Ok(mut subscription) = client.try_subscribe(&Ledger::name(subject)).await else { return };
    while let Ok(Some(message)) = subscription.try_next().await {
        load.with(|ledger| ledger.delivered(&mut follower, message.id, &message.body));
    }
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

/// How long each restart took.
#[derive(Debug, Default)]
pub struct RestartTimes(Vec<Duration>);

impl RestartTimes {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time that half of them did not exceed, and the longest.
    pub fn p50_and_max(&self) -> (Duration, Duration) {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let p50 = sorted.get(sorted.len().saturating_sub(1) / 2);
        (p50.copied().unwrap_or_default(), sorted.last().copied().unwrap_or_default())
    }
}

#[test]
fn the_median_and_the_longest_are_found_in_any_order() {
    let mut times = RestartTimes::default();
    assert_eq!(times.p50_and_max(), (Duration::ZERO, Duration::ZERO));
    [5, 1, 9, 3].into_iter().for_each(|ms| times.add(Duration::from_millis(ms)));
    assert_eq!(times.p50_and_max(), (Duration::from_millis(3), Duration::from_millis(9)));
}
