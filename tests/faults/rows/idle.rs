//! A log that fails while nobody publishes: health and the process end as if somebody did.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::ending::{EXIT_WITHIN, NOT_SERVING_WITHIN, not_serving};
use crate::judge::judge;
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{announce_failure, for_run, newest, small_segments, spare_number};
use crate::strace::Injection;
use crate::support::eventually;
use crate::table::{Report, Row, Run, Variant};

/// The row.
pub fn rows() -> Vec<Row> {
    let row = Row::new("EIO at fdatasync of a spare, nobody publishes", rig).needs(&[Need::Strace]);
    vec![row.control(Variant::NoFault).control(Variant::Broken("retry-fsync")).slow()]
}

/// The call fails two seconds after it was made: by then the load that made it necessary has ended.
async fn rig(run: Run) -> Report {
    let plain = small_segments();
    let setup = for_run(announce_failure(plain.clone()).expect_log("housekeeper failed"), run);
    let broker = setup.start().await;
    let log = broker.data().join("log");
    let spare = eventually("a spare", || async { newest(&log, "spare") }).await;
    let making = log.join(format!("{:020}.making", spare_number(&spare) + 1));
    let how = if run.variant == Variant::NoFault { "" } else { "error=EIO:delay_enter=2000000:when=1" };
    let files = [making.clone()];
    let trace = plain.folder().join("trace");
    let tracer = Injection { calls: "fdatasync", how, files: &files, thread: None }.attach(broker.pid(), &trace);
    let mut report = Report::default();
    let truth = Truth::new(19);
    let mut load = Load::start(&broker, &truth, 19).await;
    let is_next = |path: PathBuf| spare_number(&path) > spare_number(&spare);
    eventually("the next spare to be made", || async {
        (making.exists() || newest(&log, "spare").is_some_and(is_next)).then_some(())
    })
    .await;
    load.stop().await;
    let injected = async { eventually("the failure", || async { (tracer.injected() > 0).then_some(()) }).await };
    if tokio::time::timeout(Duration::from_secs(4), injected).await.is_err() {
        report.violations.push("nothing was injected".to_owned());
        drop(broker.kill_nine().await);
        return report;
    }
    let failed_at = Instant::now();
    let (client, patience) = (broker.client().await, EXIT_WITHIN * 2);
    let Ok(noticed) = tokio::time::timeout(patience, not_serving(client)).await else {
        report.violations.push(format!("health still says SERVING after {patience:.0?}"));
        drop(broker.kill_nine().await);
        return report;
    };
    let noticed = noticed.saturating_duration_since(failed_at);
    report.check(noticed <= NOT_SERVING_WITHIN, || format!("health went on for {noticed:.1?}"));
    let (status, stopped) = broker.wait().await;
    let exit = failed_at.elapsed();
    report.check(exit <= EXIT_WITHIN, || format!("the process lived on for {exit:.1?}"));
    report.check(status.code() == Some(1), || format!("it ended with {status}"));
    report.figure(format!("NOT_SERVING after {noticed:.1?}, exit after {exit:.1?}"));
    report.injected = tracer.injected();
    report.detected = Some(stopped.logged("log failed, nothing more is taken") as u64);
    drop(load.ends().await);
    let broker = plain.start().await;
    judge(&broker, &truth, &mut report).await;
    report
}
