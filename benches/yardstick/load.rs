//! The load: one program for both systems.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use walcast::proto::client::broker_client::BrokerClient;
use walcast::proto::client::{FetchRequest, PublishRequest, SubscribeRequest};

use crate::Failure;
use crate::server::ServerProcess;

/// Body of every message, in bytes.
pub const BODY_BYTES: usize = 256;
const SUBJECTS: usize = 100;
const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 32;
const WARM_UP: Duration = Duration::from_millis(500);
const FETCHED_PER_SUBJECT: i32 = 20;
const SUBSCRIBERS: usize = 64;
const FAN_OUT_IN_FLIGHT: usize = 16;
/// The publishers of the fan-out wait while the slowest subscriber is this many messages behind: far below
/// what either system keeps for a subscriber, so nobody is measured on how it drops people.
const FAN_OUT_WINDOW: u64 = 256;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Cell {
    /// Publish, kept for 60 seconds, 8 connections with 32 in flight each.
    Publish,
    /// The same, fire and forget.
    PublishForget,
    /// Publish, one connection, one in flight.
    PublishAlone,
    /// Fetch of what was just published, 8 connections with 32 in flight each.
    Fetch,
    /// 16 publishes in flight to 64 subscribers of one subject; counts deliveries.
    FanOut,
}

impl Cell {
    /// In the order of the table.
    pub const ALL: [Self; 5] = [Self::Publish, Self::PublishForget, Self::PublishAlone, Self::Fetch, Self::FanOut];

    /// The name in the table and in the JSON file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish 8x32, 60 s",
            Self::PublishForget => "publish 8x32, 0 s",
            Self::PublishAlone => "publish 1x1, 60 s",
            Self::Fetch => "fetch 8x32, hot",
            Self::FanOut => "fan-out 16 x 64",
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// After the warm-up.
    pub measured: Duration,
}

/// What one cell of one round gave.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Calls (fan-out: deliveries) a second.
    pub rate: f64,
    /// Median latency of a call, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// CPU of the server for a call (fan-out: a delivery), microseconds, with all that the call causes later.
    pub cpu_us: f64,
    /// Peak resident memory of the server, MiB.
    pub memory_mib: f64,
}

/// Runs one cell against a fresh server.
pub async fn run(cell: Cell, server: &ServerProcess, plan: &Plan) -> Result<Measured, Failure> {
    match cell {
        Cell::Publish => calls(server, plan, CONNECTIONS, IN_FLIGHT, Work::publish(60)).await,
        Cell::PublishForget => calls(server, plan, CONNECTIONS, IN_FLIGHT, Work::publish(0)).await,
        Cell::PublishAlone => calls(server, plan, 1, 1, Work::publish(60)).await,
        Cell::Fetch => {
            prepare_fetches(server).await?;
            calls(server, plan, CONNECTIONS, IN_FLIGHT, Work::Fetch).await
        }
        Cell::FanOut => fan_out(server, plan).await,
    }
}

#[derive(Debug, Clone)]
enum Work {
    Publish { body: Bytes, expiration_seconds: i32 },
    Fetch,
}

impl Work {
    fn publish(expiration_seconds: i32) -> Self {
        Self::Publish { body: Bytes::from_static(&[b'x'; BODY_BYTES]), expiration_seconds }
    }

    async fn call(&self, client: &mut BrokerClient<Channel>, subjects: &[String], turn: u64) -> Result<(), Status> {
        // Both factors are far below the range of usize.
        let subject = subjects[turn as usize % subjects.len()].clone();
        match self {
            Self::Publish { body, expiration_seconds } => {
                let request = PublishRequest { subject, body: body.clone(), expiration_seconds: *expiration_seconds };
                client.publish(request).await.map(drop)
            }
            Self::Fetch => {
                let id = 1 + (turn / SUBJECTS as u64 % FETCHED_PER_SUBJECT as u64) as i32;
                let found = client.fetch(FetchRequest { subject, id }).await?.into_inner();
                if found.body.len() == BODY_BYTES { Ok(()) } else { Err(Status::data_loss("not the body")) }
            }
        }
    }
}

fn subjects() -> Vec<String> {
    (0..SUBJECTS).map(|number| format!("yardstick-{number:02}")).collect()
}

async fn connect(server: &ServerProcess, connections: usize) -> Result<Vec<BrokerClient<Channel>>, Failure> {
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        clients.push(BrokerClient::new(Endpoint::from_shared(server.uri.clone())?.connect().await?));
    }
    Ok(clients)
}

async fn prepare_fetches(server: &ServerProcess) -> Result<(), Failure> {
    let client = connect(server, 1).await?.remove(0);
    let mut tasks = JoinSet::new();
    for subject in subjects() {
        let mut client = client.clone();
        tasks.spawn(async move {
            for _ in 0..FETCHED_PER_SUBJECT {
                let body = Bytes::from_static(&[b'x'; BODY_BYTES]);
                client.publish(PublishRequest { subject: subject.clone(), body, expiration_seconds: 600 }).await?;
            }
            Ok::<(), Status>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

struct Tally {
    calls: u64,
    measured_calls: u64,
    latency_us: Histogram<u64>,
}

async fn calls(
    server: &ServerProcess,
    plan: &Plan,
    connections: usize,
    in_flight: usize,
    work: Work,
) -> Result<Measured, Failure> {
    let subjects = Arc::new(subjects());
    let clients = connect(server, connections).await?;
    let cpu_before = server.cpu_seconds()?;
    let from = Instant::now() + WARM_UP;
    let until = from + plan.measured;
    let mut tasks: JoinSet<Result<Tally, Failure>> = JoinSet::new();
    for worker in 0..connections * in_flight {
        let mut client = clients[worker % connections].clone();
        let (work, subjects) = (work.clone(), Arc::clone(&subjects));
        tasks.spawn(async move {
            let mut tally = Tally { calls: 0, measured_calls: 0, latency_us: Histogram::new_with_max(60_000_000, 3)? };
            let mut turn = worker as u64;
            loop {
                let sent = Instant::now();
                work.call(&mut client, &subjects, turn).await?;
                let answered = Instant::now();
                tally.calls += 1;
                turn += 61;
                if answered >= until {
                    return Ok(tally);
                }
                if answered >= from {
                    tally.measured_calls += 1;
                    let micros = (answered - sent).as_micros();
                    tally.latency_us.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
                }
            }
        });
    }
    let mut total = Tally { calls: 0, measured_calls: 0, latency_us: Histogram::new_with_max(60_000_000, 3)? };
    while let Some(tally) = tasks.join_next().await {
        let tally = tally??;
        total.calls += tally.calls;
        total.measured_calls += tally.measured_calls;
        total.latency_us.add(tally.latency_us)?;
    }
    let cpu = server.cpu_seconds_when_quiet().await? - cpu_before;
    Ok(Measured {
        rate: total.measured_calls as f64 / plan.measured.as_secs_f64(),
        p50_us: total.latency_us.value_at_quantile(0.5) as f64,
        p99_us: total.latency_us.value_at_quantile(0.99) as f64,
        cpu_us: cpu * 1e6 / total.calls as f64,
        memory_mib: server.peak_memory_mib()?,
    })
}

/// What the publishers and the subscribers of a fan-out share.
struct FanOut {
    received: Vec<AtomicU64>,
    published: AtomicU64,
    over: AtomicBool,
}

impl FanOut {
    fn slowest(&self) -> u64 {
        self.received.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    fn deliveries(&self) -> u64 {
        self.received.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

async fn fan_out(server: &ServerProcess, plan: &Plan) -> Result<Measured, Failure> {
    let shared = Arc::new(FanOut {
        received: (0..SUBSCRIBERS).map(|_| AtomicU64::new(0)).collect(),
        published: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let mut subscribers = start_subscribers(server, &shared).await?;
    let cpu_before = server.cpu_seconds()?;
    let publisher = connect(server, 1).await?.remove(0);
    let mut publishers = JoinSet::new();
    for _ in 0..FAN_OUT_IN_FLIGHT {
        publishers.spawn(publish_while_kept_up(publisher.clone(), Arc::clone(&shared)));
    }
    tokio::time::sleep(WARM_UP).await;
    let (from, before) = (Instant::now(), shared.deliveries());
    tokio::time::sleep(plan.measured).await;
    let (elapsed, after) = (from.elapsed(), shared.deliveries());
    shared.over.store(true, Ordering::Relaxed);
    let mut latency_us = Histogram::<u64>::new_with_max(60_000_000, 3)?;
    while let Some(done) = publishers.join_next().await {
        latency_us.add(done??)?;
    }
    let cpu = server.cpu_seconds_when_quiet().await? - cpu_before;
    // All streams must still be open: a subscriber that was cut off would have lightened the load.
    if let Some(ended) = subscribers.try_join_next() {
        return Err(format!("a subscriber was ended: {:?}", ended?).into());
    }
    let expected = shared.published.load(Ordering::Relaxed) * SUBSCRIBERS as u64;
    if shared.deliveries() != expected {
        return Err(format!("{} of {expected} deliveries arrived", shared.deliveries()).into());
    }
    subscribers.abort_all();
    Ok(Measured {
        rate: (after - before) as f64 / elapsed.as_secs_f64(),
        p50_us: latency_us.value_at_quantile(0.5) as f64,
        p99_us: latency_us.value_at_quantile(0.99) as f64,
        cpu_us: cpu * 1e6 / expected as f64,
        memory_mib: server.peak_memory_mib()?,
    })
}

async fn start_subscribers(server: &ServerProcess, shared: &Arc<FanOut>) -> Result<JoinSet<Status>, Failure> {
    let clients = connect(server, CONNECTIONS).await?;
    let mut tasks = JoinSet::new();
    for number in 0..SUBSCRIBERS {
        let mut client = clients[number % CONNECTIONS].clone();
        let request = SubscribeRequest { subject: "yardstick-00".to_owned(), after_id: None };
        let mut stream = client.subscribe(request).await?.into_inner();
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => shared.received[number].fetch_add(1, Ordering::Relaxed),
                    Ok(None) => return Status::ok("end of stream"),
                    Err(status) => return status,
                };
            }
        });
    }
    Ok(tasks)
}

async fn publish_while_kept_up(
    mut client: BrokerClient<Channel>,
    shared: Arc<FanOut>,
) -> Result<Histogram<u64>, Failure> {
    let mut latency_us = Histogram::new_with_max(60_000_000, 3)?;
    let body = Bytes::from_static(&[b'x'; BODY_BYTES]);
    while !shared.over.load(Ordering::Relaxed) {
        if shared.published.load(Ordering::Relaxed).saturating_sub(shared.slowest()) >= FAN_OUT_WINDOW {
            // A spin would take the CPU that the server needs; the window outlasts many such pauses.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        shared.published.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let request = PublishRequest { subject: "yardstick-00".to_owned(), body: body.clone(), expiration_seconds: 0 };
        client.publish(request).await?;
        latency_us.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(latency_us)
}
