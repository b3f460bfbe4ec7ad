//! Two processes on one data directory: the second broker is refused, the tools read beside the first.

use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::rig::{for_run, small_segments};
use crate::rows::disk_states::tools_go_on;
use crate::support::Setup;
use crate::table::{Report, Row, Run, Variant};

/// Exit code of a directory that is in use.
const IN_USE: i32 = 4;
const ATTEMPTS: u64 = 5;

/// The row.
pub fn rows() -> Vec<Row> {
    vec![Row::new("two processes on one directory", rig).control(Variant::NoFault)]
}

async fn rig(run: Run) -> Report {
    let setup = for_run(small_segments(), run);
    let broker = setup.clone().start().await;
    let mut report = Report::default();
    let truth = Truth::new(11);
    let mut load = Load::start(&broker, &truth, 11).await;
    let mut detected = 0;
    for _ in 0..ATTEMPTS {
        load.acknowledges(300).await;
        let second = if run.variant == Variant::NoFault { Setup::new().expect_log("") } else { setup.clone() };
        report.injected += 1;
        match second.try_start().await {
            Ok(_second) => report.violations.push("a second broker has started".to_owned()),
            Err((status, said)) => {
                let in_use = status.code() == Some(IN_USE) && said.contains("in use");
                detected += u64::from(in_use);
                report.check(in_use, || format!("the second one ended with {status}: {said}"));
            }
        }
        tools_go_on(&broker, &mut report);
    }
    report.detected = Some(detected);
    load.stop().await;
    report.check(load.refused() == 0, || format!("{} publishes were refused", load.refused()));
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    let broker = stopped.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}
