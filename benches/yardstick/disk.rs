//! The disk alone: what one overwrite of 4 KiB costs until it is durable.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::figures::{Figure, Latencies, Measured, latencies};

/// What is written before each fdatasync: a page.
const WRITE_BYTES: usize = 4096;
/// Pages of the file, each of which is written before the first is timed: an fdatasync of blocks that are only reserved
/// costs twice as much.
const PAGES: u64 = 4096;
/// Timed overwrites at a time. Three times in a round, around the loads that are counted in them, make the 99th percentile
/// the 30th longest.
const SYNCS: u64 = 1_000;

/// What fdatasyncs took.
pub struct Syncs {
    latency_us: Latencies,
    took: Duration,
}

impl Syncs {
    /// None yet.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self { latency_us: latencies()?, took: Duration::ZERO })
    }

    /// Adds some that are made now, by a thread that may block.
    pub async fn add(&mut self, data_root: &Path) -> Result<(), Failure> {
        let data_root = data_root.to_owned();
        let more = tokio::task::spawn_blocking(move || measure(&data_root)).await??;
        self.latency_us.add(more.latency_us)?;
        self.took += more.took;
        Ok(())
    }

    /// Their figures.
    pub fn measured(&self) -> Measured {
        let rate = self.latency_us.len() as f64 / self.took.as_secs_f64();
        Measured::default().with(Figure::Rate, rate).with_latencies(Figure::Call, &self.latency_us)
    }
}

/// Times pwrite + fdatasync in a file below `data_root`, one after the other.
fn measure(data_root: &Path) -> Result<Syncs, Failure> {
    let directory = tempfile::Builder::new().prefix("yardstick").tempdir_in(data_root)?;
    let file = File::create_new(directory.path().join("written"))?;
    let page = [0x5a; WRITE_BYTES];
    for number in 0..PAGES {
        file.write_all_at(&page, number * WRITE_BYTES as u64)?;
    }
    file.sync_all()?;
    let mut latency_us = latencies()?;
    let begun = Instant::now();
    for number in 0..SYNCS {
        let sent = Instant::now();
        file.write_all_at(&page, number % PAGES * WRITE_BYTES as u64)?;
        file.sync_data()?;
        latency_us.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(Syncs { latency_us, took: begun.elapsed() })
}
