//! Publishers and subscribers whose every call is known to the oracle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::oracle::Ledger;
use crate::support::{Broker, Client, eventually};

const PUBLISHERS: usize = 4;
const IN_FLIGHT: usize = 8;
/// Subjects of the load.
pub const SUBJECTS: usize = 20;
/// How long a publisher that was refused waits. The broker asks for more; what comes earlier must not harm it either.
const COME_BACK: Duration = Duration::from_millis(20);

/// What all tasks share.
#[derive(Debug, Clone)]
pub struct Truth(Arc<Mutex<Ledger>>);

impl Truth {
    /// An empty one.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Ledger::new(seed, SUBJECTS))))
    }

    /// Uses the ledger.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Ledger) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.with(|ledger| ledger.acknowledged_count()) as u64
    }
}

/// What the publishers saw so far.
#[derive(Debug, Default)]
pub struct Seen {
    stop: AtomicBool,
    /// Acknowledgements.
    pub acknowledged: AtomicU64,
    /// RESOURCE_EXHAUSTED with RetryInfo.
    pub refused: AtomicU64,
    /// RESOURCE_EXHAUSTED without.
    pub refused_without_retry: AtomicU64,
    /// Publishes that were sent after somebody had been told that the log failed, and were acknowledged.
    pub acknowledged_late: AtomicU64,
    /// When the first publisher was told that the log has failed.
    failed_at: Mutex<Option<Instant>>,
    /// What else was answered, by its text.
    others: Mutex<Vec<String>>,
}

impl Seen {
    /// When the first publisher was told that the log has failed.
    pub fn failed_at(&self) -> Option<Instant> {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What no row specifies, a few of them.
    pub fn others(&self) -> Vec<String> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn other(&self, status: &Status) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if others.len() < 10 {
            others.push(format!("{:?} {}", status.code(), status.message()));
        }
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    /// What was seen.
    pub seen: Arc<Seen>,
    publishers: JoinSet<()>,
    followers: JoinSet<()>,
}

impl Load {
    /// Starts publishers and one subscriber a subject.
    pub async fn start(broker: &Broker, truth: &Truth, seed: u64) -> Self {
        let seen = Arc::new(Seen::default());
        let (mut publishers, mut followers) = (JoinSet::new(), JoinSet::new());
        let watcher = broker.client().await;
        for subject in 0..SUBJECTS {
            followers.spawn(follow(watcher.clone(), truth.clone(), subject));
        }
        for publisher in 0..PUBLISHERS {
            let client = broker.client().await;
            for place in 0..IN_FLIGHT {
                let random = StdRng::seed_from_u64(seed ^ (publisher * IN_FLIGHT + place) as u64);
                publishers.spawn(publish(client.clone(), truth.clone(), Arc::clone(&seen), random));
            }
        }
        Self { seen, publishers, followers }
    }

    /// Waits until this many more were acknowledged.
    pub async fn acknowledges(&self, more: u64) {
        let goal = self.acknowledged() + more;
        eventually("acknowledgements", || async { (self.acknowledged() >= goal).then_some(()) }).await;
    }

    /// Waits until this many more were acknowledged; false if that does not happen in time.
    pub async fn acknowledges_within(&self, more: u64, time: Duration) -> bool {
        tokio::time::timeout(time, self.acknowledges(more)).await.is_ok()
    }

    /// Acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.seen.acknowledged.load(Ordering::SeqCst)
    }

    /// Refused so far.
    pub fn refused(&self) -> u64 {
        self.seen.refused.load(Ordering::SeqCst)
    }

    /// Lets every publish under way come to its end; the subscribers go on.
    pub async fn stop(&mut self) {
        self.seen.stop.store(true, Ordering::SeqCst);
        while self.publishers.join_next().await.is_some() {}
    }

    /// Waits until everybody has noticed that the broker is gone.
    pub async fn ends(mut self) -> Arc<Seen> {
        self.stop().await;
        while self.followers.join_next().await.is_some() {}
        self.seen
    }
}

/// Publishes one after the other until told to stop or the broker is gone.
async fn publish(client: Client, truth: Truth, seen: Arc<Seen>, mut random: StdRng) {
    while !seen.stop.load(Ordering::SeqCst) {
        let message = truth.with(|ledger| ledger.send(random.random_range(0..SUBJECTS)));
        let known_as_failed = seen.failed_at().is_some();
        match client.publish(&Ledger::name(message.subject), message.body, message.expiration_seconds).await {
            Ok(id) => {
                truth.with(|ledger| ledger.acknowledged(message.token, id));
                Seen::count(&seen.acknowledged);
                if known_as_failed {
                    Seen::count(&seen.acknowledged_late);
                }
            }
            Err(status) if status.code() == Code::ResourceExhausted => {
                truth.with(|ledger| ledger.refused(message.token));
                let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
                Seen::count(if retry.is_some() { &seen.refused } else { &seen.refused_without_retry });
                tokio::time::sleep(COME_BACK).await;
            }
            Err(status) => {
                // The outcome is unknown, and stays so.
                let reason = status.get_details_error_info().map(|info| info.reason);
                match reason.as_deref() {
                    Some("LOG_FAILED" | "NOT_SERVING") => {
                        seen.failed_at.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
                        tokio::time::sleep(COME_BACK).await;
                    }
                    // The connection is gone, and the broker with it.
                    None => return,
                    Some(_) => seen.other(&status),
                }
            }
        }
    }
}

/// Follows one subject until the stream ends.
async fn follow(client: Client, truth: Truth, subject: usize) {
    let mut follower = truth.with(|ledger| ledger.follow(subject));
    let Ok(mut subscription) = client.try_subscribe(&Ledger::name(subject)).await else { return };
    while let Ok(Some(message)) = subscription.try_next().await {
        truth.with(|ledger| ledger.delivered(&mut follower, message.id, &message.body));
    }
}
