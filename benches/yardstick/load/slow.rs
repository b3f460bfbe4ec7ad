//! A stalled and a slow subscriber beside fast ones.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Streaming;
use walcast::proto::client::MessageResponse;

use crate::Failure;
use crate::cell::Side;
use crate::client::audience::{Audience, Look};
use crate::client::connect::{CONNECTIONS, Client, connect, connect_one, publish, subscribe};
use crate::client::fan_out::{SUBJECT, Stamped, of_timed};
use crate::client::open_loop;
use crate::client::{Plan, WARM_UP};
use crate::figures::{Figure, Measured};
use crate::system::ServerProcess;

const FAST: usize = 100;
/// Publishes a second, on both sides: 150,000 deliveries of 1 KiB, some third of what the machine of the yardstick gets
/// through, so that waiting comes from who is in the way and not from a full processor.
const RATE: f64 = 1_500.0;
const BODY_BYTES: usize = 1024;
/// Published before the fast ones subscribe: more than the 8 MiB of `limits.subscriber_bytes`, so that both are served from
/// the log while the fast ones are measured.
const AHEAD: usize = 12_000;
const AHEAD_IN_FLIGHT: usize = 256;
/// 64 kbit/s, of bodies.
const SLOW_BYTES_PER_SECOND: f64 = 8_000.0;
/// Part of it that must have been read: otherwise nobody read slowly.
const SLOW_MIN: f64 = 0.8;
/// The rest is read within this, or was lost.
const REST_MAX: Duration = Duration::from_secs(30);
/// Publishes in flight at once before one has to wait, which counts as latency.
const CALLERS: usize = 256;

/// The load without (on the side `Without`) or with the two.
pub async fn run(server: &ServerProcess, plan: &Plan, side: Side) -> Result<Measured, Failure> {
    let begun = Instant::now();
    let readers = if side == Side::Walcast { Some(Readers::subscribe(server).await?) } else { None };
    let publisher = [connect_one(server).await?];
    publish_ahead(&publisher[0]).await?;
    // The stalled one takes nothing, so it has not yet seen that it is.
    let behind = if readers.is_some() { 1.0 } else { 0.0 };
    server.metric_becomes("walcast_delivery_behind", |found| found == behind).await?;
    let clients = connect(server, CONNECTIONS).await?;
    let mut audience =
        Audience::subscribe(&clients, SUBJECT, FAST, Look { clock: Some(begun), in_order: true }).await?;
    let memory = server.resident_mib()?;
    let call = Stamped { clock: begun, body_bytes: BODY_BYTES };
    let offered = open_loop::offer(&publisher, CALLERS, RATE, plan, call).await?;
    audience.arrived(offered.calls).await?;
    let growth = server.resident_mib()? - memory;
    // Had one caught up meanwhile, it would have been one of the fast ones.
    let found = server.metric("walcast_delivery_behind").await?;
    if found != behind {
        return Err(format!("{found} subscribers are behind, not {behind}").into());
    }
    let took = WARM_UP + plan.measured;
    if let Some(readers) = readers {
        readers.read_to_the_end(AHEAD as u64 + offered.calls, took).await?;
        let from_log = server.metric("walcast_delivery_fallbacks_total").await?;
        if from_log != 2.0 {
            return Err(format!("{from_log} of the two slow ones were served from the log").into());
        }
    }
    Ok(of_timed(&offered, &audience, FAST)?
        .with(Figure::Growth, growth)
        .with(Figure::PeakMemory, server.peak_memory_mib()?))
}

async fn publish_ahead(client: &Client) -> Result<(), Failure> {
    let publishes = (0..AHEAD).map(|_| {
        let mut client = client.clone();
        async move { client.publish(publish(SUBJECT.to_owned(), Bytes::from_static(&[0; BODY_BYTES]), 0)).await }
    });
    Ok(stream::iter(publishes).buffer_unordered(AHEAD_IN_FLIGHT).try_for_each(|_| async { Ok(()) }).await?)
}

/// The stalled and the slow one, each on a connection of its own.
struct Readers {
    /// Once the load is over: the last id, to which they read as fast as they can.
    last: watch::Sender<Option<u64>>,
    tasks: JoinSet<Result<(), Failure>>,
    /// Bytes of bodies that the slow one has read.
    read: watch::Receiver<u64>,
}

impl Readers {
    async fn subscribe(server: &ServerProcess) -> Result<Self, Failure> {
        let (last, asked) = watch::channel(None);
        let (counted, read) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for (pace, read) in [(None, watch::channel(0).0), (Some(SLOW_BYTES_PER_SECOND), counted)] {
            let stream = connect_one(server).await?.subscribe(subscribe(SUBJECT.to_owned())).await?.into_inner();
            tasks.spawn(Reader { stream, pace, last: asked.clone(), read, next: 1 }.run());
        }
        Ok(Self { last, tasks, read })
    }

    /// Lets them read what they are behind, and fails unless each gets everything, in order. The slow one must have read at
    /// its pace for at least `took`.
    async fn read_to_the_end(mut self, last: u64, took: Duration) -> Result<(), Failure> {
        let (read, due) = (*self.read.borrow() as f64, SLOW_BYTES_PER_SECOND * took.as_secs_f64());
        if read < due * SLOW_MIN {
            return Err(format!("the slow subscriber has read {read} bytes, of {due} that were due").into());
        }
        self.last.send(Some(last))?;
        let all = async {
            while let Some(done) = self.tasks.join_next().await {
                done??;
            }
            Ok::<(), Failure>(())
        };
        tokio::time::timeout(REST_MAX, all).await.map_err(|_| "the slow ones do not get to the end")?
    }
}

/// A subscriber that reads at a pace, or not at all, until it is told to read to the end.
struct Reader {
    stream: Streaming<MessageResponse>,
    /// Bytes a second; none: it reads nothing.
    pace: Option<f64>,
    last: watch::Receiver<Option<u64>>,
    read: watch::Sender<u64>,
    next: u64,
}

impl Reader {
    async fn run(mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        while self.last.borrow_and_update().is_none() {
            let due = self.pace.map(|pace| begun + Duration::from_secs_f64(*self.read.borrow() as f64 / pace));
            tokio::select! {
                changed = self.last.changed() => changed?,
                () = until(due) => self.read_one().await?,
            }
        }
        let last = self.last.borrow().unwrap_or(0);
        while self.next <= last {
            self.read_one().await?;
        }
        Ok(())
    }

    async fn read_one(&mut self) -> Result<(), Failure> {
        let message = self.stream.message().await?.ok_or("the stream of a slow subscriber has ended")?;
        if u64::try_from(message.id) != Ok(self.next) || message.body.len() != BODY_BYTES {
            return Err(format!("{} instead of id {}", message.id, self.next).into());
        }
        self.next += 1;
        self.read.send_modify(|read| *read += BODY_BYTES as u64);
        Ok(())
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
