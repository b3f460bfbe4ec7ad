//! Looks at a load once a second: gathers what was written down, and asks the broker's admin port.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::options::{GiveUp, LoadOptions};
use super::plan::Plan;
use super::record::{Calls, Record};
use super::seconds::Series;
use super::server::{self, ServerSecond};

const SECOND: Duration = Duration::from_secs(1);

/// Beside the calls: the processes that made and answered them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Around {
    /// Processors that this client used, second by second.
    pub client: Vec<ClientSecond>,
    /// What the broker's admin ports said; empty if none was asked.
    pub server: Vec<ServerSecond>,
}

/// The client's own cost within a second.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientSecond {
    /// Its end, in seconds after the measurement began.
    pub at: f64,
    /// Processors that were busy with the client.
    pub cpu: f64,
}

/// Looks at a load with `N` kinds of calls until it is told to finish.
#[derive(Debug)]
pub struct Watch<const N: usize> {
    calls: JoinSet<([Series; N], Vec<ClientSecond>)>,
    server: JoinSet<Vec<ServerSecond>>,
    finish: watch::Sender<bool>,
}

impl<const N: usize> Watch<N> {
    /// Begins with the measurement of `plan`.
    pub fn start(options: &LoadOptions, plan: &Plan, records: [Vec<Arc<Record>>; N]) -> Self {
        let (finish, finished) = watch::channel(false);
        let (mut calls, mut server) = (JoinSet::new(), JoinSet::new());
        calls.spawn(gather(records, plan.clone(), options.give_up, finished.clone()));
        server.spawn(server::look(options.admin(), plan.measure_from(), finished));
        Self { calls, server, finish }
    }

    /// All that was measured.
    pub async fn finish(self) -> ([Series; N], Around) {
        self.finish.send_replace(true);
        let (series, client) = self.calls.join_all().await.pop().expect("one was spawned");
        let server = self.server.join_all().await.pop().expect("one was spawned");
        (series, Around { client, server })
    }
}

async fn gather<const N: usize>(
    records: [Vec<Arc<Record>>; N],
    plan: Plan,
    give_up: Option<GiveUp>,
    mut finished: watch::Receiver<bool>,
) -> ([Series; N], Vec<ClientSecond>) {
    let from = plan.measure_from();
    let mut series = [(); N].map(|()| Series::new(from));
    let mut client = Vec::new();
    let mut ticks = seconds_from(from);
    let mut before: Option<(Instant, Duration)> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Its sender is kept until it has been sent.
            _ = finished.changed() => break,
        }
        let (now, cpu) = (Instant::now(), cpu_time());
        // The first tick is the begin.
        if let Some((then, cpu_then)) = before {
            let span = (now - then).as_secs_f64();
            let at = now.saturating_duration_since(from).as_secs_f64();
            client.push(ClientSecond { at, cpu: cpu.saturating_sub(cpu_then).as_secs_f64() / span });
            for (series, records) in series.iter_mut().zip(&records) {
                series.add(&taken(records), now);
            }
            if give_up.is_some_and(|give_up| series.iter().any(|series| give_up.is_due(&series.total))) {
                plan.give_up();
            }
        }
        before = Some((now, cpu));
    }
    for (series, records) in series.iter_mut().zip(&records) {
        series.add_rest(&taken(records));
    }
    (series, client)
}

/// A tick at `from`, and one each second after it.
pub fn seconds_from(from: Instant) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(from.into(), SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

fn taken(records: &[Arc<Record>]) -> Calls {
    let mut all = Calls::new();
    records.iter().for_each(|record| all.merge(&record.take()));
    all
}

/// Processor time that this process has used.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::options;
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_down_between_ticks_is_gathered_once() {
        let plan = Plan::start(&options("bench --in-flight 1 --warmup 0s"));
        let record = Arc::<Record>::default();
        let watch = Watch::start(&options("bench"), &plan, [vec![Arc::clone(&record)]]);
        for _ in 0..12 {
            record.add(Instant::now(), Ok(()));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let ([series], around) = watch.finish().await;
        assert_eq!(series.total.latencies.len(), 12);
        assert_eq!(series.seconds.iter().map(|second| second.count).sum::<u64>(), 12);
        assert!(!series.seconds.is_empty() && around.server.is_empty(), "{around:?}");
    }

    #[test]
    fn processor_time_goes_on() {
        let before = cpu_time();
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {}
        assert!(cpu_time() > before);
    }
}
