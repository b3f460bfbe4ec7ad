//! Pages that the kernel could not write back and has thrown away: the loss that a second fdatasync would hide.
//!
//! The log's disk is an image on a tmpfs. Once the log has its files, the zeros in the image are turned into holes and the
//! tmpfs is filled, so that soon a frame finds no block to be written to. After the failure there is space again, and the
//! disk is taken out and put back: what was only in memory is gone.

use std::fs;

use crate::disks::{LoopDisk, fill, run as run_program};
use crate::ending::log_failure;
use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{announce_failure, for_run, newest};
use crate::support::{Mounted, Setup, eventually};
use crate::table::{Report, Row, Run, Variant};

/// What frames may still take before the disk has no more: some of them succeed first.
const LEFT_BYTES: u64 = 1024 * 1024;

/// The row.
pub fn rows() -> Vec<Row> {
    let row = Row::new("pages lost in a failed write-back", rig).needs(&[Need::Root, Need::FileSystemTools]);
    vec![row.control(Variant::NoFault).control(Variant::Broken("retry-fsync"))]
}

async fn rig(run: Run) -> Report {
    let plain = Setup::new();
    let thin = Mounted::tmpfs(&plain, "size=64M");
    let image = thin.at().join("image");
    let log = plain.data().join("log");
    let disk = LoopDisk::new(&plain, &image, 256, &["-b", "4096", "-O", "^has_journal"], &log);
    disk.block_by_block();
    let broker = for_run(announce_failure(plain.clone()), run).start().await;
    eventually("a spare", || async { newest(&log, "spare") }).await;
    run_program("sync", &["-f", log.to_str().expect("text")]);
    run_program("fallocate", &["--dig-holes", image.to_str().expect("text")]);
    let ballast = (run.variant != Variant::NoFault).then(|| fill(thin.at(), LEFT_BYTES));

    let mut report = Report { injected: u64::from(ballast.is_some()), ..Report::default() };
    let truth = Truth::new(5);
    let load = Load::start(&broker, &truth, 5).await;
    log_failure(broker, load, run, &mut report).await;
    if let Some(ballast) = ballast {
        fs::remove_file(ballast).expect("removed");
    }
    disk.remount();
    if run.variant == Variant::NoFault {
        return report;
    }
    match plain.try_start().await {
        Ok(broker) => {
            judge(&broker, &truth, &mut report).await;
            is_alive(&broker, &truth, &mut report).await;
        }
        Err((status, said)) => {
            let why = said.lines().last().unwrap_or_default().to_owned();
            report.acknowledged = truth.acknowledged();
            // What was lost is the point, so it comes first.
            report.violations.insert(0, format!("after the remount it does not start ({status}): {why}"));
        }
    }
    report
}
