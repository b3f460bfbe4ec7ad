//! Files of the log's index that are missing, damaged or wrong: the broker starts, every message is found, and the file is
//! built again from the log as it was.

use std::fs;
use std::path::{Path, PathBuf};

use super::surgery::{cut, flip, log_with_segments, zero};
use crate::judge::judge;
use crate::load::Truth;
use crate::rig::{for_run, small_segments};
use crate::snapshot::copy_folder;
use crate::support::eventually;
use crate::table::{Report, Row, Run, Variant};

/// The control of every row: the log that the index knows more of than there is.
const OLDER_LOG: &str = "an older log";
/// Bytes of a page (`src/index/format.rs`); the first is the header.
const PAGE_BYTES: u64 = 4096;

/// What is done to the files of an index; the other ones are another log's.
type Harm = fn(ours: &[PathBuf], others: &[PathBuf]);

const HARMS: [(&str, Harm); 9] = [
    ("all index files are missing", |ours, _| ours.iter().for_each(|file| fs::remove_file(file).expect("removed"))),
    ("an index file is missing", |ours, _| fs::remove_file(&ours[0]).expect("removed")),
    ("an index file is empty", |ours, _| cut(&ours[0], 0)),
    ("an index file is cut in half", |ours, _| cut(&ours[0], fs::metadata(&ours[0]).expect("there").len() / 2)),
    ("an index file is all zeros", |ours, _| zero(&ours[0])),
    ("the header of an index file is damaged", |ours, _| flip(&ours[0], 60)),
    ("every page of an index file is damaged", |ours, _| {
        let pages = fs::metadata(&ours[0]).expect("there").len() / PAGE_BYTES;
        (1..pages).for_each(|page| flip(&ours[0], page * PAGE_BYTES + 100));
    }),
    ("two index files are swapped", |ours, _| {
        let aside = ours[0].with_extension("aside");
        fs::rename(&ours[0], &aside).expect("renamed");
        fs::rename(&ours[1], &ours[0]).expect("renamed");
        fs::rename(&aside, &ours[1]).expect("renamed");
    }),
    ("an index is another log's", |ours, others| {
        for (ours, other) in ours.iter().zip(others) {
            fs::copy(other, ours).expect("copied");
        }
    }),
];

/// One row for each harm.
pub fn rows() -> Vec<Row> {
    let quick = ["all index files are missing", "every page of an index file is damaged"];
    let row = |(name, harm): (&'static str, Harm)| {
        let row = Row::new(name, move |run| rig(harm, run)).control(Variant::Own(OLDER_LOG));
        if quick.contains(&name) { row } else { row.slow() }
    };
    HARMS.into_iter().map(row).collect()
}

async fn rig(harm: Harm, run: Run) -> Report {
    // Without a store every message comes from the log.
    let setup = for_run(small_segments().store("none"), run).expect_log("index");
    let truth = Truth::new(17);
    let older = setup.folder().join("older");
    log_with_segments(&setup, &truth, 1_500).await;
    copy_folder(setup.data(), &older);
    log_with_segments(&setup, &truth, 1_500).await;
    // An orderly stop leaves no gap.
    setup.clone().start().await.stop().await;
    let files = index_files(setup.data());
    assert!(files.len() >= 2, "there are index files to work on");
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("readable")).collect();
    let other = small_segments().store("none");
    log_with_segments(&other, &Truth::new(18), 1_500).await;
    other.clone().start().await.stop().await;

    let mut report = Report { injected: 1, detected: Some(0), ..Report::default() };
    if run.variant.is_control() {
        for folder in ["log", "ids"] {
            copy_folder(&older.join(folder), &setup.data().join(folder));
        }
    } else {
        harm(&files, &index_files(other.data()));
    }
    let broker = setup.start().await;
    judge(&broker, &truth, &mut report).await;
    if run.variant.is_control() {
        return report;
    }
    eventually("the index to be whole", || async {
        (broker.metric("walcast_index_gap_records").await == 0.0).then_some(())
    })
    .await;
    // The folder goes away with it.
    let _stopped = broker.stop().await;
    let again = files.iter().zip(&whole).all(|(file, whole)| fs::read(file).is_ok_and(|bytes| bytes == *whole));
    report.check(again, || "the index is not what it was".to_owned());
    report.detected = Some(u64::from(again));
    report
}

fn index_files(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("index")).expect("there is an index");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("readable").path()).collect();
    files.sort();
    files
}
