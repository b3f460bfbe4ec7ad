//! Files of a data directory that are missing, doubled, empty, another log's or a newer walcast's: the start is refused, the
//! file and the place are named, and nothing is deleted or changed.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::judge::judge;
use crate::load::{Load, Truth};
use crate::rig::{for_run, small_segments};
use crate::snapshot::{Snapshot, copy_folder, segments};
use crate::support::Setup;
use crate::table::{Report, Row, Run, Variant};

/// Exit code of damaged or missing records.
const DAMAGED: i32 = 3;
/// Where the header of a segment has what (docs of the log's format).
const HEADER_BYTES: usize = 4096;
const VERSION_AT: usize = 8;
const CRC_AT: usize = HEADER_BYTES - 4;

/// What is done to the directory; the other one is of another log.
type Harm = fn(data: &Path, other: &Path);

/// A surgery: its name, what is done, and what the refusal must name.
type Surgery = (&'static str, Harm, &'static [&'static str]);

const SURGERIES: [Surgery; 13] = [
    ("a segment is missing", |data, _| remove(&segments(data)[1]), &[".wal", "at byte", "is missing"]),
    // Which file there was, nobody can know: the place is the sequence where the log ends.
    ("the newest segment is missing", |data, _| remove(newest_with_records(data)), &["known to have been durable"]),
    (
        "a segment is doubled",
        |data, _| copy(&segments(data)[1], &data.join("log/00000000000090000000.wal")),
        &["00000000000090000000.wal", "at byte 0", "is a copy or was renamed"],
    ),
    (
        "a segment is renamed",
        |data, _| fs::rename(&segments(data)[1], data.join("log/backup.wal")).expect("renamed"),
        &["backup.wal", "at byte 0", "the name is not that of a segment"],
    ),
    (
        "a segment is empty",
        |data, _| cut(&segments(data)[1], 0),
        &[".wal", "at byte 0", "too few for a segment header"],
    ),
    ("the newest segment is empty", |data, _| cut(&newest(data), 0), &[".wal", "at byte 0", "too few"]),
    ("a segment is cut in half", |data, _| cut(&segments(data)[1], 500_000), &[".wal", "at byte", "no valid frame"]),
    ("a segment is all zeros", |data, _| zero(&segments(data)[1]), &[".wal", "at byte 0", "does not start like"]),
    (
        "a segment is from another log",
        |data, other| copy(&segments(other)[0], &segments(data)[0]),
        &[".wal", "at byte 0", "belongs to log"],
    ),
    (
        "a segment is from the future",
        |data, _| from_the_future(&segments(data)[1]),
        &[".wal", "at byte 0", "newer walcast"],
    ),
    (
        "the header of a segment is damaged",
        |data, _| flip(&segments(data)[1], 2_000),
        &[".wal", "at byte 0", "checksum"],
    ),
    (
        "the ids checkpoint is damaged",
        |data, _| flip(&data.join("ids/high-water-marks"), 60),
        &["high-water-marks", "at offset", "checksum"],
    ),
    (
        "the ids checkpoint is from another log",
        |data, other| copy(&other.join("ids/high-water-marks"), &data.join("ids/high-water-marks")),
        &["high-water-marks", "belongs to log"],
    ),
];

/// One row for each surgery.
pub fn rows() -> Vec<Row> {
    // One of each kind; the others are variations.
    let quick = ["a segment is missing", "a segment is doubled", "a segment is empty", "a segment is from the future"];
    let row = |surgery: Surgery| {
        let row = Row::new(surgery.0, move |run| rig(surgery, run)).control(Variant::NoFault);
        if quick.contains(&surgery.0) { row } else { row.slow() }
    };
    SURGERIES.into_iter().map(row).collect()
}

async fn rig((name, harm, parts): Surgery, run: Run) -> Report {
    let setup = for_run(small_segments().set("log.verify_for", "1m"), run);
    let truth = Truth::new(13);
    log_with_segments(&setup, &truth, 3_000).await;
    let other = small_segments();
    if name.contains("another log") {
        log_with_segments(&other, &Truth::new(14), 1_500).await;
    }
    let kept = setup.folder().join("kept");
    copy_folder(setup.data(), &kept);
    let mut report = Report { injected: 1, ..Report::default() };
    if run.variant == Variant::NoFault {
        report.injected = 0;
    } else {
        harm(setup.data(), other.data());
    }
    // The checkpoint is read while the log is opened, which may end the newest segment and start another: no record of it
    // may be touched. Harm to the log itself is found before anything is.
    let ids = name.contains("ids checkpoint");
    let snapshot = |data: &Path| if ids { Snapshot::of_records(data) } else { Snapshot::of(data) };
    let before = snapshot(setup.data());
    for _ in 0..2 {
        refused(&setup, parts, &mut report).await;
        let after = snapshot(setup.data());
        let after = if ids { after.without_new(&before) } else { after };
        let changed = after.differences(&before);
        report.check(changed.is_empty(), || format!("the refused start has touched files: {}", changed.join(", ")));
    }
    if run.variant.is_control() {
        return report;
    }
    // Once the directory is as it was, everything is there.
    copy_folder(&kept, setup.data());
    let broker = setup.start().await;
    judge(&broker, &truth, &mut report).await;
    report
}

/// Leaves several full segments, all in the store and in the checkpoint, of a broker that was killed.
pub async fn log_with_segments(setup: &Setup, truth: &Truth, messages: u64) {
    let broker = setup.clone().start().await;
    let mut load = Load::start(&broker, truth, 13).await;
    load.acknowledges(messages).await;
    load.stop().await;
    broker.all_projected().await;
    drop(broker.kill_nine().await);
    drop(load.ends().await);
    assert!(segments(setup.data()).len() >= 2, "there are segments to work on");
}

/// Starts it and checks that it refuses as it must, naming all of these.
pub async fn refused(setup: &Setup, parts: &[&str], report: &mut Report) {
    let Some(said) = refusal(setup, report).await else { return };
    for part in parts {
        report.check(said.contains(part), || format!("{part:?} is not named in: {said}"));
    }
}

/// Starts it and checks that it refuses as for damage; gives what it said.
pub async fn refusal(setup: &Setup, report: &mut Report) -> Option<String> {
    match setup.clone().try_start().await {
        Ok(_broker) => {
            report.violations.push("it was not refused".to_owned());
            None
        }
        Err((status, said)) => {
            report.detected = Some(report.injected);
            report.check(status.code() == Some(DAMAGED), || format!("it ended with {status}: {said}"));
            report.check(!said.contains("panicked"), || format!("it panicked: {said}"));
            Some(said)
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("copied");
}

fn remove(path: impl AsRef<Path>) {
    fs::remove_file(path).expect("removed");
}

fn newest(data: &Path) -> PathBuf {
    segments(data).pop().expect("there is one")
}

/// The newest segment that was written to: the one that was started last may be empty.
fn newest_with_records(data: &Path) -> PathBuf {
    let has_records =
        |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes[HEADER_BYTES..].iter().any(|byte| *byte != 0));
    segments(data).into_iter().rfind(has_records).expect("there are records")
}

fn open(path: &Path) -> fs::File {
    fs::OpenOptions::new().read(true).write(true).open(path).expect("it can be opened")
}

pub fn cut(path: &Path, bytes: u64) {
    open(path).set_len(bytes).expect("cut");
}

pub fn zero(path: &Path) {
    let length = fs::metadata(path).expect("it is there").len();
    fs::write(path, vec![0; usize::try_from(length).expect("small")]).expect("written");
}

/// Turns one bit.
pub fn flip(path: &Path, offset: u64) {
    let file = open(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("readable");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("written");
}

fn from_the_future(path: &Path) {
    let file = open(path);
    let mut header = vec![0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).expect("readable");
    header[VERSION_AT] = 2;
    let crc = crc32c::crc32c(&header[..CRC_AT]);
    header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&header, 0).expect("written");
}
