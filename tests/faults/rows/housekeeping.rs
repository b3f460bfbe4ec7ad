//! What housekeeping does to files fails for a moment: publishes do not notice, it is done again, and nothing is lost.

use std::path::PathBuf;
use std::time::Duration;

use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{for_run, newest, small_segments};
use crate::rows::surgery::log_with_segments;
use crate::snapshot::segments;
use crate::strace::{Injection, injected};
use crate::support::{Broker, eventually};
use crate::table::{Report, Row, Run, Variant};

/// How soon files are trimmed again once nothing fails any more: it is tried every second.
const TRIMMED_WITHIN: Duration = Duration::from_secs(10);
const NEVER_AGAIN: Variant = Variant::Own("it goes on failing");

#[derive(Debug, Clone, Copy)]
enum Target {
    /// The first segment, which is the first to be trimmed.
    Segment,
    /// The directory of the log.
    Log,
    /// The checkpoint that is being written.
    Checkpoint,
    /// The directory of the checkpoint.
    Ids,
}

/// One row for each operation.
pub fn rows() -> Vec<Row> {
    let operations = [
        ("rename of a trimmed segment", Target::Segment, "/^rename", "the log was not trimmed"),
        ("fsync of the log directory after a trim", Target::Log, "fsync", "the log was not trimmed"),
        ("creation of an ids checkpoint", Target::Checkpoint, "/^open", "the ids checkpoint was not written"),
        ("write of an ids checkpoint", Target::Checkpoint, "pwrite64", "the ids checkpoint was not written"),
        ("fdatasync of an ids checkpoint", Target::Checkpoint, "fdatasync", "the ids checkpoint was not written"),
        ("rename of an ids checkpoint", Target::Checkpoint, "/^rename", "the ids checkpoint was not written"),
        ("fsync of the directory of the ids", Target::Ids, "fsync", "the ids checkpoint was not written"),
    ];
    let row = |(name, target, calls, says): (&str, Target, &'static str, &'static str)| {
        let row = Row::new(format!("EIO at {name}"), move |run| rig(target, calls, says, run));
        row.needs(&[Need::Strace]).control(Variant::NoFault).control(NEVER_AGAIN).slow()
    };
    let removal = Row::new("EIO at removal of a trimmed segment", removal);
    let removal = removal.needs(&[Need::Strace]).control(Variant::NoFault).control(NEVER_AGAIN).slow();
    operations.into_iter().map(row).chain([removal]).collect()
}

/// Two trimmed files become spares and the others are removed: so several are trimmed at once, by a broker that keeps less
/// than the one before.
async fn removal(run: Run) -> Report {
    let plain = small_segments();
    let truth = Truth::new(19);
    log_with_segments(&plain, &truth, 6_000).await;
    let files = segments(plain.data());
    let how = match run.variant {
        Variant::NoFault => "",
        NEVER_AGAIN => "error=EIO:when=1+",
        _ => "error=EIO:when=1",
    };
    let trace = plain.folder().join("trace");
    let injection = Injection { calls: "/^unlink", how, files: &files, thread: None };
    // With -D the broker is the child, and strace its grandchild.
    let mut strace: Vec<std::ffi::OsString> = vec!["strace".into(), "-D".into(), "-f".into()];
    strace.extend(injection.options(&trace));
    let setup = plain.set("log.keep_bytes", "0").expect_log("the log was not trimmed");
    let broker = for_run(setup.clone().under(strace), run).start().await;
    let injected = || injected(&std::fs::read_to_string(&trace).unwrap_or_default());
    let mut report = Report::default();
    let time = if run.variant.is_control() { TRIMMED_WITHIN / 3 } else { TRIMMED_WITHIN };
    let failed = eventually("a removal", || async { (injected() > 0).then_some(()) });
    let failed = tokio::time::timeout(time, failed).await.is_ok();
    report.check(failed, || "nothing was injected".to_owned());
    // All but the active one, and one that housekeeping may not have released.
    let removed = eventually("the files to go", || async {
        (files.iter().filter(|file| file.exists()).count() <= 2).then_some(())
    });
    let removed = tokio::time::timeout(time, removed).await.is_ok();
    report.check(removed, || format!("trimmed segments are still there, {TRIMMED_WITHIN:.0?} after the fault"));
    report.injected = injected();
    let mut load = Load::start(&broker, &truth, 19).await;
    load.acknowledges(500).await;
    load.stop().await;
    report.check(load.refused() == 0, || format!("{} publishes were refused", load.refused()));
    report.check(load.seen.others().is_empty(), || format!("answered otherwise: {:?}", load.seen.others()));
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    if run.variant.is_control() {
        return report;
    }
    report.detected = Some(stopped.logged("the log was not trimmed") as u64);
    report.check(report.detected > Some(0), || "the failure is not in its log".to_owned());
    drop(stopped);
    let broker = setup.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

async fn rig(target: Target, calls: &'static str, says: &'static str, run: Run) -> Report {
    let setup = for_run(small_segments().set("log.keep_bytes", "0").expect_log(says), run);
    let trace = setup.folder().join("trace");
    let broker = setup.start().await;
    let files = [path(&broker, target).await];
    let how = match run.variant {
        Variant::NoFault => String::new(),
        NEVER_AGAIN => "error=EIO:when=1+".to_owned(),
        _ => "error=EIO:when=1".to_owned(),
    };
    let injection = Injection { calls, how: &how, files: &files, thread: Some("housekeeper") };
    let tracer = injection.attach(broker.pid(), &trace);
    let mut report = Report::default();
    let truth = Truth::new(17);
    let mut load = Load::start(&broker, &truth, 17).await;
    load.acknowledges(3_000).await;
    report.injected = tracer.injected();
    report.check(report.injected > 0, || "nothing was injected".to_owned());
    if run.variant == Variant::NoFault {
        return report;
    }
    let seen = broker.position("trimmed").await;
    let advances = async {
        load.acknowledges(3_000).await;
        eventually("trimming", || async { (broker.position("trimmed").await > seen).then_some(()) }).await;
        // A position moves before its file does; a second one shows that the first file has gone.
        let seen = broker.position("trimmed").await;
        load.acknowledges(3_000).await;
        eventually("trimming", || async { (broker.position("trimmed").await > seen).then_some(()) }).await;
    };
    let time = if run.variant.is_control() { TRIMMED_WITHIN / 3 } else { TRIMMED_WITHIN };
    let trimmed = tokio::time::timeout(time, advances).await.is_ok();
    report.check(trimmed, || format!("the log is not trimmed any more, {TRIMMED_WITHIN:.0?} after the fault"));
    drop(tracer);
    load.stop().await;
    report.check(load.refused() == 0, || format!("{} publishes were refused", load.refused()));
    report.check(load.seen.others().is_empty(), || format!("answered otherwise: {:?}", load.seen.others()));
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    if run.variant.is_control() {
        return report;
    }
    report.detected = Some(stopped.logged(says) as u64);
    report.check(report.detected > Some(0), || "the failure is not in its log".to_owned());
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

async fn path(broker: &Broker, target: Target) -> PathBuf {
    match target {
        Target::Segment => {
            let log = broker.data().join("log");
            eventually("a segment", || async { newest(&log, "wal") }).await
        }
        Target::Log => broker.data().join("log"),
        Target::Checkpoint => broker.data().join("ids/high-water-marks.tmp"),
        Target::Ids => broker.data().join("ids"),
    }
}
