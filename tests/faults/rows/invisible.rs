//! What nobody may notice: interrupted calls and writes that stop half way.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::judge::judge;
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{for_run, newest, small_segments, spare_number};
use crate::strace::Injection;
use crate::support::{Broker, eventually};
use crate::table::{Report, Row, Run, Variant};

/// How long publishing must go on under the fault.
const GOES_ON: Duration = Duration::from_secs(20);
const ACKNOWLEDGEMENTS: u64 = 4_000;
const EIO_INSTEAD: Variant = Variant::Own("EIO instead");
const NOT_TOLD: Variant = Variant::Own("half is written, all is reported");

/// One row for each operation.
pub fn rows() -> Vec<Row> {
    let calls = [
        ("pwrite64", "write", false),
        ("fdatasync", "fdatasync", true),
        ("fsync", "fsync of a directory", false),
        ("/^open", "open", false),
        ("/^rename", "rename", false),
    ];
    let mut rows: Vec<Row> = calls
        .into_iter()
        .map(|(calls, name, quick)| {
            let row = Row::new(format!("EINTR at every third {name}"), move |run| interrupted(calls, run));
            let row = row.needs(&[Need::Strace]).control(EIO_INSTEAD);
            if quick { row } else { row.slow() }
        })
        .collect();
    for (suffix, name) in [(".wal", "a frame"), (".making", "zeros into a spare")] {
        let row = Row::new(format!("short write at every third write of {name}"), move |run| short(suffix, run));
        let row = row.needs(&[Need::CCompiler]);
        // Zeros that are missing harm nobody, so half of them is no control.
        rows.push(match suffix {
            ".wal" => row.control(NOT_TOLD),
            _ => row.control(Variant::NoFault).control(EIO_INSTEAD).slow(),
        });
    }
    rows
}

async fn interrupted(calls: &'static str, run: Run) -> Report {
    let setup = for_run(small_segments(), run);
    let trace = setup.folder().join("trace");
    let broker = setup.start().await;
    let files = files_of_the_log(&broker).await;
    let error = if run.variant == EIO_INSTEAD { "EIO" } else { "EINTR" };
    let how = format!("error={error}:when=3+3");
    let tracer = Injection { calls, how: &how, files: &files, thread: None }.attach(broker.pid(), &trace);
    let mut report = Report::default();
    let truth = Truth::new(3);
    let load = Load::start(&broker, &truth, 3).await;
    goes_on(&load, run, &mut report).await;
    report.injected = tracer.injected();
    report.check(report.injected > 0, || "nothing was injected".to_owned());
    drop(tracer);
    if report.violations.is_empty() {
        ends_well(broker, load, &truth, &mut report).await;
    }
    report
}

/// Paths of the log's files, as far as they can be known before they are made.
async fn files_of_the_log(broker: &Broker) -> Vec<PathBuf> {
    let log = broker.data().join("log");
    let active = eventually("a segment", || async { newest(&log, "wal") }).await;
    let spare = eventually("a spare", || async { newest(&log, "spare") }).await;
    let first = spare_number(&spare);
    let mut files = vec![active, log.clone()];
    for number in first..first + 30 {
        files.push(log.join(format!("{number:020}.making")));
        files.push(log.join(format!("{number:020}.spare")));
    }
    files
}

async fn goes_on(load: &Load, run: Run, report: &mut Report) {
    let time = if run.variant.is_control() { Duration::from_secs(4) } else { GOES_ON };
    let went_on = load.acknowledges_within(ACKNOWLEDGEMENTS, time).await;
    report.check(went_on, || format!("publishing did not go on: {} acknowledged", load.acknowledged()));
    report.check(load.seen.failed_at().is_none(), || "the log has failed".to_owned());
    report.check(load.refused() == 0, || format!("{} publishes were refused", load.refused()));
}

/// Kills it, and reads everything after a restart; its log lines must be clean.
async fn ends_well(broker: Broker, load: Load, truth: &Truth, report: &mut Report) {
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    match stopped.setup().try_start().await {
        Ok(broker) => judge(&broker, truth, report).await,
        Err((status, said)) => report.violations.push(format!("it does not start again ({status}): {said}")),
    }
}

/// Writes are cut in half by a library that stands before the C library, so that half is really there.
async fn short(suffix: &'static str, run: Run) -> Report {
    let setup = small_segments();
    let count = setup.folder().join("count");
    let library = compile(setup.folder());
    let assign = |name: &str, value: &Path| {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        word
    };
    let mut words: Vec<OsString> = vec!["env".into(), assign("LD_PRELOAD", &library), assign("FAULT_COUNT", &count)];
    words.push(format!("FAULT_SUFFIX={suffix}").into());
    if run.variant != Variant::NoFault {
        words.push("FAULT_EVERY=3".into());
    }
    if run.variant == NOT_TOLD {
        words.push("FAULT_LIE=1".into());
    }
    if run.variant == EIO_INSTEAD {
        words.push("FAULT_EIO=1".into());
    }
    let plain = if run.variant.is_control() { setup.expect_log("") } else { setup };
    let mut report = Report::default();
    let broker = match plain.clone().under(words).try_start().await {
        Ok(broker) => broker,
        // The first segment is filled before the broker listens.
        Err((status, said)) => {
            report.injected = fs::metadata(&count).map_or(0, |metadata| metadata.len());
            let why = said.lines().last().unwrap_or_default().to_owned();
            report.violations.push(format!("it does not start ({status}): {why}"));
            return report;
        }
    };
    let truth = Truth::new(4);
    let load = Load::start(&broker, &truth, 4).await;
    goes_on(&load, run, &mut report).await;
    let stopped = broker.kill_nine().await;
    drop(load.ends().await);
    report.injected = fs::metadata(&count).map_or(0, |metadata| metadata.len());
    report.check(report.injected > 0, || "nothing was injected".to_owned());
    drop(stopped);
    match plain.try_start().await {
        Ok(broker) => judge(&broker, &truth, &mut report).await,
        Err((status, said)) => {
            let why = said.lines().last().unwrap_or_default().to_owned();
            report.violations.push(format!("it does not start again ({status}): {why}"));
        }
    }
    report
}

fn compile(folder: &Path) -> PathBuf {
    let library = folder.join("short_write.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/short_write.c");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    let output = command.output().expect("the C compiler runs");
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    library
}
