//! A segment's file that is used again: the old bytes behind its end must not pass for records.

use std::fs;

use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::rig::{for_run, small_segments};
use crate::snapshot::segments;
use crate::table::{Report, Row, Run, Variant};

const ROUNDS: u64 = 4;

/// The row.
pub fn rows() -> Vec<Row> {
    let row = Row::new("kill -9 with old bytes in a reused file", rig).slow();
    vec![row.control(Variant::Broken("reuse-salt")).control(Variant::Own("files are not used again"))]
}

async fn rig(run: Run) -> Report {
    let keep = if matches!(run.variant, Variant::Own(_)) { "1GiB" } else { "0" };
    let mut setup = for_run(small_segments().set("log.keep_bytes", keep), run);
    let mut report = Report::default();
    let truth = Truth::new(16);
    let rounds = if run.thorough { ROUNDS * 3 } else { ROUNDS };
    for round in 0..rounds {
        let broker = match setup.clone().try_start().await {
            Ok(broker) => broker,
            Err((status, said)) => {
                let why = said.lines().last().unwrap_or_default().to_owned();
                report.violations.push(format!("it does not start again ({status}): {why}"));
                return report;
            }
        };
        let load = Load::start(&broker, &truth, 16 + round).await;
        load.acknowledges(4_000).await;
        let stopped = broker.kill_nine().await;
        drop(load.ends().await);
        report.injected += u64::from(old_bytes_follow(&segments(stopped.data())));
        setup = stopped.setup();
    }
    report.check(report.injected > 0, || "no file was used again".to_owned());
    match setup.try_start().await {
        Ok(broker) => {
            judge(&broker, &truth, &mut report).await;
            is_alive(&broker, &truth, &mut report).await;
        }
        Err((status, said)) => report.violations.push(format!("it does not start again ({status}): {said}")),
    }
    report
}

/// Whether the newest segment is a file that was one before: a new file ends with zeros.
fn old_bytes_follow(segments: &[std::path::PathBuf]) -> bool {
    let newest = segments.last().expect("there is one");
    let bytes = fs::read(newest).expect("readable");
    bytes[bytes.len() * 3 / 4..].iter().any(|byte| *byte != 0)
}
