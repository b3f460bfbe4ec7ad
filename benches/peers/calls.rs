//! The load: so many publishes in flight on each connection, each sent when one before it was acknowledged.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use walcast::proto::client::PublishRequest;
use walcast::proto::client::broker_client::BrokerClient;

use crate::figures::{Figure, Latencies, Measured, latencies};
use crate::server::Server;
use crate::{BODY_BYTES, Failure, Load, SUBJECTS, System, nats, processes, redis};

/// Goes before each measurement.
const WARM_UP: Duration = Duration::from_millis(500);

/// When calls count, and what came of them.
pub struct Tally {
    from: Instant,
    until: Instant,
    calls: u64,
    measured: u64,
    latency_us: Latencies,
}

impl Tally {
    fn new(from: Instant, measured: Duration) -> Result<Self, Failure> {
        Ok(Self { from, until: from + measured, calls: 0, measured: 0, latency_us: latencies()? })
    }

    /// Writes down an acknowledgement that has just come. Whether there is time for another call.
    pub fn add(&mut self, sent: Instant) -> bool {
        let now = Instant::now();
        self.calls += 1;
        if now >= self.from && now < self.until {
            self.measured += 1;
            self.latency_us.saturating_record(u64::try_from((now - sent).as_micros()).unwrap_or(u64::MAX));
        }
        now < self.until
    }

    fn merge(&mut self, other: &Self) -> Result<(), Failure> {
        self.calls += other.calls;
        self.measured += other.measured;
        Ok(self.latency_us.add(&other.latency_us)?)
    }
}

/// The load on one system, and what it cost the server.
pub async fn run(server: &Server, load: Load, measured: Duration) -> Result<Measured, Failure> {
    let (cpu_before, client_before) = (processes::cpu_seconds(server.pid())?, processes::own_cpu_seconds()?);
    let from = Instant::now() + WARM_UP;
    let mut connections: JoinSet<Result<Tally, Failure>> = JoinSet::new();
    for connection in 0..load.connections {
        let tally = Tally::new(from, measured)?;
        let address = server.address.clone();
        match server.system {
            System::Noop | System::Walcast => connections.spawn(grpc(address, connection, load.in_flight, tally)),
            System::Nats => connections.spawn(nats::publish(address, connection, load.in_flight, tally)),
            System::Redis => connections.spawn(redis::publish(address, connection, load.in_flight, tally)),
        };
    }
    let mut total = Tally::new(from, measured)?;
    while let Some(tally) = connections.join_next().await {
        total.merge(&tally??)?;
    }
    if total.measured == 0 {
        return Err("nothing was acknowledged".into());
    }
    let client_seconds = processes::own_cpu_seconds()? - client_before;
    let cpu = processes::cpu_seconds_when_quiet(server.pid()).await? - cpu_before;
    Ok(Measured::default()
        .with(Figure::Rate, total.measured as f64 / measured.as_secs_f64())
        .with_latencies(Figure::Call, &total.latency_us)
        .with_client(client_seconds, total.calls)
        .with(Figure::Cpu, cpu * 1e6 / total.calls as f64))
}

/// The subject of a call: all come up equally often.
pub fn subject(connection: usize, call: u64) -> usize {
    // Less than the number of subjects.
    ((connection as u64 * 13 + call * 61) % SUBJECTS as u64) as usize
}

async fn grpc(address: String, connection: usize, in_flight: usize, mut tally: Tally) -> Result<Tally, Failure> {
    let channel = Channel::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?;
    let client = BrokerClient::new(channel);
    let mut callers: JoinSet<Result<Tally, Failure>> = JoinSet::new();
    for caller in 0..in_flight {
        let mut client = client.clone();
        let mut tally = Tally::new(tally.from, tally.until - tally.from)?;
        callers.spawn(async move {
            let body = Bytes::from_static(&[b'x'; BODY_BYTES]);
            let mut call = caller as u64;
            loop {
                let request = PublishRequest {
                    subject: format!("peers.{}", subject(connection, call)),
                    body: body.clone(),
                    expiration_seconds: 60,
                    ..PublishRequest::default()
                };
                let sent = Instant::now();
                client.publish(request).await?;
                call += in_flight as u64;
                if !tally.add(sent) {
                    return Ok(tally);
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        tally.merge(&caller??)?;
    }
    Ok(tally)
}
