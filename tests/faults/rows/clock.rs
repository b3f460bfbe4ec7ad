//! A wall clock that jumps: ids, order and retention do not follow it, `published_at` does.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tonic::Code;
use walcast::event::clock;

use crate::judge::{is_alive, judge};
use crate::load::{Load, Truth};
use crate::needs::{Need, fake_time};
use crate::rig::{for_run, small_segments};
use crate::support::Broker;
use crate::table::{Report, Row, Run, Variant};

/// The jumps, as libfaketime takes them, and in seconds.
const JUMPS: [(&str, i64); 3] = [("+1d", 86_400), ("-1h", -3_600), ("+0", 0)];
/// How far `published_at` may be from the clock that the broker sees.
const NEAR_SECONDS: i64 = 10;

/// The row.
pub fn rows() -> Vec<Row> {
    vec![Row::new("clock jumps by +1 day and -1 hour", rig).needs(&[Need::FakeTime]).control(Variant::NoFault).slow()]
}

async fn rig(run: Run) -> Report {
    let plain = small_segments().set("log.keep_bytes", "2MiB");
    let clock_file = plain.folder().join("clock");
    move_clock(&clock_file, "+0");
    let mut words: Vec<OsString> = vec!["env".into(), "FAKETIME_NO_CACHE=1".into(), "DONT_FAKE_MONOTONIC=1".into()];
    for (name, value) in
        [("LD_PRELOAD", fake_time().expect("it was asked for")), ("FAKETIME_TIMESTAMP_FILE", clock_file.clone())]
    {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        words.push(word);
    }
    let broker = for_run(plain.clone(), run).under(words).start().await;
    let mut report = Report::default();
    let truth = Truth::new(12);
    let mut load = Load::start(&broker, &truth, 12).await;
    load.acknowledges(2_000).await;
    for (jump, seconds) in JUMPS {
        if run.variant != Variant::NoFault {
            move_clock(&clock_file, jump);
            report.injected += 1;
        }
        load.acknowledges(2_000).await;
        tells_the_clock(&broker, jump, seconds, &mut report).await;
        // The housekeeper trims every second.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let (trimmed, projected) = (broker.position("trimmed").await, broker.position("projected").await);
        report.check(trimmed <= projected, || format!("trimmed {trimmed} beyond projected {projected}"));
    }
    load.stop().await;
    report.check(load.refused() == 0, || format!("{} publishes were refused", load.refused()));
    report.check(load.seen.others().is_empty(), || format!("answered otherwise: {:?}", load.seen.others()));
    judge(&broker, &truth, &mut report).await;
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    drop(stopped);
    let broker = plain.start().await;
    judge(&broker, &truth, &mut report).await;
    is_alive(&broker, &truth, &mut report).await;
    report
}

fn move_clock(file: &Path, by: &str) {
    // Renamed, so that the broker never reads half of it.
    let next = file.with_extension("next");
    fs::write(&next, format!("{by}\n")).expect("written");
    fs::rename(next, file).expect("renamed");
}

/// A message carries the time of the clock that the broker sees, and expires by it.
async fn tells_the_clock(broker: &Broker, jump: &str, seconds: i64, report: &mut Report) {
    let client = broker.client().await;
    let id = client.publish_kept("clock", jump.to_owned()).await;
    let message = client.fetch("clock", id).await;
    match message {
        Ok(message) => {
            let told = message.published_at.map_or(0, |time| time.seconds);
            let off = told - (clock::now().as_seconds() + seconds);
            report.check(off.abs() <= NEAR_SECONDS, || format!("after {jump} published_at is off by {off} s"));
        }
        Err(status) => report.violations.push(format!("after {jump} a message cannot be fetched: {status}")),
    }
    // Kept for an hour at the beginning: gone a day later, back when the clock is.
    let first = client.fetch("clock", 1).await;
    let expired = first.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument);
    report.check(first.is_ok() || expired, || {
        format!("after {jump} the first message is neither kept nor expired: {first:?}")
    });
}
