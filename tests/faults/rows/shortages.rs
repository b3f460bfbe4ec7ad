//! Something runs short while a spare segment is made: publishes are refused for now, everything else goes on, and publishing
//! resumes by itself.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fetches::one_from_the_log;
use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{for_run, newest, small_segments, spare_number};
use crate::strace::Injection;
use crate::support::oracle::Ledger;
use crate::support::{Broker, Setup, eventually};
use crate::table::{Report, Row, Run, Variant};

/// How soon publishing goes on once there is space again.
pub const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// Attempts to make a spare that can fail in one run.
const ATTEMPTS_MAX: u64 = 120;

/// One row for each operation and shortage.
pub fn rows() -> Vec<Row> {
    let shortages = [
        ("ENOSPC", "/^open", "creation of a spare", true),
        ("EMFILE", "/^open", "creation of a spare", false),
        ("EROFS", "/^open", "creation of a spare", false),
        ("ENOSPC", "pwrite64", "write of zeros into a spare", false),
        ("ENOSPC", "fdatasync", "fdatasync of a spare", false),
        ("EDQUOT", "pwrite64", "write of zeros into a spare", false),
    ];
    let row = |(error, calls, name, quick): (&'static str, &'static str, &str, bool)| {
        let row = Row::new(format!("{error} at {name}, passing"), move |run| rig(error, calls, run));
        let row = row.needs(&[Need::Strace]).control(Variant::NoFault).control(Variant::Own("shortage stays"));
        if quick { row } else { row.slow() }
    };
    shortages.into_iter().map(row).collect()
}

/// What a broker says that has no room.
pub fn announce_shortage(setup: Setup) -> Setup {
    let said = [
        "log has no room",
        "the ids checkpoint was not written",
        "the log was not trimmed",
        "the index of the log is not complete",
    ];
    said.into_iter().fold(setup, Setup::expect_log)
}

async fn rig(error: &'static str, calls: &'static str, run: Run) -> Report {
    let setup = for_run(announce_shortage(small_segments()), run);
    let trace = setup.folder().join("trace");
    let broker = setup.start().await;
    let log = broker.data().join("log");
    let spare = eventually("a spare", || async { newest(&log, "spare") }).await;
    // The checkpoint is on the same disk: as long as it is not written the log cannot use its oldest segments again.
    let mut files: Vec<PathBuf> = vec![broker.data().join("ids/high-water-marks.tmp")];
    let first = spare_number(&spare) + 1;
    files.extend((first..first + ATTEMPTS_MAX).map(|number| log.join(format!("{number:020}.making"))));
    let how = if run.variant == Variant::NoFault { String::new() } else { format!("error={error}:when=1+") };
    let injection = Injection { calls, how: &how, files: &files, thread: None };

    let mut report = Report::default();
    let truth = Truth::new(2);
    let tracer = injection.attach(broker.pid(), &trace);
    let mut load = Load::start(&broker, &truth, 2).await;
    refused_for_now(&broker, &load, run, &mut report).await;
    report.injected = tracer.injected();
    if run.variant != Variant::Own("shortage stays") {
        drop(tracer);
    }
    resumes(&load, run, &mut report).await;
    load.stop().await;
    if run.variant.is_control() {
        return report;
    }
    let stopped = broker.kill_nine().await;
    report.detected = Some(stopped.logged("log has no room, the disk is full") as u64);
    report.check(report.detected > Some(0), || "the shortage is not in its log".to_owned());
    drop(load.ends().await);
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// Waits until publishes are refused, and checks that only they are.
pub async fn refused_for_now(broker: &Broker, load: &Load, run: Run, report: &mut Report) {
    let time = Duration::from_secs(if run.variant == Variant::NoFault { 2 } else { 30 });
    let refused = eventually("refusals", || async { (load.refused() > 100).then_some(()) });
    if tokio::time::timeout(time, refused).await.is_err() {
        report.violations.push("no publish was refused".to_owned());
        return;
    }
    let client = broker.client().await;
    let found = one_from_the_log(broker, &client).await;
    report.check(found.is_ok(), || format!("Fetch does not go on: {found:?}"));
    let subscribed = client.try_subscribe(&Ledger::name(0)).await;
    report.check(subscribed.is_ok(), || "Subscribe does not go on".to_owned());
    let ready = broker.get("/readyz").await.map(|answer| answer.status);
    report.check(ready == Some(200), || format!("it is not ready any more: {ready:?}"));
    let without = load.seen.refused_without_retry.load(Ordering::SeqCst);
    report.check(without == 0, || format!("{without} publishes were refused without RetryInfo"));
    let others = load.seen.others();
    report.check(others.is_empty(), || format!("answered otherwise: {others:?}"));
}

/// Checks that publishing goes on by itself.
pub async fn resumes(load: &Load, run: Run, report: &mut Report) {
    let begun = Instant::now();
    let resumed = load.acknowledges_within(200, RESUMES_WITHIN).await;
    report.check(resumed, || format!("publishing did not resume within {RESUMES_WITHIN:.0?}"));
    if !run.variant.is_control() {
        report.figure(format!("{} refused, resumed after {:.1?}", load.refused(), begun.elapsed()));
    }
}
