//! A closed loop: each caller calls again as soon as it is answered.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;
use walcast::proto::client::broker_client::BrokerClient;
use walcast::proto::client::{FetchRequest, PublishRequest};

use super::fetch::FETCHED_PER_SUBJECT;
use super::{BODY_BYTES, Measured, Plan, SUBJECTS, WARM_UP, connect, subjects};
use crate::Failure;
use crate::server::ServerProcess;

/// The call that is made.
#[derive(Debug, Clone)]
pub enum Work {
    /// Publishes.
    Publish { body: Bytes, expiration_seconds: i32 },
    /// Fetches what was prepared.
    Fetch,
}

impl Work {
    /// A publish of a body that is kept so long.
    pub fn publish(expiration_seconds: i32) -> Self {
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

struct Tally {
    calls: u64,
    measured_calls: u64,
    latency_us: Histogram<u64>,
}

/// Calls over `connections` with so many in flight on each.
pub async fn calls(
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
