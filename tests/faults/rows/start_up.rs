//! File operations that fail while a broker starts: it refuses with one sentence that names the file, and the next start has
//! everything.

use std::path::{Path, PathBuf};

use crate::judge::judge;
use crate::load::Truth;
use crate::needs::Need;
use crate::rig::{for_run, newest, small_segments};
use crate::rows::surgery::log_with_segments;
use crate::snapshot::segments;
use crate::strace::{Injection, injected};
use crate::table::{Report, Row, Run, Variant};

/// Exit code of a failure that is nobody's damage.
const FAILED: i32 = 1;

#[derive(Debug, Clone, Copy)]
enum Target {
    Lock,
    Directory,
    Closed,
    Newest,
    Spare,
    Checkpoint,
}

/// One row for each operation.
pub fn rows() -> Vec<Row> {
    let operations = [
        ("lock of the log", Target::Lock, "flock", "EIO"),
        ("listing of the log", Target::Directory, "getdents64", "EIO"),
        ("open of a segment", Target::Closed, "/^open", "EIO"),
        ("read of a segment", Target::Closed, "pread64", "EIO"),
        ("read of the newest segment", Target::Newest, "pread64", "EIO"),
        ("open of the newest segment for its cut", Target::Newest, "/^open", "EMFILE"),
        ("rewrite of the last frame", Target::Newest, "pwrite64", "EIO"),
        ("cut of the newest segment", Target::Newest, "ftruncate", "EIO"),
        ("fdatasync of the cut", Target::Newest, "fdatasync", "EIO"),
        ("write of the first header", Target::Spare, "pwrite64", "ENOSPC"),
        ("fdatasync of the first header", Target::Spare, "fdatasync", "EIO"),
        ("rename of the first segment", Target::Spare, "/^rename", "EIO"),
        ("fsync of the log directory", Target::Directory, "fsync", "EIO"),
        ("read of the ids checkpoint", Target::Checkpoint, "pread64", "EIO"),
    ];
    let row = |(name, target, calls, error): (&str, Target, &'static str, &'static str)| {
        let row = Row::new(format!("at the start: {error} at {name}"), move |run| rig(target, calls, error, run));
        row.needs(&[Need::Strace]).control(Variant::NoFault).slow()
    };
    operations.into_iter().map(row).collect()
}

async fn rig(target: Target, calls: &'static str, error: &'static str, run: Run) -> Report {
    let plain = small_segments();
    let truth = Truth::new(18);
    log_with_segments(&plain, &truth, 2_500).await;
    let trace = plain.folder().join("trace");
    let files = [path(plain.data(), target)];
    let how = if run.variant == Variant::NoFault { String::new() } else { format!("error={error}:when=1") };
    let injection = Injection { calls, how: &how, files: &files, thread: None };
    // With -D the broker is the child, and strace its grandchild.
    let mut strace: Vec<std::ffi::OsString> = vec!["strace".into(), "-D".into(), "-f".into()];
    strace.extend(injection.options(&trace));
    let setup = for_run(plain.clone(), run).under(strace);
    let mut report = Report::default();
    match setup.try_start().await {
        Ok(_broker) => report.violations.push("it has started".to_owned()),
        Err((status, said)) => {
            report.detected = Some(1);
            report.check(status.code() == Some(FAILED), || format!("it ended with {status}: {said}"));
            let name = files[0].file_name().expect("a name").to_string_lossy().into_owned();
            // A segment is named by where it goes as well as by where it comes from.
            let named = said.contains(&name) || (matches!(target, Target::Spare) && said.contains(".wal"));
            report.check(named, || format!("{name} is not named in: {said}"));
            report.check(!said.contains("panicked"), || format!("it panicked: {said}"));
        }
    }
    let trace = std::fs::read_to_string(trace).unwrap_or_default();
    report.injected = injected(&trace);
    report.check(report.injected > 0, || "nothing was injected".to_owned());
    if run.variant.is_control() {
        return report;
    }
    let broker = plain.start().await;
    judge(&broker, &truth, &mut report).await;
    report
}

fn path(data: &Path, target: Target) -> PathBuf {
    let log = data.join("log");
    match target {
        Target::Lock => log.join("LOCK"),
        Target::Directory => log,
        Target::Closed => segments(data)[0].clone(),
        Target::Newest => segments(data).pop().expect("there is one"),
        Target::Spare => newest(&log, "spare").expect("a killed broker leaves one"),
        Target::Checkpoint => data.join("ids/high-water-marks"),
    }
}
