//! A slow disk: nothing is acknowledged before the disk has it, queues stay bounded, nothing is lost.

use std::time::{Duration, Instant};

use crate::disks::LoopDisk;
use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{for_run, newest};
use crate::support::{Setup, eventually};
use crate::table::{Report, Row, Run, Variant};

const BYTES_PER_SECOND: u64 = 512 * 1024;
/// What may have been under way when the limit came.
const SLACK_BYTES: u64 = 512 * 1024;
const MEMORY_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The row.
pub fn rows() -> Vec<Row> {
    let row = Row::new("slow file system (512 KiB/s)", rig);
    let row = row.needs(&[Need::Root, Need::FileSystemTools, Need::BlockThrottle]);
    vec![row.control(Variant::NoFault).control(Variant::Broken("skip-fsync"))]
}

async fn rig(run: Run) -> Report {
    let plain = Setup::new().set("limits.in_flight_bytes", "8MiB").set("log.segment_bytes", "32MiB");
    let log = plain.data().join("log");
    let disk = LoopDisk::new(&plain, &plain.folder().join("image"), 256, &[], &log);
    let broker = for_run(plain.clone(), run).start().await;
    // Making a spare would take a minute at this rate, and is not what this is about.
    eventually("a spare", || async { newest(&log, "spare") }).await;
    let mut report = Report::default();
    let truth = Truth::new(7);
    let mut load = Load::start(&broker, &truth, 7).await;
    load.acknowledges(100).await;
    let throttled = (run.variant != Variant::NoFault).then(|| disk.throttle(BYTES_PER_SECOND));
    report.injected = u64::from(throttled.is_some());
    let (begun, before) = (Instant::now(), bytes_acknowledged(&truth));
    let memory = broker.resident_bytes();
    let length = Duration::from_secs(if run.thorough { 20 } else { 5 });
    let mut grown = 0;
    while begun.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(100)).await;
        grown = grown.max(broker.resident_bytes().saturating_sub(memory));
    }
    let acknowledged = bytes_acknowledged(&truth) - before;
    let possible = (BYTES_PER_SECOND as f64 * begun.elapsed().as_secs_f64()) as u64 + SLACK_BYTES;
    report.check(acknowledged <= possible, || {
        format!("{acknowledged} bytes were acknowledged where the disk can have taken {possible}")
    });
    report.check(acknowledged > 0, || "nothing was acknowledged".to_owned());
    report.check(grown <= MEMORY_MAX_BYTES, || format!("memory grew by {} MiB", grown >> 20));
    report.detected = None;
    report.figure(format!(
        "{} of {} KiB/s, memory +{} MiB",
        acknowledged / 1024 / length.as_secs(),
        BYTES_PER_SECOND / 1024,
        grown >> 20
    ));
    drop(throttled);
    load.stop().await;
    report.check(load.seen.others().is_empty(), || format!("answered otherwise: {:?}", load.seen.others()));
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

/// Bytes of the bodies that were acknowledged.
fn bytes_acknowledged(truth: &Truth) -> u64 {
    truth.with(|ledger| ledger.acknowledged_bytes())
}
