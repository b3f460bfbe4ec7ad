//! The disk alone: what one overwrite of 4 KiB costs until it is durable.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use crate::Failure;
use crate::figures::{Figure, Measured, latencies};
use crate::load::Plan;

/// What is written before each fdatasync: a page.
const WRITE_BYTES: usize = 4096;
/// Pages of the file, each of which is written before the first is timed: an fdatasync of blocks that are only reserved
/// costs twice as much.
const PAGES: u64 = 4096;
/// Timed overwrites: the 99th percentile is the 30th longest.
const SYNCS: u64 = 3_000;
const SYNCS_QUICK: u64 = 300;

/// Times pwrite + fdatasync in a file below `data_root`, one after the other.
pub fn measure(data_root: &Path, plan: &Plan) -> Result<Measured, Failure> {
    let directory = tempfile::Builder::new().prefix("yardstick").tempdir_in(data_root)?;
    let file = File::create_new(directory.path().join("written"))?;
    let page = [0x5a; WRITE_BYTES];
    for number in 0..PAGES {
        file.write_all_at(&page, number * WRITE_BYTES as u64)?;
    }
    file.sync_all()?;
    let mut latency_us = latencies()?;
    let begun = Instant::now();
    let syncs = if plan.quick { SYNCS_QUICK } else { SYNCS };
    for number in 0..syncs {
        let sent = Instant::now();
        file.write_all_at(&page, number % PAGES * WRITE_BYTES as u64)?;
        file.sync_data()?;
        latency_us.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let rate = syncs as f64 / begun.elapsed().as_secs_f64();
    Ok(Measured::default().with(Figure::Rate, rate).with_latencies(Figure::Call, &latency_us))
}
