//! A load that goes on whatever happens: publishers at a fixed rate, a subscriber a subject, and a reader of what is not
//! projected yet.
//!
//! Publishers do not wait for answers: a broker that holds one up is sent the next all the same, so a stall is in the
//! percentiles of every message that it met.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::ledger::{Kind, Ledger, SUBJECTS, body};
use crate::support::{Broker, Client, http};

const CONNECTIONS: u64 = 4;
/// A publish that is not answered by then has failed.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Every so many messages one is fire and forget.
const FORGOTTEN_EVERY: u64 = 10;
/// Every so many messages one is poison, if there is to be any.
const POISON_EVERY: u64 = 50;
/// Time between two Fetches.
const FETCH_EVERY: Duration = Duration::from_millis(20);
/// Acknowledgements come in another order than records: so many records after the projected one it is certain that a
/// message is not projected.
const DISORDER: usize = 200;

/// Publishes of one stretch of time.
#[derive(Debug)]
struct Window {
    /// Answer times in microseconds.
    answers: Histogram<u64>,
    /// Publishes that were refused, broken off or not answered.
    failures: u64,
}

impl Window {
    fn new() -> Self {
        Self { answers: Histogram::new(3).expect("three digits"), failures: 0 }
    }
}

/// What all tasks share.
#[derive(Debug)]
pub struct Shared {
    /// What was sent and seen.
    pub ledger: Ledger,
    stop: AtomicBool,
    /// How many of the next messages are to be poison.
    pub poison: AtomicU64,
    /// How many of the next messages are to be too long for the broker: a control.
    pub too_long: AtomicU64,
    /// How many of the next deliveries a follower does not see: a control.
    pub drop_deliveries: AtomicU64,
    /// How many of the next deliveries a follower sees twice: a control.
    pub repeat_deliveries: AtomicU64,
    /// Whether the reader asks for what nobody published: a control.
    pub fetch_astray: AtomicBool,
    windows: Mutex<Vec<Window>>,
    /// Fetches of what was not projected.
    pub fetched: AtomicU64,
    /// Of those, how many did not give the message.
    pub fetch_failures: AtomicU64,
    first_trouble: Mutex<Option<String>>,
    /// Records that the store has.
    projected: AtomicU64,
}

impl Shared {
    fn windows(&self) -> MutexGuard<'_, Vec<Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is sent from now on belongs to a new window; gives its index.
    pub fn open_window(&self) -> usize {
        let mut windows = self.windows();
        windows.push(Window::new());
        windows.len() - 1
    }

    /// Answer times of what was sent in a window, in microseconds. All of them only after [`Load::stop`].
    pub fn answers(&self, window: usize) -> Histogram<u64> {
        self.windows()[window].answers.clone()
    }

    /// Publishes that failed, at any time.
    pub fn failures(&self) -> u64 {
        self.windows().iter().map(|window| window.failures).sum()
    }

    /// The first failure of all.
    pub fn first_trouble(&self) -> Option<String> {
        self.first_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn trouble(&self, text: impl FnOnce() -> String) {
        self.first_trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(text);
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    /// What its tasks share.
    pub shared: Arc<Shared>,
    publishers: JoinSet<()>,
    others: JoinSet<()>,
}

impl Load {
    /// Starts everything, with `rate` messages a second.
    pub async fn start(broker: &Broker, rate: u64) -> Self {
        let shared = Arc::new(Shared {
            ledger: Ledger::default(),
            stop: AtomicBool::new(false),
            poison: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
            drop_deliveries: AtomicU64::new(0),
            repeat_deliveries: AtomicU64::new(0),
            fetch_astray: AtomicBool::new(false),
            windows: Mutex::new(vec![Window::new()]),
            fetched: AtomicU64::new(0),
            fetch_failures: AtomicU64::new(0),
            first_trouble: Mutex::default(),
            projected: AtomicU64::new(0),
        });
        let (mut publishers, mut others) = (JoinSet::new(), JoinSet::new());
        let watcher = broker.client().await;
        for subject in 0..SUBJECTS {
            let mut subscription = watcher.subscribe(&Ledger::name(subject)).await;
            let shared = Arc::clone(&shared);
            others.spawn(async move {
                while let Ok(Some(message)) = subscription.try_next().await {
                    let seen = if takes(&shared.drop_deliveries) {
                        0
                    } else {
                        1 + u64::from(takes(&shared.repeat_deliveries))
                    };
                    for _ in 0..seen {
                        shared.ledger.delivered(subject, message.id, &message.body);
                    }
                }
            });
        }
        others.spawn(watch_projection(broker.admin().to_owned(), Arc::clone(&shared)));
        others.spawn(fetch(broker.client().await, Arc::clone(&shared)));
        for publisher in 0..CONNECTIONS {
            let pause = Duration::from_micros(1_000_000 * CONNECTIONS / rate);
            publishers.spawn(publish(broker.client().await, Arc::clone(&shared), publisher, pause));
        }
        Self { shared, publishers, others }
    }

    /// Lets every publish under way come to its end, and waits for deliveries.
    pub async fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        while self.publishers.join_next().await.is_some() {}
        let all = async {
            while !self.shared.ledger.all_delivered() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        // What does not come is counted.
        drop(timeout(Duration::from_secs(5), all).await);
        self.others.shutdown().await;
    }
}

/// Takes one of what is left, if anything is.
fn takes(left: &AtomicU64) -> bool {
    left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// Publishes every `pause`, and waits for all answers in the end.
async fn publish(client: Client, shared: Arc<Shared>, publisher: u64, pause: Duration) {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    for number in publisher.. {
        ticks.tick().await;
        if shared.is_over() {
            break;
        }
        let kind = match number {
            _ if number % FORGOTTEN_EVERY == 0 => Kind::FireAndForget,
            _ if number % POISON_EVERY == 1 && takes(&shared.poison) => Kind::Poison,
            _ if takes(&shared.too_long) => Kind::TooLong,
            _ => Kind::Kept,
        };
        let subject = usize::try_from((number / 3 + publisher * 5) % SUBJECTS as u64).expect("small");
        calls.spawn(publish_one(client.clone(), Arc::clone(&shared), subject, kind));
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

async fn publish_one(client: Client, shared: Arc<Shared>, subject: usize, kind: Kind) {
    let index = shared.windows().len() - 1;
    let token = shared.ledger.send(subject, kind);
    let body = body(token, kind);
    let sent = Instant::now();
    let name = Ledger::name(subject);
    let answer = timeout(ANSWERED_WITHIN, client.publish(&name, body, kind.expiration_seconds())).await;
    let micros = u64::try_from(sent.elapsed().as_micros()).expect("short");
    if let Ok(Ok(id)) = answer {
        shared.ledger.acknowledged(token, id);
    } else {
        shared.trouble(|| format!("a publish failed: {answer:?}"));
    }
    let failed = !matches!(answer, Ok(Ok(_)));
    let window = &mut shared.windows()[index];
    window.answers.record(micros).expect("it resizes itself");
    window.failures += u64::from(failed);
}

/// Reads how far the store is.
async fn watch_projection(admin: String, shared: Arc<Shared>) {
    loop {
        if let Some(metrics) = http::get(&admin, "/metrics").await {
            let projected = metrics.metric("walcast_position{position=\"projected\"}");
            shared.projected.store(projected as u64, Ordering::SeqCst);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Fetches what is acknowledged and not projected, from memory or the log.
async fn fetch(client: Client, shared: Arc<Shared>) {
    for random in 0_u64.. {
        sleep(FETCH_EVERY).await;
        let projected = usize::try_from(shared.projected.load(Ordering::SeqCst)).expect("it is an address space");
        let Some((subject, id, body)) = shared.ledger.kept_after(projected + DISORDER, random * 7_919) else {
            continue;
        };
        let id = if shared.fetch_astray.load(Ordering::SeqCst) { id + 1_000_000 } else { id };
        let answer = timeout(ANSWERED_WITHIN, client.fetch(&Ledger::name(subject), id)).await;
        shared.fetched.fetch_add(1, Ordering::SeqCst);
        if !matches!(&answer, Ok(Ok(message)) if message.body == body) {
            shared.fetch_failures.fetch_add(1, Ordering::SeqCst);
            shared.trouble(|| format!("a Fetch of what is not projected failed: {answer:?}"));
        }
    }
}
