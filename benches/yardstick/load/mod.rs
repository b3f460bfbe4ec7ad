//! The load: one program for both systems.

mod calls;
mod fan_out;
mod fetch;

use std::fmt;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use walcast::proto::client::broker_client::BrokerClient;

use calls::{Work, calls};
use fan_out::fan_out;

use crate::Failure;
use crate::server::ServerProcess;

/// Body of every message, in bytes.
pub const BODY_BYTES: usize = 256;
const SUBJECTS: usize = 100;
const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 32;
const WARM_UP: Duration = Duration::from_millis(500);

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
            fetch::prepare_fetches(server).await?;
            calls(server, plan, CONNECTIONS, IN_FLIGHT, Work::Fetch).await
        }
        Cell::FanOut => fan_out(server, plan).await,
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
