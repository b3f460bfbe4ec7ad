//! Publishers with keys at a steady rate and subscribers that resume, all through Envoy.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use walcast::proto::client::broker_client::BrokerClient;
use walcast::proto::client::{PublishRequest, SubscribeRequest};

use crate::journal::{Broken, Journal, Kind, Token, Verdict};
use crate::support::nodes::NODES;
use crate::support::{PATIENCE, eventually};

/// How a client pauses before each retry: three at most, which is what the deployment promises to do with.
const RETRIES: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(1_000), Duration::from_millis(2_500)];

/// How long a publish may take, each try.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long a client without manners goes on: longer than any day lasts.
const UNMANNERLY: Duration = Duration::from_secs(600);

const TICK: Duration = Duration::from_millis(5);

/// What is asked of the cluster.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Publishes a second.
    pub rate: u32,
    /// Subjects that they are spread over.
    pub subjects: Vec<String>,
    /// Subscribers of each subject.
    pub each: usize,
    /// Whether publishers retry at once and for ever, as a client without manners does.
    pub unmannerly: bool,
    /// Whether publishes have keys.
    pub keyed: bool,
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    journal: Arc<Mutex<Journal>>,
    stop: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    publishing: tokio::task::JoinHandle<()>,
    subscribers: JoinSet<()>,
}

async fn channel(envoy: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{envoy}")).expect("an address");
    endpoint.connect_timeout(PATIENCE).connect().await.expect("Envoy accepts")
}

impl Load {
    /// Subscribes, then publishes.
    pub async fn start(envoy: &str, plan: Plan) -> Self {
        let journal = Arc::new(Mutex::new(Journal::new(plan.subjects.len(), plan.each)));
        let (stop, mut subscribers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let of = lock(&journal).subscribers();
        for (number, subject) in of.into_iter().enumerate() {
            let subscriber = Subscriber {
                channel: channel(envoy).await,
                subject: plan.subjects[subject].clone(),
                number,
                journal: Arc::clone(&journal),
            };
            subscribers.spawn(subscriber.follow());
        }
        let publisher = Publisher {
            channels: futures_util::future::join_all((0..4).map(|_| channel(envoy))).await,
            plan: plan.clone(),
            journal: Arc::clone(&journal),
            held: Arc::default(),
        };
        let held = Arc::clone(&publisher.held);
        let publishing = tokio::spawn(publisher.run(Arc::clone(&stop)));
        Self { plan, journal, stop, held, publishing, subscribers }
    }

    /// Messages that were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.journal).acknowledged_count()
    }

    /// Begins no publish on subjects of the first node, or begins them again.
    pub fn hold_the_first_node(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// What was promised so far, also after the end.
    pub fn journal(&self) -> Arc<Mutex<Journal>> {
        Arc::clone(&self.journal)
    }

    /// The subjects, in the order of their numbers.
    pub fn subjects(&self) -> Vec<String> {
        self.plan.subjects.clone()
    }

    /// Stops publishing, waits until every subscriber has everything, and judges.
    pub async fn end(self) -> Verdict {
        self.end_within(PATIENCE).await
    }

    /// The same, waiting no longer than that: where not everything will be seen.
    pub async fn end_within(mut self, patience: Duration) -> Verdict {
        self.stop.store(true, Ordering::SeqCst);
        self.publishing.await.expect("it does not panic");
        let journal = Arc::clone(&self.journal);
        // Whoever never gets it is named by the judge.
        let all_seen = eventually_or_late(patience, || lock(&journal).all_seen()).await;
        self.subscribers.abort_all();
        while self.subscribers.join_next().await.is_some() {}
        let mut verdict = lock(&self.journal).judge();
        if !all_seen && verdict.broken.is_empty() {
            let what = "not everything was seen in time".to_owned();
            verdict.broken.push(Broken { kind: Kind::Lost, subject: None, what });
        }
        println!(
            "{} publishes a second on {} subjects: {} acknowledged, {} failed, {} retries, {} delivered, {} resumes (slowest {:?})",
            self.plan.rate,
            self.plan.subjects.len(),
            verdict.acknowledged,
            verdict.failed.len(),
            verdict.retries,
            verdict.delivered,
            verdict.resumes,
            verdict.resumed_within,
        );
        println!("  promises broken: {}", counts(&verdict));
        println!("  longest silence of a subject: {}", silence(&verdict));
        verdict
    }
}

pub fn lock(journal: &Mutex<Journal>) -> std::sync::MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is broken, by kind.
fn counts(verdict: &Verdict) -> String {
    let kinds = [
        (Kind::Lost, "lost"),
        (Kind::Twice, "given twice"),
        (Kind::Altered, "altered"),
        (Kind::Gap, "gaps"),
        (Kind::Repeat, "repeats"),
    ];
    kinds.map(|(kind, name)| format!("{} {name}", verdict.count(kind))).join(", ")
}

/// How long the slots of each node were without an answer: the subject at a place is of the node at that place, round and round.
fn silence(verdict: &Verdict) -> String {
    let longest = |node: usize| verdict.silent.iter().skip(node).step_by(NODES.len()).max().copied();
    let of_node = |(node, name): (usize, &&str)| format!("{name} {:.2?}", longest(node).unwrap_or_default());
    NODES.iter().enumerate().map(of_node).collect::<Vec<_>>().join(", ")
}

async fn eventually_or_late(patience: Duration, done: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(TICK).await;
    }
    true
}

#[derive(Debug, Clone)]
struct Publisher {
    channels: Vec<Channel>,
    plan: Plan,
    journal: Arc<Mutex<Journal>>,
    held: Arc<AtomicBool>,
}

impl Publisher {
    async fn run(self, stop: Arc<AtomicBool>) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (begun, mut made, mut calls) = (Instant::now(), 0_u64, JoinSet::new());
        while !stop.load(Ordering::SeqCst) {
            let due = (begun.elapsed().as_secs_f64() * f64::from(self.plan.rate)) as u64;
            while made < due {
                made += 1;
                let token = NEXT.fetch_add(1, Ordering::Relaxed);
                // Every third subject is the first node's.
                let first = (token as usize % self.plan.subjects.len()).is_multiple_of(NODES.len());
                if !(first && self.held.load(Ordering::SeqCst)) {
                    calls.spawn(self.clone().publish(token));
                }
            }
            while calls.try_join_next().is_some() {}
            tokio::time::sleep(TICK).await;
        }
        calls.join_all().await;
    }

    async fn publish(self, token: Token) {
        let subject = token as usize % self.plan.subjects.len();
        let request = PublishRequest {
            subject: self.plan.subjects[subject].clone(),
            body: token.to_string().into(),
            expiration_seconds: 3_600,
            idempotency_key: if self.plan.keyed { format!("message {token}") } else { String::new() },
        };
        let mut client = BrokerClient::new(self.channels[token as usize % self.channels.len()].clone());
        let (begun, mut tries) = (Instant::now(), 0);
        loop {
            let mut request = tonic::Request::new(request.clone());
            // Envoy sends again by itself only what has its key in the metadata.
            if self.plan.keyed {
                request.metadata_mut().insert("idempotency-key", format!("message {token}").parse().expect("ASCII"));
            }
            request.set_timeout(DEADLINE);
            let status = match client.publish(request).await {
                Ok(answer) => return lock(&self.journal).acknowledged(subject, answer.into_inner().id, token),
                Err(status) => status,
            };
            let passes = matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown
            );
            // Whatever it was: Envoy ends the connection of a client that gives up thousands of calls, which is INTERNAL to it.
            let passes = passes || self.plan.unmannerly;
            let pause = if self.plan.unmannerly {
                (begun.elapsed() < UNMANNERLY).then_some(Duration::from_millis(1))
            } else {
                RETRIES.get(tries).copied()
            };
            let Some(pause) = pause.filter(|_| passes) else {
                return lock(&self.journal).failed(token, &status);
            };
            tries += 1;
            lock(&self.journal).retried();
            tokio::time::sleep(pause).await;
        }
    }
}

#[derive(Debug)]
struct Subscriber {
    channel: Channel,
    subject: String,
    number: usize,
    journal: Arc<Mutex<Journal>>,
}

impl Subscriber {
    /// Follows its subject from the first id on, over as many streams as it takes, until it is aborted.
    async fn follow(self) {
        let mut client = BrokerClient::new(self.channel.clone());
        let mut lost: Option<Instant> = None;
        loop {
            let after_id = Some(lock(&self.journal).last_seen(self.number));
            let request = SubscribeRequest { subject: self.subject.clone(), after_id };
            if let Ok(answer) = client.subscribe(request).await {
                if let Some(lost) = lost.take() {
                    lock(&self.journal).resumed(lost.elapsed());
                }
                let mut stream = answer.into_inner();
                while let Ok(Some(message)) = stream.message().await {
                    let token = String::from_utf8_lossy(&message.body).parse().unwrap_or(0);
                    lock(&self.journal).delivered(self.number, message.id, token);
                }
            }
            lost.get_or_insert_with(Instant::now);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Waits until the load has so many acknowledgements more.
pub async fn more(load: &Load, count: usize) {
    let before = load.acknowledged();
    eventually("the load to go on", || async { (load.acknowledged() >= before + count).then_some(()) }).await;
}
