//! One side at one value: servers of its own, the load, and what it cost all of them.

use std::time::{Duration, Instant};

use crate::axis::{Axis, Load, Side, System};
use crate::client::calls::{Publish, closed};
use crate::client::connect::{connect, subjects};
use crate::client::fan_out::{self, FanOut};
use crate::client::subjects::{STEP, prepare};
use crate::envoy::Envoy;
use crate::figures::{Figure, Measured};
use crate::places::Places;
use crate::processes;
use crate::support::PATIENCE;
use crate::system::{Launch, ServerProcess};
use crate::{Args, Failure};

/// How long messages are kept: longer than all of it runs, so every one is projected.
const KEPT_SECONDS: i32 = 3_600;
/// Between two looks whether everything is projected.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const DURABLE: &str = "walcast_position{position=\"durable\"}";
const PROJECTED: &str = "walcast_position{position=\"projected\"}";
const SYNCS: &str = "walcast_fsync_duration_seconds_count";

/// Starts what a side needs, and runs the load of a value.
///
/// # Errors
/// A call or a check that failed.
pub async fn side(args: &Args, places: &Places, axis: Axis, value: usize, side: Side) -> Result<Measured, Failure> {
    let launch = match side.system {
        System::Noop => Launch::Noop { stamped: false },
        system => Launch::Walcast(places.new_place(system).await?),
    };
    let mut server = ServerProcess::start(launch, &args.walcast, &args.data_root).await?;
    let folder = tempfile::Builder::new().prefix("scale").tempdir_in(&args.data_root)?;
    let envoy = match side.envoy {
        true => {
            let broker = server.uri.trim_start_matches("http://").to_owned();
            Some(tokio::task::block_in_place(|| Envoy::start(&args.envoy, &[broker], false, folder.path()))?)
        }
        false => None,
    };
    if let Some(envoy) = &envoy {
        server.uri.clone_from(&envoy.uri);
    }
    let is_broker = side.system != System::Noop;
    if axis == Axis::Subscribers {
        // With one subscriber a delivery costs no more than a publish, so there are as many as where nothing is delivered.
        let in_flight = if value == 1 { 256 } else { 16 };
        let fan_out = FanOut { subscribers: value, in_flight, in_order: is_broker };
        return fan_out::closed(&server, &args.plan(), fan_out).await;
    }
    let load = axis.load(value);
    if axis == Axis::Subjects && is_broker {
        prepare(&server, load.subjects).await?;
    }
    let others = Others { envoy: envoy.as_ref().map(Envoy::pid), database: places.pid(side.system) };
    publish(args, &server, side.system, &others, load).await
}

/// Processes beside the server that a load costs something, too.
struct Others {
    envoy: Option<u32>,
    database: Option<u32>,
}

impl Others {
    /// CPU seconds of each that there is.
    fn cpu_seconds(&self) -> Result<[Option<f64>; 2], Failure> {
        let of = |pid: Option<u32>| pid.map(processes::cpu_seconds).transpose();
        Ok([of(self.envoy)?, of(self.database)?])
    }
}

async fn publish(
    args: &Args,
    server: &ServerProcess,
    system: System,
    others: &Others,
    load: Load,
) -> Result<Measured, Failure> {
    let plan = args.plan();
    let call = Publish::on(subjects(load.subjects).into(), STEP, KEPT_SECONDS).sized(load.body_bytes);
    let clients = connect(server, load.connections).await?;
    let log = Log::look(server, system).await?;
    let (before, others_before) = (server.cpu_seconds()?, others.cpu_seconds()?);
    let tally = closed(&clients, load.in_flight, &plan, call).await?;
    let projected_after = projected(server, system).await?;
    let cpu = server.cpu_seconds_when_quiet().await? - before;
    let a_call = |seconds: f64| seconds * 1e6 / tally.calls as f64;
    let mut measured =
        tally.measured(&plan).with(Figure::Cpu, a_call(cpu)).with(Figure::PeakMemory, server.peak_memory_mib()?);
    let figures = [Figure::EnvoyCpu, Figure::DatabaseCpu];
    for ((figure, after), before) in figures.into_iter().zip(others.cpu_seconds()?).zip(others_before) {
        if let (Some(after), Some(before)) = (after, before) {
            measured = measured.with(figure, a_call(after - before));
        }
    }
    if let Some(seconds) = projected_after {
        measured = measured.with(Figure::Projected, seconds);
    }
    match log {
        Some(log) => Ok(measured.with(Figure::Batch, log.calls_per_sync(server, tally.calls).await?)),
        None => Ok(measured),
    }
}

/// Seconds until the store has all that is in the log; None where there is no store.
async fn projected(server: &ServerProcess, system: System) -> Result<Option<f64>, Failure> {
    if matches!(system, System::Noop | System::NoStore) {
        return Ok(None);
    }
    let begun = Instant::now();
    loop {
        // The later one last: it can only have grown meanwhile.
        let (projected, durable) = (server.metric(PROJECTED).await?, server.metric(DURABLE).await?);
        if projected == durable {
            return Ok(Some(begun.elapsed().as_secs_f64()));
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("{} messages are not projected after {PATIENCE:?}", durable - projected).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The log of a broker before the load.
struct Log {
    durable: f64,
    syncs: f64,
}

impl Log {
    async fn look(server: &ServerProcess, system: System) -> Result<Option<Self>, Failure> {
        if system == System::Noop {
            return Ok(None);
        }
        Ok(Some(Self { durable: server.metric(DURABLE).await?, syncs: server.metric(SYNCS).await? }))
    }

    /// Publishes that share an fdatasync. Every one that was answered must be behind one: the broker's position says so.
    async fn calls_per_sync(&self, server: &ServerProcess, calls: u64) -> Result<f64, Failure> {
        let (durable, syncs) = (server.metric(DURABLE).await? - self.durable, server.metric(SYNCS).await? - self.syncs);
        if durable != calls as f64 || syncs < 1.0 {
            return Err(
                format!("{calls} publishes were answered, {durable} are durable after {syncs} fdatasyncs").into()
            );
        }
        Ok(calls as f64 / syncs)
    }
}
