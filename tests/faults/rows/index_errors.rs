//! Operations on files of the log's index that fail for a while: the index is derived, so publishes do not notice, and every
//! message is found in the end.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tonic::Code;

use crate::fetches::is_expired;
use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{for_run, newest, small_segments};
use crate::strace::Injection;
use crate::support::oracle::Ledger;
use crate::support::{Broker, eventually};
use crate::table::{Report, Row, Run, Variant};

/// The control: the same happens to the log itself.
const TO_THE_LOG: Variant = Variant::Own("to the log instead");
/// Ids that have left the hot tail.
const OLD: std::ops::RangeInclusive<i32> = 1..=50;
/// How long the load must go on in a control.
const CONTROL_GOES_ON: Duration = Duration::from_secs(4);

/// An operation on files of the index.
#[derive(Debug, Clone, Copy)]
struct Operation {
    calls: &'static str,
    error: &'static str,
    name: &'static str,
    /// Done by the thread that writes the index, to files that are not there yet; otherwise to those that are there.
    by_indexer: bool,
    /// Bytes of the log that are kept: without, files of the index are removed.
    keep: &'static str,
    /// Without a store every message comes from the log.
    store: &'static str,
}

const fn operation(calls: &'static str, error: &'static str, name: &'static str) -> Operation {
    Operation { calls, error, name, by_indexer: true, keep: "64MiB", store: "none" }
}

const OPERATIONS: [Operation; 11] = [
    operation("/^open", "EIO", "creation of an index file"),
    operation("/^open", "EMFILE", "creation of an index file"),
    operation("pwrite64", "EIO", "write of an index file"),
    operation("pwrite64", "ENOSPC", "write of an index file"),
    operation("/^rename", "EIO", "rename of an index file"),
    operation("pread64", "EIO", "first read of an index file"),
    Operation { by_indexer: false, ..operation("/^open", "EIO", "open of an index file by Fetch") },
    Operation { by_indexer: false, ..operation("/^open", "EMFILE", "open of an index file by Fetch") },
    Operation { by_indexer: false, ..operation("pread64", "EIO", "read of an index file by Fetch") },
    Operation {
        by_indexer: false,
        store: "embedded",
        ..operation("pread64", "EIO", "read of an index file, with a store")
    },
    Operation {
        by_indexer: false,
        keep: "0",
        store: "embedded",
        ..operation("/^unlink", "EIO", "removal of an index file")
    },
];

/// One row for each operation.
pub fn rows() -> Vec<Row> {
    let row = |operation: Operation| {
        let row = Row::new(format!("{} at {}", operation.error, operation.name), move |run| rig(operation, run));
        let row = row.needs(&[Need::Strace]).control(Variant::NoFault);
        // What the log does with these is another row's.
        let ends_the_log = operation.by_indexer && matches!(operation.calls, "pwrite64" | "/^rename");
        let row = if ends_the_log && operation.error == "EIO" { row.control(TO_THE_LOG) } else { row };
        row.slow()
    };
    OPERATIONS.into_iter().map(row).collect()
}

async fn rig(operation: Operation, run: Run) -> Report {
    let plain = small_segments().store(operation.store).set("log.keep_bytes", operation.keep).expect_log("index");
    let setup = for_run(plain, run);
    let trace = setup.folder().join("trace");
    let broker = setup.start().await;
    let mut report = Report::default();
    let truth = Truth::new(34);
    let mut load = Load::start(&broker, &truth, 34).await;
    let files = files(&broker, operation, run).await;
    let how = match run.variant {
        Variant::NoFault => String::new(),
        _ => format!("error={}:when=1+", operation.error),
    };
    let thread = (operation.by_indexer && run.variant != TO_THE_LOG).then_some("indexer");
    let injection = Injection { calls: operation.calls, how: &how, files: &files, thread };
    let tracer = injection.attach(broker.pid(), &trace);
    // Three segments more: each is a part of the index.
    let goes_on = match run.variant.is_control() {
        true => load.acknowledges_within(4_000, CONTROL_GOES_ON).await,
        false => load.acknowledges_within(4_000, Duration::from_secs(60)).await,
    };
    report.check(goes_on, || format!("publishing did not go on: {} acknowledged", load.acknowledged()));
    let mut unavailable = 0;
    if goes_on {
        unavailable = fetch_old(&broker, operation, &mut report).await;
        report.figure(format!("{unavailable} fetches UNAVAILABLE meanwhile"));
    }
    report.injected = tracer.injected();
    report.check(report.injected > 0, || "nothing was injected".to_owned());
    report.check(load.refused() == 0, || format!("{} publishes were refused", load.refused()));
    report.check(load.seen.others().is_empty(), || format!("answered otherwise: {:?}", load.seen.others()));
    if run.variant.is_control() {
        return report;
    }
    drop(tracer);
    load.acknowledges(500).await;
    load.stop().await;
    judge(&broker, &truth, &mut report).await;
    eventually("the index to be whole", || async {
        (broker.metric("walcast_index_gap_records").await == 0.0).then_some(())
    })
    .await;
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    report.detected = Some((stopped.logged("index") as u64).max(unavailable));
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// The files that are meant; none means all that the thread uses.
async fn files(broker: &Broker, operation: Operation, run: Run) -> Vec<PathBuf> {
    let log = broker.data().join("log");
    if run.variant == TO_THE_LOG {
        let extension = if operation.calls == "/^rename" { "spare" } else { "wal" };
        return vec![eventually("a file of the log", || async { newest(&log, extension) }).await];
    }
    if operation.by_indexer {
        return Vec::new();
    }
    let index = broker.data().join("index");
    eventually("files of the index", || async {
        let files = fs::read_dir(&index).ok()?.filter_map(|file| Some(file.ok()?.path()));
        let files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|end| end == "idx")).collect();
        (!files.is_empty()).then_some(files)
    })
    .await
}

/// Fetches old messages of subject 0; gives how many are UNAVAILABLE. Nobody may be told that whose message is in the
/// store, or stands in a part of the index that could only not be written.
async fn fetch_old(broker: &Broker, operation: Operation, report: &mut Report) -> u64 {
    let client = broker.client().await;
    let may_fail = !operation.by_indexer && operation.store == "none";
    if operation.store != "none" {
        let durable = broker.position("durable").await;
        eventually("the store", || async { (broker.position("projected").await >= durable).then_some(()) }).await;
    }
    let mut unavailable = 0;
    for id in OLD {
        match client.fetch(&Ledger::name(0), id).await {
            Err(status) if status.code() == Code::Unavailable && may_fail => unavailable += 1,
            Err(status) if !is_expired(&status) => report.violations.push(format!("Fetch of id {id}: {status}")),
            Ok(_) | Err(_) => {}
        }
    }
    unavailable
}
