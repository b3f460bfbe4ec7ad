//! A disk that turns read-only while it is used, and one that is full.

use std::process::Command;
use std::time::Duration;

use crate::disks::LoopDisk;
use crate::ending::log_failure;
use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{announce_failure, for_run, small_segments};
use crate::rows::shortages::{announce_shortage, refused_for_now, resumes};
use crate::support::{Broker, Setup};
use crate::table::{Report, Row, Run, Variant};

/// The disk never gets room again.
const STAYS_FULL: Variant = Variant::Own("stays full");

/// The rows.
pub fn rows() -> Vec<Row> {
    let needs = [Need::Root, Need::FileSystemTools];
    vec![
        Row::new("disk turns read-only", read_only).needs(&needs).control(Variant::NoFault),
        Row::new("disk is full", full).needs(&needs).control(Variant::NoFault).control(STAYS_FULL),
    ]
}

/// What is open for writing forbids an ordinary remount, so it is done as the kernel does it after an error.
async fn read_only(run: Run) -> Report {
    let plain = Setup::new();
    let log = plain.data().join("log");
    let disk = LoopDisk::new(&plain, &plain.folder().join("image"), 64, &[], &log);
    let broker = for_run(announce_failure(announce_shortage(plain.clone())), run).start().await;
    let mut report = Report::default();
    let truth = Truth::new(8);
    let load = Load::start(&broker, &truth, 8).await;
    load.acknowledges(300).await;
    if run.variant != Variant::NoFault {
        disk.turn_read_only();
        report.injected = 1;
    }
    log_failure(broker, load, run, &mut report).await;
    disk.remount();
    let broker = plain.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// Everything is on the full disk: log, ids and store.
async fn full(run: Run) -> Report {
    let setup = small_segments();
    let disk = LoopDisk::new(&setup, &setup.folder().join("image"), 96, &[], &setup.folder().join("disk"));
    let setup = setup.data_dir(disk.at().join("data"));
    let setup = announce_shortage(setup).expect_log("store").expect_log("embedded");
    let broker = for_run(setup, run).start().await;
    let mut report = Report::default();
    let truth = Truth::new(9);
    let mut load = Load::start(&broker, &truth, 9).await;
    load.acknowledges(1_000).await;
    let ballast = (run.variant != Variant::NoFault).then(|| disk.fill(0));
    report.injected = u64::from(ballast.is_some());
    refused_for_now(&broker, &load, run, &mut report).await;
    tools_go_on(&broker, &mut report);
    match ballast {
        Some(ballast) if run.variant != STAYS_FULL => std::fs::remove_file(ballast).expect("removed"),
        Some(_) => uses_up_its_room(&load).await,
        None => {}
    }
    resumes(&load, run, &mut report).await;
    load.stop().await;
    if run.variant.is_control() {
        return report;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopped = broker.kill_nine().await;
    report.detected = Some(stopped.logged("log has no room, the disk is full") as u64);
    drop(load.ends().await);
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// Waits until nothing was acknowledged for a while. What the store had taken before the disk was full makes room in the log
/// once more, and how much that is depends on how quick the machine is.
async fn uses_up_its_room(load: &Load) {
    for _ in 0..30 {
        if !load.acknowledges_within(1, Duration::from_secs(2)).await {
            return;
        }
    }
}

/// The tools of the log, beside a running broker.
pub fn tools_go_on(broker: &Broker, report: &mut Report) {
    for tool in ["verify", "ls"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
        let output = command.args(["log", tool, "--data-dir"]).arg(broker.data()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        report.check(output.status.success(), || format!("`walcast log {tool}` ended with {}: {said}", output.status));
    }
}
