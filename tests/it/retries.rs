//! Publishes that are retried because their answers are lost, with and without idempotency keys. Between the publishers and the
//! broker stands a proxy that resets connections and holds answers back at random; publishers lose patience at random; the
//! broker is killed on the way.
//!
//! `WALCAST_RETRIES` (2,000) publishes, `WALCAST_RETRIES_KILLS` (2) and `WALCAST_RETRIES_SEED` (random, printed).
//! `make retries` does it 100,000 times.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use walcast::proto::client::PublishRequest;
use walcast::proto::client::broker_client::BrokerClient;

use crate::support::{Broker, PATIENCE, Setup, Stopped, from_env, walcast};

const SUBJECTS: u64 = 10;
const PUBLISHERS: u64 = 32;

/// Forwards to the broker, badly.
#[derive(Debug, Clone)]
struct Proxy {
    address: String,
    broker: Arc<Mutex<String>>,
    resets: Arc<AtomicU64>,
}

impl Proxy {
    async fn before(broker: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let proxy = Self { address, broker: Arc::new(Mutex::new(broker.to_owned())), resets: Arc::default() };
        let accepting = proxy.clone();
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            while let Ok((client, _)) = listener.accept().await {
                let broker = accepting.broker.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let (resets, seed) = (Arc::clone(&accepting.resets), random.random());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(broker).await else { return };
                    if forward(client, server, StdRng::seed_from_u64(seed)).await.is_ok() {
                        resets.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        proxy
    }

    fn goes_to(&self, broker: &str) {
        *self.broker.lock().unwrap_or_else(PoisonError::into_inner) = broker.to_owned();
    }
}

/// Until it resets the connection, which is Ok, or one side ends it.
async fn forward(mut client: TcpStream, mut server: TcpStream, mut random: StdRng) -> io::Result<()> {
    // A reset may come between a question and its answer, or within either.
    let mut left = random.random_range(1_000..12_000_usize);
    let (mut question, mut answer) = ([0; 2_048], [0; 512]);
    while left > 0 {
        let read = tokio::select! {
            read = client.read(&mut question) => {
                let read = read?.min(left);
                server.write_all(&question[..read]).await?;
                read
            }
            read = server.read(&mut answer) => {
                if random.random_range(0..200) == 0 {
                    tokio::time::sleep(Duration::from_millis(random.random_range(1..150))).await;
                }
                let read = read?.min(left);
                client.write_all(&answer[..read]).await?;
                read
            }
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= read;
    }
    for socket in [&client, &server] {
        socket.set_zero_linger()?;
    }
    Ok(())
}

/// What publishers know at the end: number to id.
type Acknowledged = Arc<Mutex<BTreeMap<u64, i32>>>;

fn subject(number: u64) -> String {
    format!("retried-{}", number % SUBJECTS)
}

#[derive(Debug, Clone)]
struct Publisher {
    channel: Channel,
    keyed: bool,
    acknowledged: Acknowledged,
    attempts: Arc<AtomicU64>,
}

impl Publisher {
    /// Sends a message until it is acknowledged.
    async fn publish(&self, number: u64, random: &mut StdRng) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            let request = PublishRequest {
                subject: subject(number),
                body: number.to_string().into(),
                expiration_seconds: 3_600,
                idempotency_key: if self.keyed { format!("message {number}") } else { String::new() },
            };
            let patience = Duration::from_millis(random.random_range(2..400));
            let mut client = BrokerClient::new(self.channel.clone());
            if let Ok(Ok(answer)) = tokio::time::timeout(patience, client.publish(request)).await {
                let id = answer.into_inner().id;
                self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(number, id);
                return;
            }
            assert!(Instant::now() < give_up, "message {number} is never acknowledged");
            tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
        }
    }
}

/// What a run is judged by.
#[derive(Debug, Default)]
struct Judged {
    twice: usize,
    lost: usize,
    under_another_id: usize,
    invented: usize,
}

/// Compares what was acknowledged with every record of the log.
fn judge(stopped: &Stopped, acknowledged: &BTreeMap<u64, i32>, count: u64) -> Judged {
    let shown = walcast(&["log", "show", "--data-dir"]).arg(stopped.data()).output().expect("it runs");
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let mut ids: BTreeMap<u64, Vec<i32>> = BTreeMap::new();
    let mut judged = Judged::default();
    for line in shown.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let record: Value = serde_json::from_slice(line).expect("JSON");
        let body = STANDARD.decode(record["body_base64"].as_str().expect("a body")).expect("base64");
        let number = String::from_utf8(body).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
        judged.invented += usize::from(number >= count || record["subject"] != subject(number));
        ids.entry(number).or_default().push(record["id"].as_i64().expect("an id") as i32);
    }
    judged.twice = ids.values().filter(|ids| ids.len() > 1).count();
    for number in 0..count {
        let found = ids.get(&number).map_or(&[][..], Vec::as_slice);
        judged.lost += usize::from(found.is_empty());
        judged.under_another_id += usize::from(acknowledged.get(&number).is_none_or(|id| !found.contains(id)));
    }
    judged
}

async fn run(keyed: bool, count: u64, kills: u64) -> Judged {
    let seed = from_env("WALCAST_RETRIES_SEED", rand::random());
    println!("WALCAST_RETRIES_SEED={seed}");
    let started = Instant::now();
    let mut broker = Setup::new().set("log.keep_bytes", "4GiB").start().await;
    let proxy = Proxy::before(broker.grpc(), seed).await;
    let (acknowledged, attempts, next) = (Acknowledged::default(), Arc::default(), Arc::new(AtomicU64::new(0)));
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        let endpoint = Endpoint::from_shared(format!("http://{}", proxy.address)).expect("an address");
        let channel = endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy();
        let (acknowledged, attempts) = (Arc::clone(&acknowledged), Arc::clone(&attempts));
        let publisher = Publisher { channel, keyed, acknowledged, attempts };
        let (next, mut random) = (Arc::clone(&next), StdRng::seed_from_u64(seed ^ number));
        publishers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                publisher.publish(number, &mut random).await;
            }
        });
    }
    for kill in 1..=kills {
        while next.load(Ordering::Relaxed) < count * kill / (kills + 1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        broker = broker.kill_nine().await.start().await;
        proxy.goes_to(broker.grpc());
    }
    publishers.join_all().await;
    let duplicates = duplicates(&broker).await;
    let stopped = broker.stop().await;
    let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    let judged = judge(&stopped, &acknowledged, count);
    println!(
        "{count} publishes, {} keys: {} attempts, {} resets, {kills} kills, {duplicates} retries answered by the last broker, \
         {:.1} s: {judged:?}",
        if keyed { "with" } else { "without" },
        attempts.load(Ordering::Relaxed),
        proxy.resets.load(Ordering::Relaxed),
        started.elapsed().as_secs_f64()
    );
    assert!(attempts.load(Ordering::Relaxed) > count + count / 100, "hardly anything was retried");
    judged
}

async fn duplicates(broker: &Broker) -> f64 {
    broker.metric("walcast_idempotency_duplicates_total").await
}

fn count() -> u64 {
    from_env("WALCAST_RETRIES", 2_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_every_message_is_there_once_under_the_id_that_was_acknowledged() {
    let judged = run(true, count(), from_env("WALCAST_RETRIES_KILLS", 2)).await;
    assert_eq!((judged.twice, judged.lost, judged.under_another_id, judged.invented), (0, 0, 0, 0), "{judged:?}");
}

/// The control: without keys the same retries make messages that are there twice, and that is found.
#[tokio::test(flavor = "multi_thread")]
async fn without_keys_retries_are_found_out_as_duplicates() {
    let judged = run(false, 2_000, 1).await;
    assert!(judged.twice > 0, "{judged:?}");
    assert_eq!((judged.lost, judged.under_another_id, judged.invented), (0, 0, 0), "nothing else is wrong: {judged:?}");
}
