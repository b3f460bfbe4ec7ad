//! Publishers on one connection, and subscribers of their subject; deliveries are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;
use walcast::proto::client::broker_client::BrokerClient;
use walcast::proto::client::{PublishRequest, SubscribeRequest};

use super::{BODY_BYTES, CONNECTIONS, Measured, Plan, WARM_UP, connect};
use crate::Failure;
use crate::server::ServerProcess;

const SUBSCRIBERS: usize = 64;
const FAN_OUT_IN_FLIGHT: usize = 16;
/// The publishers wait while the slowest subscriber is this many messages behind: far below what either system keeps
/// for a subscriber, so nobody is measured on how it drops people.
const FAN_OUT_WINDOW: u64 = 256;

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

/// As many publishes as the slowest subscriber can follow.
pub async fn fan_out(server: &ServerProcess, plan: &Plan) -> Result<Measured, Failure> {
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
