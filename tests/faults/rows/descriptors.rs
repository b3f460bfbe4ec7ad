//! No open file more: the log and the accept loop wait until there are some again.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;

use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::rig::{for_run, small_segments};
use crate::rows::shortages::announce_shortage;
use crate::support::{Broker, eventually};
use crate::table::{Report, Row, Run, Variant};

/// Connections that are tried while there is no descriptor.
const CONNECTIONS: usize = 50;

/// The row.
pub fn rows() -> Vec<Row> {
    vec![Row::new("no open file more (RLIMIT_NOFILE)", rig).control(Variant::NoFault)]
}

async fn rig(run: Run) -> Report {
    let setup = announce_shortage(small_segments()).expect_log("accept").expect_log("store");
    let broker = for_run(setup, run).start().await;
    let mut report = Report::default();
    let truth = Truth::new(10);
    let mut load = Load::start(&broker, &truth, 10).await;
    load.acknowledges(1_000).await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("it runs").count() as u64;
    let before = (run.variant != Variant::NoFault).then(|| limit(&broker, open.saturating_sub(8)));
    report.injected = u64::from(before.is_some());

    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(TcpStream::connect(broker.grpc()).await.expect("the kernel takes it"));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = load.refused();
    report.check(refused > 0, || "no publish was refused".to_owned());
    report.detected = Some(refused);
    let without = load.seen.refused_without_retry.load(std::sync::atomic::Ordering::SeqCst);
    report.check(without == 0, || format!("{without} publishes were refused without RetryInfo"));
    if let Some(before) = before {
        set(&broker, before);
    }
    drop(held);
    let resumed = load.acknowledges_within(200, Duration::from_secs(5)).await;
    report.check(resumed, || "publishing did not resume within 5 s".to_owned());
    let accepted = async { eventually("a connection", || async { broker.get("/readyz").await }).await.status };
    report.check(accepted.await == 200, || "it is not ready any more".to_owned());
    broker.client().await.publish_kept("late", "accepted again").await;
    report.check(load.seen.others().is_empty(), || format!("answered otherwise: {:?}", load.seen.others()));
    load.stop().await;
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// Allows the broker this many open files; gives what it was allowed before.
fn limit(broker: &Broker, files: u64) -> Rlimit {
    let pid = Pid::from_raw(broker.pid().cast_signed()).expect("it runs");
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(files), maximum: hard }).expect("lowering is allowed")
}

fn set(broker: &Broker, limit: Rlimit) {
    let pid = Pid::from_raw(broker.pid().cast_signed()).expect("it runs");
    prlimit(Some(pid), Resource::Nofile, limit).expect("up to the hard limit is allowed");
}
