//! A publisher on one connection, and subscribers of its subject on others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tonic::Status;

use super::audience::{Audience, Look, Shared};
use super::calls::{Call, Turn};
use super::connect::{CONNECTIONS, Client, connect, connect_one, publish};
use super::open_loop::{self, Offered};
use super::stamp::stamped;
use super::{Plan, WARM_UP};
use crate::Failure;
use crate::figures::{Figure, Latencies, Measured, latencies};
use crate::processes;
use crate::program::BODY_BYTES;
use crate::system::ServerProcess;

/// The only subject; the server that does nothing knows no other.
pub const SUBJECT: &str = "yardstick-00";
/// The publisher waits while the slowest subscriber is this many messages behind, or four times what is in flight: far below
/// what either system keeps for a subscriber, so nobody is measured on how it drops people.
const WINDOW_MIN: u64 = 256;
/// Callers of the open loop: as many publishes as may be in flight at once before one has to wait, which counts as latency.
const CALLERS: usize = 256;

/// What the publishes in flight share.
struct Publishing {
    audience: Arc<Shared>,
    published: AtomicU64,
    window: u64,
    over: AtomicBool,
}

/// How large a fan-out is.
#[derive(Debug, Clone, Copy)]
pub struct FanOut {
    /// Of the one subject.
    pub subscribers: usize,
    /// Publishes in flight, at the most.
    pub in_flight: usize,
    /// Ids must follow each other ([`Look::in_order`]).
    pub in_order: bool,
}

/// As many publishes as the slowest subscriber can follow; the rate is that of deliveries.
pub async fn closed(server: &ServerProcess, plan: &Plan, fan_out: FanOut) -> Result<Measured, Failure> {
    let FanOut { subscribers, in_flight, in_order } = fan_out;
    let clients = connect(server, CONNECTIONS.min(subscribers)).await?;
    let look = Look { clock: None, in_order };
    let mut audience = Audience::subscribe(&clients, SUBJECT, subscribers, look).await?;
    let (cpu_before, client_before) = (server.cpu_seconds()?, processes::own_cpu_seconds()?);
    let publisher = connect_one(server).await?;
    let shared = Arc::new(Publishing {
        audience: audience.shared(),
        published: AtomicU64::new(0),
        window: WINDOW_MIN.max(4 * in_flight as u64),
        over: AtomicBool::new(false),
    });
    let mut publishers = JoinSet::new();
    for _ in 0..in_flight {
        publishers.spawn(publish_while_kept_up(publisher.clone(), Arc::clone(&shared)));
    }
    tokio::time::sleep(WARM_UP).await;
    let (from, before) = (Instant::now(), shared.audience.deliveries());
    tokio::time::sleep(plan.measured).await;
    let (elapsed, after) = (from.elapsed(), shared.audience.deliveries());
    shared.over.store(true, Ordering::Relaxed);
    let mut latency_us = latencies()?;
    while let Some(done) = publishers.join_next().await {
        latency_us.add(done??)?;
    }
    let published = shared.published.load(Ordering::Relaxed);
    audience.arrived(published).await?;
    let client_seconds = processes::own_cpu_seconds()? - client_before;
    let cpu = server.cpu_seconds_when_quiet().await? - cpu_before;
    audience.arrived(published).await?;
    Ok(Measured::default()
        .with(Figure::Rate, (after - before) as f64 / elapsed.as_secs_f64())
        .with_latencies(Figure::Call, &latency_us)
        .with(Figure::Cpu, cpu * 1e6 / (published * subscribers as u64) as f64)
        .with_client(client_seconds, published * subscribers as u64)
        .with(Figure::PeakMemory, server.peak_memory_mib()?))
}

async fn publish_while_kept_up(mut client: Client, shared: Arc<Publishing>) -> Result<Latencies, Failure> {
    let mut latency_us = latencies()?;
    let body = Bytes::from_static(&[b'x'; BODY_BYTES]);
    while !shared.over.load(Ordering::Relaxed) {
        if shared.published.load(Ordering::Relaxed).saturating_sub(shared.audience.slowest()) >= shared.window {
            // A spin would take the CPU that the server needs; the window outlasts many such pauses.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        shared.published.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        client.publish(publish(SUBJECT.to_owned(), body.clone(), 0)).await?;
        latency_us.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(latency_us)
}

/// Publishes with the time in the body, fire and forget.
#[derive(Debug, Clone)]
pub struct Stamped {
    /// Where the times count from.
    pub clock: Instant,
    /// Size of the body.
    pub body_bytes: usize,
}

impl Call for Stamped {
    async fn call(&self, client: &mut Client, turn: &Turn) -> Result<(), Status> {
        let body = stamped(self.body_bytes, self.clock, turn.measured.then_some(turn.due));
        client.publish(publish(SUBJECT.to_owned(), body, 0)).await.map(drop)
    }
}

/// Publishes when due, so that there are `deliveries` a second, and times each until its delivery.
pub async fn timed(
    server: &ServerProcess,
    plan: &Plan,
    in_order: bool,
    subscribers: usize,
    deliveries: f64,
) -> Result<Measured, Failure> {
    let clock = Instant::now();
    let clients = connect(server, CONNECTIONS.min(subscribers)).await?;
    let look = Look { clock: Some(clock), in_order };
    let mut audience = Audience::subscribe(&clients, SUBJECT, subscribers, look).await?;
    let publisher = [connect_one(server).await?];
    let call = Stamped { clock, body_bytes: BODY_BYTES };
    let offered = open_loop::offer(&publisher, CALLERS, deliveries / subscribers as f64, plan, call).await?;
    audience.arrived(offered.calls).await?;
    Ok(of_timed(&offered, &audience, subscribers)?.with(Figure::PeakMemory, server.peak_memory_mib()?))
}

/// The figures of publishes whose deliveries were timed.
pub fn of_timed(offered: &Offered, audience: &Audience, subscribers: usize) -> Result<Measured, Failure> {
    let deliveries = offered.measured * subscribers as u64;
    let latency_us = audience.latency_us(deliveries)?;
    Ok(Measured::default()
        .with(Figure::Rate, deliveries as f64 / offered.took.as_secs_f64())
        .with(Figure::Kept, offered.kept)
        .with_latencies(Figure::Call, &offered.latency_us)
        .with_latencies(Figure::Delivery, &latency_us))
}
