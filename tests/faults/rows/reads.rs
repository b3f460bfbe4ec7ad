//! A closed segment that cannot be read for a while: a Fetch that meets it says so or is answered by the store; housekeeping
//! goes on or names the file; nothing is lost.

use std::path::PathBuf;
use std::time::Duration;

use tonic::Code;

use crate::fetches::is_expired;
use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{for_run, small_segments};
use crate::rows::surgery::log_with_segments;
use crate::snapshot::segments;
use crate::strace::Injection;
use crate::support::oracle::Ledger;
use crate::support::{Client, eventually};
use crate::table::{Report, Row, Run, Variant};

/// Exit code of a failure that is nobody's damage.
const FAILED: i32 = 1;
/// Messages of subject 0 that are asked for: all in the first segment.
const OLD: std::ops::RangeInclusive<i32> = 1..=20;
/// The control: the fault is not passing.
const STAYS: Variant = Variant::Own("it goes on failing");
/// How long a control waits for what does not come.
const CONTROL_WAITS: Duration = Duration::from_secs(5);
/// How long housekeeping may need to come to the oldest segment: it checks one a second.
const CHECKED_WITHIN: Duration = Duration::from_secs(40);

/// The rows.
pub fn rows() -> Vec<Row> {
    let fetches = [("pread64", "EIO", "embedded"), ("pread64", "EIO", "none"), ("/^open", "EMFILE", "none")];
    let mut rows: Vec<Row> = fetches
        .into_iter()
        .map(|(calls, error, store)| {
            let what = if calls == "pread64" { "read" } else { "open" };
            let name = format!("{error} at {what} of a closed segment by Fetch, store {store}");
            let row = Row::new(name, move |run| fetched(calls, error, store, run));
            row.needs(&[Need::Strace]).control(Variant::NoFault).control(STAYS).slow()
        })
        .collect();
    let row = Row::new("EIO at read of a closed segment by housekeeping", checked);
    rows.push(row.needs(&[Need::Strace]).control(Variant::NoFault).slow());
    rows
}

async fn fetched(calls: &'static str, error: &'static str, store: &'static str, run: Run) -> Report {
    let setup = for_run(small_segments().store(store), run);
    let trace = setup.folder().join("trace");
    let broker = setup.start().await;
    let mut report = Report::default();
    let truth = Truth::new(32);
    let mut load = Load::start(&broker, &truth, 32).await;
    eventually("closed segments", || async { (segments(broker.data()).len() >= 4).then_some(()) }).await;
    let files = [segments(broker.data())[0].clone()];
    let how = if run.variant == Variant::NoFault { String::new() } else { format!("error={error}:when=1+") };
    let tracer = Injection { calls, how: &how, files: &files, thread: None }.attach(broker.pid(), &trace);
    let client = broker.client().await;
    let unavailable = fetch_old(&client, &mut report).await;
    report.injected = tracer.injected();
    report.check(report.injected > 0, || "nothing was injected".to_owned());
    report.detected = Some(unavailable);
    let told = if store == "none" { unavailable > 0 } else { true };
    report.check(told, || "no Fetch was told that the log cannot be read".to_owned());
    load.acknowledges(500).await;
    report.check(load.refused() == 0, || format!("{} publishes were refused", load.refused()));
    report.check(load.seen.others().is_empty(), || format!("answered otherwise: {:?}", load.seen.others()));
    load.stop().await;
    if run.variant == STAYS {
        let judged = tokio::time::timeout(CONTROL_WAITS, finds_all_old(&client)).await;
        let read = tracer.injected() > report.injected;
        report.check(judged.is_ok() && !read, || "what is in the segment is not read".to_owned());
        return report;
    }
    drop(tracer);
    if run.variant.is_control() {
        return report;
    }
    report.figure(format!("{unavailable} of {} fetches UNAVAILABLE", OLD.count()));
    judge(&broker, &truth, &mut report).await;
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// Asks for old messages; gives how many are UNAVAILABLE, and notes what else is not an answer.
async fn fetch_old(client: &Client, report: &mut Report) -> u64 {
    let mut unavailable = 0;
    for id in OLD {
        match client.fetch(&Ledger::name(0), id).await {
            Err(status) if status.code() == Code::Unavailable => unavailable += 1,
            Err(status) if !is_expired(&status) => report.violations.push(format!("Fetch of id {id}: {status}")),
            Ok(_) | Err(_) => {}
        }
    }
    unavailable
}

/// Asks for old messages until each is there.
async fn finds_all_old(client: &Client) {
    while fetch_old(client, &mut Report::default()).await > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The start leaves the closed segments to housekeeping, which checks the newest first.
async fn checked(run: Run) -> Report {
    let plain = small_segments().set("log.verify_for", "0s");
    let truth = Truth::new(33);
    log_with_segments(&plain, &truth, 5_000).await;
    let files: [PathBuf; 1] = [segments(plain.data())[0].clone()];
    let trace = plain.folder().join("trace");
    let broker = for_run(plain.clone().expect_log("a task failed").expect_log("check the log"), run).start().await;
    let how = if run.variant == Variant::NoFault { "" } else { "error=EIO:when=1" };
    let injection = Injection { calls: "pread64", how, files: &files, thread: Some("housekeeper") };
    let tracer = injection.attach(broker.pid(), &trace);
    let mut report = Report::default();
    let injected = eventually("the check", || async { (tracer.injected() > 0).then_some(()) });
    let time = if run.variant.is_control() { CONTROL_WAITS } else { CHECKED_WITHIN };
    drop(tokio::time::timeout(time, injected).await);
    report.injected = tracer.injected();
    report.check(report.injected > 0, || "nothing was injected".to_owned());
    if run.variant.is_control() {
        return report;
    }
    // It ends in a moment, or goes on and comes to the segment again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(tracer);
    let broker = if broker.get("/readyz").await.is_some_and(|answer| answer.status == 200) {
        report.figure("it goes on");
        broker
    } else {
        let (status, stopped) = broker.wait().await;
        report.figure("it ended and named the file");
        report.check(status.code() == Some(FAILED), || format!("it ended with {status}"));
        let name = files[0].file_name().expect("a file").to_string_lossy().into_owned();
        let named = stopped.logged(&name);
        report.check(named > 0, || "the file is not in its log".to_owned());
        report.detected = Some(u64::from(named > 0));
        stopped.start().await
    };
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}
