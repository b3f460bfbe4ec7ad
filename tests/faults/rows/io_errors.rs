//! A write, a sync or a name that fails: the log ends, nothing is acknowledged afterwards, a restart has everything.

use std::path::PathBuf;

use crate::ending::log_failure;
use crate::judge::judge;
use crate::load::{Load, Truth};
use crate::needs::Need;
use crate::rig::{announce_failure, for_run, newest, small_segments, spare_number};
use crate::strace::{Injection, after_injection};
use crate::support::{Broker, Setup, eventually};
use crate::table::{Report, Row, Run, Variant};

/// The file whose operation fails.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// The segment that is being written.
    Active,
    /// The next one, which is ready.
    Spare,
    /// The one after that, which is being filled.
    Making,
    /// The directory of the log.
    Directory,
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    name: &'static str,
    target: Target,
    calls: &'static str,
    when: &'static str,
    errors: &'static [&'static str],
    quick: bool,
}

const OPERATIONS: [Operation; 10] = [
    operation("write of a frame", Target::Active, "pwrite64", "when=200", &["EIO", "ENOSPC"], true),
    operation("fdatasync of a frame", Target::Active, "fdatasync", "when=200", &["EIO", "ENOSPC"], true),
    operation("open of the next segment", Target::Spare, "/^open", "when=1", &["EIO"], false),
    operation("write of a segment header", Target::Spare, "pwrite64", "when=1", &["EIO", "ENOSPC"], false),
    operation("fdatasync of a segment header", Target::Spare, "fdatasync", "when=1", &["EIO", "ENOSPC"], false),
    operation("rename of a segment", Target::Spare, "/^rename", "when=1", &["EIO", "ENOSPC"], false),
    operation("fsync of the log directory", Target::Directory, "fsync", "when=1", &["EIO", "ENOSPC"], false),
    operation("creation of a spare", Target::Making, "/^open", "when=1", &["EIO"], false),
    operation("write of zeros into a spare", Target::Making, "pwrite64", "when=1", &["EIO"], false),
    operation("fdatasync of a spare", Target::Making, "fdatasync", "when=1", &["EIO"], false),
];

const fn operation(
    name: &'static str,
    target: Target,
    calls: &'static str,
    when: &'static str,
    errors: &'static [&'static str],
    quick: bool,
) -> Operation {
    Operation { name, target, calls, when, errors, quick }
}

/// One row for each operation and error.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for operation in OPERATIONS {
        for error in operation.errors {
            let row = Row::new(format!("{error} at {}", operation.name), move |run| rig(operation, error, run));
            let row = row.needs(&[Need::Strace]).control(Variant::NoFault);
            let row = if operation.calls == "fdatasync" { row.control(Variant::Broken("retry-fsync")) } else { row };
            rows.push(if operation.quick && *error == "EIO" { row } else { row.slow() });
        }
    }
    rows
}

async fn rig(operation: Operation, error: &'static str, run: Run) -> Report {
    let plain = match operation.target {
        Target::Active => Setup::new(),
        _ => small_segments(),
    };
    let setup = for_run(announce_failure(plain.clone()), run);
    let broker = setup.start().await;
    let files = [target(&broker, operation.target).await];
    let how = match run.variant {
        Variant::NoFault => String::new(),
        _ => format!("error={error}:{}", operation.when),
    };
    let trace = plain.folder().join("trace");
    let injection = Injection { calls: operation.calls, how: &how, files: &files, thread: None };
    let tracer = injection.attach(broker.pid(), &trace);

    let mut report = Report::default();
    let truth = Truth::new(1);
    let load = Load::start(&broker, &truth, 1).await;
    log_failure(broker, load, run, &mut report).await;
    let trace = tracer.trace();
    report.injected = tracer.injected();
    report.check(report.injected > 0, || "nothing was injected".to_owned());
    let file = files[0].file_name().expect("a file").to_string_lossy().into_owned();
    // Closing and removing it is all that may still happen to the file.
    let again: Vec<&str> = ["fdatasync(", "fsync(", "pwrite64("]
        .iter()
        .flat_map(|call| after_injection(&trace, call))
        .filter(|line| line.contains(&file))
        .collect();
    report.check(again.is_empty(), || format!("the file was used again after the failure: {}", again[0]));

    let broker = plain.start().await;
    judge(&broker, &truth, &mut report).await;
    report
}

/// The path of the file in a broker that has just started.
async fn target(broker: &Broker, target: Target) -> PathBuf {
    let log = broker.data().join("log");
    let newest = |extension: &'static str| {
        let log = log.clone();
        move || {
            let found = newest(&log, extension);
            async move { found }
        }
    };
    match target {
        Target::Active => eventually("a segment", newest("wal")).await,
        Target::Directory => {
            eventually("a spare", newest("spare")).await;
            log
        }
        Target::Spare => eventually("a spare", newest("spare")).await,
        Target::Making => {
            let spare = eventually("a spare", newest("spare")).await;
            log.join(format!("{:020}.making", spare_number(&spare) + 1))
        }
    }
}
