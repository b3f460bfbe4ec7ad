//! A closed loop: each caller calls again as soon as it is answered.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinSet;
use tonic::Status;

use super::connect::{Client, SUBJECTS, connect, publish, subjects};
use super::{Plan, WARM_UP};
use crate::Failure;
use crate::figures::{Figure, Latencies, Measured, latencies};
use crate::processes;
use crate::program::BODY_BYTES;
use crate::system::ServerProcess;

/// A call that is to be made now.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Its number over all callers, dense in an open loop.
    pub number: u64,
    /// When it was due.
    pub due: Instant,
    /// Whether it counts: the warm-up is over.
    pub measured: bool,
}

/// One kind of call. A clone is for one caller.
pub trait Call: Clone + Send + Sync + 'static {
    /// Makes the call; an answer that is not the right one is an error, too.
    fn call(&self, client: &mut Client, turn: &Turn) -> impl Future<Output = Result<(), Status>> + Send;
}

/// Publishes on subjects in turn, spread evenly.
#[derive(Debug, Clone)]
pub struct Publish {
    subjects: Arc<[String]>,
    /// Next to the golden section of the number of subjects, and without a factor in common with it: all come up
    /// equally often, and none soon after its neighbours.
    step: u64,
    body: Bytes,
    expiration_seconds: i32,
}

impl Publish {
    /// On 100 subjects, kept for so many seconds.
    pub fn kept_for(expiration_seconds: i32) -> Self {
        Self::on(subjects(SUBJECTS).into(), 61, expiration_seconds)
    }

    /// On these subjects.
    pub fn on(subjects: Arc<[String]>, step: u64, expiration_seconds: i32) -> Self {
        Self { subjects, step, body: Bytes::from_static(&[b'x'; BODY_BYTES]), expiration_seconds }
    }

    /// With bodies of so many bytes.
    #[must_use]
    pub fn sized(self, body_bytes: usize) -> Self {
        Self { body: vec![b'x'; body_bytes].into(), ..self }
    }
}

impl Call for Publish {
    async fn call(&self, client: &mut Client, turn: &Turn) -> Result<(), Status> {
        // Below the number of subjects, a usize.
        let subject = (turn.number * self.step % self.subjects.len() as u64) as usize;
        let request = publish(self.subjects[subject].clone(), self.body.clone(), self.expiration_seconds);
        client.publish(request).await.map(drop)
    }
}

/// What came of a closed loop.
pub struct Tally {
    /// All calls, with those of the warm-up.
    pub calls: u64,
    /// Those that count.
    pub measured: u64,
    latency_us: Latencies,
    /// CPU seconds of the client.
    client_seconds: f64,
}

/// Calls over `connections` with so many in flight on each, and what they cost the server.
pub async fn run(
    server: &ServerProcess,
    plan: &Plan,
    connections: usize,
    in_flight: usize,
    call: impl Call,
) -> Result<Measured, Failure> {
    let clients = connect(server, connections).await?;
    let cpu_before = server.cpu_seconds()?;
    let tally = closed(&clients, in_flight, plan, call).await?;
    let cpu = server.cpu_seconds_when_quiet().await? - cpu_before;
    Ok(tally
        .measured(plan)
        .with(Figure::Cpu, cpu * 1e6 / tally.calls as f64)
        .with(Figure::PeakMemory, server.peak_memory_mib()?))
}

/// Calls until the time is over; the first error ends all.
pub async fn closed(clients: &[Client], in_flight: usize, plan: &Plan, call: impl Call) -> Result<Tally, Failure> {
    let from = Instant::now() + WARM_UP;
    let until = from + plan.measured;
    let callers = clients.len() * in_flight;
    let cpu_before = processes::own_cpu_seconds()?;
    let mut tasks: JoinSet<Result<Tally, Failure>> = JoinSet::new();
    for caller in 0..callers {
        let mut client = clients[caller % clients.len()].clone();
        let call = call.clone();
        tasks.spawn(async move {
            let mut tally = Tally::new()?;
            let mut number = caller as u64;
            loop {
                let sent = Instant::now();
                call.call(&mut client, &Turn { number, due: sent, measured: sent >= from }).await?;
                let answered = Instant::now();
                tally.calls += 1;
                number += callers as u64;
                if answered >= until {
                    return Ok(tally);
                }
                if answered >= from {
                    tally.measured += 1;
                    let micros = (answered - sent).as_micros();
                    tally.latency_us.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
                }
            }
        });
    }
    let mut total = Tally::new()?;
    while let Some(tally) = tasks.join_next().await {
        let tally = tally??;
        total.calls += tally.calls;
        total.measured += tally.measured;
        total.latency_us.add(tally.latency_us)?;
    }
    total.client_seconds = processes::own_cpu_seconds()? - cpu_before;
    Ok(total)
}

impl Tally {
    fn new() -> Result<Self, Failure> {
        Ok(Self { calls: 0, measured: 0, latency_us: latencies()?, client_seconds: 0.0 })
    }

    /// Its rate and latencies.
    pub fn measured(&self, plan: &Plan) -> Measured {
        let rate = self.measured as f64 / plan.measured.as_secs_f64();
        Measured::default()
            .with(Figure::Rate, rate)
            .with_latencies(Figure::Call, &self.latency_us)
            .with_client(self.client_seconds, self.calls)
    }
}
