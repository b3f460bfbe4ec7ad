//! An open loop: each call has a time at which it is due, and its latency counts from there. A server that stands still does
//! not make the load stand still, so what it would have kept waiting is not left out.

use std::time::{Duration, Instant};

use flume::{Receiver, Sender};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;

use super::calls::{Call, Publish, Turn};
use super::connect::{CONNECTIONS, Client, connect};
use super::{Plan, WARM_UP};
use crate::Failure;
use crate::figures::{Figure, Latencies, Measured, latencies};
use crate::system::ServerProcess;

/// Calls that are due and wait for room on a connection; beyond, the pacer waits too, and they stay due from when they were.
const WAITING_MAX: usize = 65_536;
/// Sleeping is exact to about this; closer times are waited for together.
const PACE: Duration = Duration::from_micros(100);
/// Calls at once on each connection of publishes at half load: four times what was in flight at full load.
const CALLERS: usize = 128;

/// What came of an open loop.
pub struct Offered {
    /// All calls, with those of the warm-up.
    pub calls: u64,
    /// Those that count.
    pub measured: u64,
    /// From when a call was due until it was answered.
    pub latency_us: Latencies,
    /// From when the first call that counts was due until the last one was answered.
    pub took: Duration,
    /// Part of the offered rate that was kept.
    pub kept: f64,
}

/// Publishes that are kept for 60 seconds, so many a second.
pub async fn publish(server: &ServerProcess, plan: &Plan, rate: f64) -> Result<Measured, Failure> {
    let clients = connect(server, CONNECTIONS).await?;
    let cpu_before = server.cpu_seconds()?;
    let offered = offer(&clients, CALLERS, rate, plan, Publish::kept_for(60)).await?;
    let cpu = server.cpu_seconds_when_quiet().await? - cpu_before;
    Ok(Measured::default()
        .with(Figure::Rate, offered.measured as f64 / offered.took.as_secs_f64())
        .with(Figure::Kept, offered.kept)
        .with_latencies(Figure::Call, &offered.latency_us)
        .with(Figure::Cpu, cpu * 1e6 / offered.calls as f64)
        .with(Figure::PeakMemory, server.peak_memory_mib()?))
}

/// What a connection has: its calls, the latencies of those that count, and when the last of them was answered.
type OfCaller = (u64, Latencies, Option<Instant>);

/// When which call is due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: Instant,
    /// Calls a second.
    rate: f64,
    warm_up: u64,
    calls: u64,
}

impl Schedule {
    fn new(rate: f64, plan: &Plan) -> Result<Self, Failure> {
        let calls_in = |time: Duration| (rate * time.as_secs_f64()) as u64;
        let warm_up = calls_in(WARM_UP);
        if calls_in(plan.measured) == 0 {
            return Err(format!("{rate} calls a second are none at all").into());
        }
        Ok(Self { start: Instant::now(), rate, warm_up, calls: warm_up + calls_in(plan.measured) })
    }

    fn turn(&self, number: u64) -> Turn {
        let due = self.start + Duration::from_secs_f64(number as f64 / self.rate);
        Turn { number, due, measured: number >= self.warm_up }
    }
}

/// Makes `rate` calls a second, each when it is due, with so many at once on each connection; the first error ends all.
pub async fn offer<C: Call>(
    clients: &[Client],
    callers: usize,
    rate: f64,
    plan: &Plan,
    call: C,
) -> Result<Offered, Failure> {
    let (sender, turns) = flume::bounded(WAITING_MAX);
    let schedule = Schedule::new(rate, plan)?;
    let mut tasks: JoinSet<Result<OfCaller, Failure>> = JoinSet::new();
    for client in clients {
        tasks.spawn(when_due(client.clone(), turns.clone(), callers, call.clone()));
    }
    drop(turns);
    let pacer = std::thread::spawn(move || pace(&schedule, &sender));
    let (mut calls, mut latency_us, mut last) = (0, latencies()?, None);
    while let Some(done) = tasks.join_next().await {
        let (made, of_caller, answered) = done??;
        calls += made;
        latency_us.add(of_caller)?;
        last = last.max(answered);
    }
    pacer.join().map_err(|_| "the pacer panicked")?;
    let measured = schedule.calls - schedule.warm_up;
    if (calls, latency_us.len()) != (schedule.calls, measured) {
        return Err(format!("{calls} of {} calls were made, {} counted", schedule.calls, latency_us.len()).into());
    }
    let took = last.ok_or("no call counted")? - schedule.turn(schedule.warm_up).due;
    Ok(Offered { calls, measured, latency_us, took, kept: measured as f64 / rate / took.as_secs_f64() })
}

/// Makes the calls of a connection, each when it is due, with so many at once. In one task: with one for each call, hundreds
/// wait for the next that is due, and to choose and wake one of them costs as much as a call.
async fn when_due<C: Call>(
    client: Client,
    turns: Receiver<Turn>,
    in_flight: usize,
    call: C,
) -> Result<OfCaller, Failure> {
    let (mut calls, mut latency_us, mut last) = (0, latencies()?, None);
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            turn = turns.recv_async(), if running.len() < in_flight => {
                let Ok(turn) = turn else { break };
                let (mut client, call) = (client.clone(), call.clone());
                running.push(async move { call.call(&mut client, &turn).await.map(|()| turn) });
            }
            Some(done) = running.next() => last = last.max(counted(done?, &mut calls, &mut latency_us)),
        }
    }
    while let Some(done) = running.next().await {
        last = last.max(counted(done?, &mut calls, &mut latency_us));
    }
    Ok((calls, latency_us, last))
}

/// Counts a call that was answered now; when that was, if it counts.
fn counted(turn: Turn, calls: &mut u64, latency_us: &mut Latencies) -> Option<Instant> {
    *calls += 1;
    let answered = Instant::now();
    turn.measured.then(|| {
        let micros = answered.saturating_duration_since(turn.due).as_micros();
        latency_us.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        answered
    })
}

/// Hands out each call when it is due. A thread of its own: timers of the runtime are exact to a millisecond only.
fn pace(schedule: &Schedule, turns: &Sender<Turn>) {
    for number in 0..schedule.calls {
        let turn = schedule.turn(number);
        let ahead = turn.due.saturating_duration_since(Instant::now());
        if ahead >= PACE {
            std::thread::sleep(ahead);
        }
        // The callers are gone: one of them has failed, and says so.
        if turns.send(turn).is_err() {
            return;
        }
    }
}
