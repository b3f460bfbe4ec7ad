//! The log has reached `log.max_bytes`, because the store takes nothing and so nothing is trimmed: publishes are refused for
//! now, everything else goes on, and publishing resumes by itself once the store goes on.

use std::fs;
use std::time::Instant;

use crate::disks::fill;
use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{for_run, small_segments};
use crate::rows::disk_states::tools_go_on;
use crate::rows::shortages::{announce_shortage, refused_for_now, resumes};
use crate::support::oracle::Ledger;
use crate::support::{Broker, Client, Mounted, eventually};
use crate::table::{Report, Row, Run, Variant};

const STAYS_FULL: Variant = Variant::Own("stays full");
/// What is left of the store's disk of 160 MiB: less than the eighth that it keeps in reserve.
const LEFT_BYTES: u64 = 12 << 20;
const LOG_BYTES_MAX: u64 = 8 << 20;

/// The row.
pub fn rows() -> Vec<Row> {
    let row = Row::new("log.max_bytes is reached", rig).needs(&[Need::Root]);
    vec![row.control(Variant::NoFault).control(STAYS_FULL).slow()]
}

async fn rig(run: Run) -> Report {
    let setup = small_segments().set("log.keep_bytes", "0").set("log.max_bytes", "8MiB");
    // The log has room on its disk; only that of the store fills up.
    let disk = Mounted::tmpfs(&setup, "size=160M");
    let setup = setup.data_dir(disk.at().join("data"));
    let _log = Mounted::tmpfs_at(&setup, setup.data().join("log"), "size=64M");
    let setup = for_run(announce_shortage(setup).expect_log("projection waits for the store"), run);
    let broker = setup.start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe(&Ledger::name(0)).await;
    let mut report = Report::default();
    let truth = Truth::new(30);
    let mut load = Load::start(&broker, &truth, 30).await;
    load.acknowledges(1_000).await;
    let ballast = (run.variant != Variant::NoFault).then(|| fill(disk.at(), LEFT_BYTES));
    report.injected = u64::from(ballast.is_some());

    refused_for_now(&broker, &load, run, &mut report).await;
    if run.variant == Variant::NoFault {
        return report;
    }
    let bytes = log_bytes(&broker);
    report.check(bytes <= LOG_BYTES_MAX, || format!("the files of the log have {bytes} bytes, above log.max_bytes"));
    tools_go_on(&broker, &mut report);
    let last = last_id(&client).await;
    let ids = subscription.next_ids(usize::try_from(last).expect("ids count up")).await;
    report.check(ids == (1..=last).collect::<Vec<_>>(), || "delivery does not go on".to_owned());

    let trimmed = broker.position("trimmed").await;
    let emptied = Instant::now();
    if run.variant != STAYS_FULL {
        fs::remove_file(ballast.expect("it was filled")).expect("removed");
        eventually("the log to be trimmed", || async { (broker.position("trimmed").await > trimmed).then_some(()) })
            .await;
        report.figure(format!("trimmed {:.1?} after the store had room", emptied.elapsed()));
    }
    resumes(&load, run, &mut report).await;
    load.stop().await;
    if run.variant.is_control() {
        return report;
    }
    is_alive(&broker, &truth, &mut report).await;
    judge(&broker, &truth, &mut report).await;
    let stopped = broker.kill_nine().await;
    report.detected = Some(stopped.logged("log has no room, its limit is reached") as u64);
    report.check(report.detected > Some(0), || "that the log is full is not in its log".to_owned());
    drop(load.ends().await);
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// The last id of subject 0.
async fn last_id(client: &Client) -> i32 {
    let mut last = 0;
    while !client.fetch(&Ledger::name(0), last + 1).await.is_err_and(|status| status.message().contains("never")) {
        last += 1;
    }
    last
}

/// Bytes of the log's segments and spares, also of one that is being filled.
fn log_bytes(broker: &Broker) -> u64 {
    let files = fs::read_dir(broker.data().join("log")).expect("there is a log").filter_map(Result::ok);
    let is_segment = |name: std::ffi::OsString| name != "LOCK";
    files.filter(|file| is_segment(file.file_name())).filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}
