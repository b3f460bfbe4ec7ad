//! `bench fanout`: publishers on one connection, subscribers on the others; each delivery is checked and timed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Status, Streaming};

use super::super::arguments::duration;
use super::super::{Exit, Failure, client, output};
use super::body::{self, Bodies, HEAD_BYTES, Head};
use super::delivered::Delivered;
use super::load::{self, Call, Client};
use super::options::{LoadOptions, Loop};
use super::order::{Faults, Order};
use super::plan::{Due, Plan};
use super::publish::subjects;
use super::record::{self, Record};
use super::report::Report;
use super::seconds::Series;
use super::watch::Watch;
use crate::proto::client::{MessageResponse, PublishRequest, SubscribeRequest};
use crate::telemetry::metrics::code_name;

/// Subscriptions that are being opened at a time.
const SUBSCRIBING: usize = 128;

/// Messages that are taken from a stream at once.
const BURST: usize = 64;

/// A subscriber that receives nothing looks up this often.
const IDLE: Duration = Duration::from_secs(60);

/// How often a publisher that is too far ahead looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Args)]
pub struct FanoutOptions {
    /// Subscribers, spread over the subjects and the connections
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub subscribers: u32,
    /// Closed loop: publishers wait while subscribers are this many messages behind on average
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub window: u32,
    /// How long deliveries may come in after the last publish before they count as lost
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain: Duration,
    /// Fail if more deliveries than this are lost, repeated or reordered
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_faults: u64,
}

/// What publishers and subscribers share.
#[derive(Debug)]
struct Shared {
    base: Instant,
    /// The largest id acknowledged of each subject.
    last_ids: Vec<AtomicI32>,
    /// Deliveries that acknowledged publishes cause.
    expected: AtomicU64,
    received: AtomicU64,
    /// Subscribers of each subject.
    audience: Vec<u64>,
}

#[derive(Debug, Clone)]
struct Publish {
    subjects: Arc<[String]>,
    bodies: Bodies,
    expires: i32,
    shared: Arc<Shared>,
    /// Deliveries that may be outstanding; none in an open loop.
    ahead_max: Option<u64>,
}

impl Call for Publish {
    async fn call(&self, client: &mut Client, due: &Due) -> Result<(), Status> {
        let shared = &self.shared;
        let mut at = due.at;
        if let Some(ahead_max) = self.ahead_max {
            while shared.expected.load(Ordering::Relaxed).saturating_sub(shared.received.load(Ordering::Relaxed))
                > ahead_max
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            at = Instant::now();
        }
        let index = (due.number % self.subjects.len() as u64) as usize;
        let due_ns = u64::try_from(at.saturating_duration_since(shared.base).as_nanos()).unwrap_or(u64::MAX);
        let body = self.bodies.with(Head { number: due.number, due_ns, measured: due.measured });
        let request = PublishRequest {
            subject: self.subjects[index].clone(),
            body,
            expiration_seconds: self.expires,
            ..PublishRequest::default()
        };
        let id = client.publish(request).await?.get_ref().id;
        shared.last_ids[index].fetch_max(id, Ordering::Relaxed);
        shared.expected.fetch_add(shared.audience[index], Ordering::Relaxed);
        Ok(())
    }
}

/// Subscribes, publishes and measures.
pub async fn run(options: &LoadOptions, fanout: &FanoutOptions) -> Result<Report, Failure> {
    if options.body_bytes < HEAD_BYTES {
        let message = format!("--body-bytes must be at least {HEAD_BYTES}: the body tells when it was published");
        return Err(Failure::new(Exit::Usage, message));
    }
    let subjects = subjects(options.subjects.unwrap_or(1));
    let publisher = client::connect(&options.server.server).await?;
    let clients = load::connect(options).await?;
    let shared = Arc::new(Shared::new(subjects.len(), fanout.subscribers));
    let streams = subscribe(options, fanout, &clients, &subjects).await?;
    output::note(&format!("{} subscribers on {} subjects", fanout.subscribers, subjects.len()));

    let (finish, finished) = watch::channel(None);
    let (published, received) = (record::records(1), record::records(clients.len()));
    let mut listeners = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        let listener = Listener {
            subject: number % subjects.len(),
            shared: Arc::clone(&shared),
            record: Arc::clone(&received[number % received.len()]),
            finished: finished.clone(),
        };
        listeners.spawn(listener.run(stream));
    }
    let call = Publish {
        subjects,
        bodies: Bodies::new(options.body_bytes),
        expires: options.expires,
        shared: Arc::clone(&shared),
        ahead_max: matches!(options.kind(), Loop::Closed(_))
            .then(|| u64::from(fanout.window) * u64::from(fanout.subscribers)),
    };
    let plan = Plan::start(options);
    let watch = Watch::start(options, &plan, [published.clone(), received]);
    load::run("publishes", options, &[publisher], &published, &plan, call).await;
    finish.send_replace(Some(Instant::now() + fanout.drain));
    let outcomes = listeners.join_all().await;
    let ([publishes, deliveries], around) = watch.finish().await;
    let delivered = sum(fanout, deliveries, outcomes);
    Ok(Report::new("fanout", options, publishes, around).with_deliveries(delivered))
}

impl Shared {
    fn new(subjects: usize, subscribers: u32) -> Self {
        let audience = |subject: usize| {
            let (every, rest) = (subscribers as usize / subjects, subscribers as usize % subjects);
            (every + usize::from(subject < rest)) as u64
        };
        Self {
            base: Instant::now(),
            last_ids: (0..subjects).map(|_| AtomicI32::new(0)).collect(),
            expected: AtomicU64::new(0),
            received: AtomicU64::new(0),
            audience: (0..subjects).map(audience).collect(),
        }
    }
}

async fn subscribe(
    options: &LoadOptions,
    fanout: &FanoutOptions,
    clients: &[Client],
    subjects: &[String],
) -> Result<Vec<Streaming<MessageResponse>>, Failure> {
    let opening =
        (0..fanout.subscribers as usize).map(|number| {
            let mut client = clients[number % clients.len()].clone();
            let subject = subjects[number % subjects.len()].clone();
            async move {
                client.subscribe(SubscribeRequest { subject, after_id: None }).await.map(tonic::Response::into_inner)
            }
        });
    // In order, so that the number of a stream tells its subject.
    let streams = stream::iter(opening).buffered(SUBSCRIBING).try_collect().await;
    streams.map_err(|status| Failure::status("subscribing", &options.server.server, &status))
}

struct Listener {
    subject: usize,
    shared: Arc<Shared>,
    record: Arc<Record>,
    /// Once publishing is over: until when deliveries are waited for.
    finished: watch::Receiver<Option<Instant>>,
}

/// How a subscriber ended.
#[derive(Debug)]
struct Outcome {
    faults: Faults,
    ended: Option<&'static str>,
}

impl Listener {
    async fn run(mut self, stream: Streaming<MessageResponse>) -> Outcome {
        let mut bursts = stream.ready_chunks(BURST);
        let mut order = Order::default();
        let mut ended = None;
        while ended.is_none() {
            let deadline = *self.finished.borrow_and_update();
            let last_id = self.shared.last_ids[self.subject].load(Ordering::Relaxed);
            if deadline.is_some_and(|deadline| order.complete(last_id) || Instant::now() >= deadline) {
                break;
            }
            let until = deadline.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                burst = bursts.next() => match burst {
                    Some(burst) => ended = self.take(&mut order, burst),
                    None => ended = Some("OK"),
                },
                changed = self.finished.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
        Outcome { faults: order.faults(self.shared.last_ids[self.subject].load(Ordering::Relaxed)), ended }
    }

    /// Writes deliveries down; the code of the status that ended the stream.
    fn take(&self, order: &mut Order, burst: Vec<Result<MessageResponse, Status>>) -> Option<&'static str> {
        let mut ended = None;
        let measured = burst.into_iter().filter_map(|message| match message {
            Ok(message) => {
                self.shared.received.fetch_add(1, Ordering::Relaxed);
                order.see(message.id);
                let head = body::head(&message.body).filter(|head| head.measured)?;
                Some((self.shared.base + Duration::from_nanos(head.due_ns), Ok(())))
            }
            Err(status) => {
                ended = Some(code_name(status.code()));
                None
            }
        });
        self.record.add_all(measured);
        ended
    }
}

fn sum(fanout: &FanoutOptions, series: Series, outcomes: Vec<Outcome>) -> Delivered {
    let mut delivered = Delivered {
        subscribers: fanout.subscribers,
        series,
        faults: Faults::default(),
        max_faults: fanout.max_faults,
        ended: BTreeMap::new(),
    };
    for outcome in outcomes {
        delivered.faults.merge(&outcome.faults);
        if let Some(code) = outcome.ended {
            *delivered.ended.entry(code.to_owned()).or_default() += 1;
        }
    }
    delivered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subscriber_belongs_to_one_subject() {
        let shared = Shared::new(3, 8);
        assert_eq!(shared.audience, [3, 3, 2]);
        assert_eq!(Shared::new(4, 2).audience, [1, 1, 0, 0]);
    }
}
