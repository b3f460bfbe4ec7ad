//! A broker that dies between two steps of projection, again and again, while publishers come back each time.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::history::{History, compare};
use crate::ledger::{Kind, Ledger, SUBJECTS, body};
use crate::postgres::STALLED;
use crate::support::logs::{Logs, unannounced};
use crate::support::{Client, Setup, programs};
use crate::table::{Column, Control, Report, Run};

const PUBLISHERS: usize = 8;
/// Between two publishes of one publisher: with all of them, some two thousand a second.
const PAUSE: Duration = Duration::from_millis(4);
/// A broker comes to any of the points sooner: the log is trimmed once a second and after a few megabytes.
const MET_WITHIN: Duration = Duration::from_secs(30);
/// What the brokers of this rig say; a database that was left in the middle of something may need a moment.
const ANNOUNCED: [&str; 2] = ["DIES ON PURPOSE", STALLED];

/// The points that every store has.
const COMMON: [&str; 7] = ["read", "write", "commit", "committed", "saved", "trimming", "trimmed"];

/// Kills brokers of `setup` at all points, and compares what is in the database then. `own` are points of the store.
pub async fn crashes(setup: Setup, own: &[&str], history: &dyn History, run: Run) -> Report {
    let binary = std::env::var_os("FAULT_CONTROLS_BINARY");
    let binary = binary.expect("FAULT_CONTROLS_BINARY names a build with the feature `fault-controls`");
    let address = format!("127.0.0.1:{}", programs::port());
    let setup = setup.arg("--listen").arg(&address).set("log.segment_bytes", "1MiB").set("log.keep_bytes", "0");
    let setup = setup.set("limits.body_bytes", "256KiB").set("limits.hot_tail_bytes", "1MiB");
    let (ledger, stop) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        publishers.spawn(publish(address.clone(), Arc::clone(&ledger), Arc::clone(&stop), publisher));
    }
    let mut report = Report { unit: "crashes", ..Report::default() };
    let mut random = StdRng::seed_from_u64(5);
    let points: Vec<&str> = match run.control {
        Some(Control::Forgetting) => vec!["forget"],
        _ => COMMON.iter().chain(own).copied().collect(),
    };
    let dies = setup.clone().binary(binary);
    // Round by round, so that each point meets what every other one leaves.
    // Of what a control loses, something must have been acknowledged before the broker died.
    let (rounds, passes) = if run.control.is_some() { (3, 2..=4) } else { (run.times(4, 1), 1..=3) };
    for _ in 0..rounds {
        for point in &points {
            // Another batch each time: the first one is what the crash before left behind.
            let pass = if point.starts_with("trim") { 1 } else { random.random_range(passes.clone()) };
            let chosen = format!("{point}:{pass}");
            match until_it_dies(&dies.clone().set("crash_point", &chosen)).await {
                Ok(()) => report.injected += 1,
                Err(why) => report.violations.push((Column::Own, format!("{chosen}: {why}"))),
            }
        }
    }
    report.notes.push(format!("at {}, {} times each", points.join(", "), report.injected / points.len() as u64));
    let broker = setup.start().await;
    stop.store(true, Ordering::SeqCst);
    publishers.join_all().await;
    broker.all_projected().await;
    let rows = history.rows().await;
    report.judge_comparison(compare(&ledger.all(), &rows, |_| false));
    let unanswered = report.comparison.unanswered;
    report.notes.push(format!("{unanswered} rows of publishes whose answer died with a broker"));
    broker.stop().await;
    report
}

/// Starts a broker and waits until it has killed itself.
async fn until_it_dies(setup: &Setup) -> Result<(), String> {
    let mut child = setup.command().spawn().expect("the broker's binary can be run");
    let logs = Logs::collect(child.stderr.take().expect("stderr is piped"));
    let ended = ends(&mut child).await;
    let Some(status) = ended else {
        // It is gone before the next one listens.
        drop(child.kill());
        drop(child.wait());
        return Err(format!("it does not come there within {} s", MET_WITHIN.as_secs()));
    };
    let lines = logs.to_the_end();
    if status.signal() != Some(9) {
        return Err(format!("it ended with {status}: {}", lines.last().cloned().unwrap_or_default()));
    }
    let said = unannounced(&lines, &ANNOUNCED.map(str::to_owned));
    said.first().map_or(Ok(()), |line| Err(format!("it says what nobody announced: {line}")))
}

async fn ends(child: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < MET_WITHIN {
        if let Some(status) = child.try_wait().expect("it was started") {
            return Some(status);
        }
        sleep(Duration::from_millis(5)).await;
    }
    None
}

/// Publishes one after the other until told to stop; a broker that is away is looked for.
async fn publish(address: String, ledger: Arc<Ledger>, stop: Arc<AtomicBool>, publisher: usize) {
    let is_over = || stop.load(Ordering::SeqCst);
    let mut number = publisher;
    while !is_over() {
        let Some(client) = Client::try_connect(&address).await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        while !is_over() {
            number += 1;
            let kind = if number.is_multiple_of(10) { Kind::FireAndForget } else { Kind::Kept };
            let subject = number * 7 % SUBJECTS;
            let token = ledger.send(subject, kind);
            let name = Ledger::name(subject);
            let call = client.publish(&name, body(token, kind), kind.expiration_seconds());
            // Without an answer it may be there or not.
            let Ok(Ok(id)) = timeout(MET_WITHIN, call).await else { break };
            ledger.acknowledged(token, id);
            sleep(PAUSE).await;
        }
    }
}
