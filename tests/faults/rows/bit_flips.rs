//! Single bits of a real log that turn, with the real binary: each is found at the start. (In the process itself there are
//! tests of every bit of the headers and of 10,000 random ones.)

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::judge::judge;
use crate::load::Truth;
use crate::rig::{for_run, small_segments};
use crate::rows::surgery::{flip, log_with_segments, refusal};
use crate::snapshot::{Snapshot, segments};
use crate::table::{Report, Row, Run, Variant};

const HEADER_BYTES: u64 = 4096;
/// One flip in so many is at the end of the log.
const END_EVERY: usize = 5;

/// The row.
pub fn rows() -> Vec<Row> {
    let row = Row::new("a bit turns in a segment", rig);
    vec![row.control(Variant::NoFault).control(Variant::Broken("ignore-checksum"))]
}

async fn rig(run: Run) -> Report {
    let plain = small_segments().set("log.verify_for", "1m");
    let truth = Truth::new(15);
    log_with_segments(&plain, &truth, 3_000).await;
    let setup = for_run(plain.clone(), run);
    let flips: usize = match (run.variant.is_control(), run.thorough) {
        (true, _) => 1,
        (false, true) => 100,
        (false, false) => 15,
    };
    let mut random = StdRng::seed_from_u64(15);
    let mut report = Report::default();
    let (mut detected, mut end_missed) = (0, 0);
    for number in 1..=flips {
        let segments = segments(setup.data());
        let at_the_end = number % END_EVERY == 0;
        let (segment, offset) = if at_the_end { at_the_end_of(&segments) } else { somewhere(&segments, &mut random) };
        if run.variant != Variant::NoFault {
            flip(&segment, offset);
            report.injected += 1;
        }
        let before = Snapshot::of(setup.data());
        let found = report.violations.len();
        if let Some(said) = refusal(&setup, &mut report).await {
            let named = said.contains(".wal") && said.contains("is damaged at byte");
            // The last frame looks like a torn write, but the store and the checkpoint have its messages.
            let missed = said.contains("known to have been durable");
            let told = if at_the_end { missed } else { named || (missed && is_last_frame(&segment, offset)) };
            end_missed += u64::from(missed);
            report.check(told, || format!("neither the place nor what is missing is named in: {said}"));
        }
        let changed = Snapshot::of(setup.data()).differences(&before);
        report.check(changed.is_empty(), || format!("the refused start has touched files: {}", changed.join(", ")));
        detected += u64::from(found == report.violations.len());
        if run.variant != Variant::NoFault {
            flip(&segment, offset);
        }
        if report.violations.len() > found {
            report.violations.push(format!("(bit at {} of {})", offset, segment.display()));
            break;
        }
    }
    report.detected = Some(detected);
    report.figure(format!("{end_missed} found by what the store and the checkpoint know"));
    if !run.variant.is_control() {
        let broker = plain.start().await;
        judge(&broker, &truth, &mut report).await;
    }
    report
}

/// The last byte of all records.
fn at_the_end_of(segments: &[PathBuf]) -> (PathBuf, u64) {
    let newest = segments.iter().rfind(|segment| written(segment) > HEADER_BYTES).expect("there are records");
    (newest.clone(), written(newest) - 1)
}

/// Headers are as likely as records, though they are shorter.
fn somewhere(segments: &[PathBuf], random: &mut StdRng) -> (PathBuf, u64) {
    let segment = &segments[random.random_range(0..segments.len())];
    let end = written(segment);
    let header = end <= HEADER_BYTES || random.random_range(0..4) == 0;
    let offset = if header { random.random_range(0..HEADER_BYTES) } else { random.random_range(HEADER_BYTES..end) };
    (segment.clone(), offset)
}

/// Where the records end.
fn written(segment: &Path) -> u64 {
    let bytes = fs::read(segment).expect("readable");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

/// Whether the bit may be in the last frame, whose damage looks like a torn write.
fn is_last_frame(segment: &Path, offset: u64) -> bool {
    const FRAME_BYTES_AT_MOST: u64 = 512 * 1024;
    offset + FRAME_BYTES_AT_MOST > written(segment)
}
