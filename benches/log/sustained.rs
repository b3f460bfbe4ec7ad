//! A steady rate for a long time: how bad the worst commit is.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Failure;
use crate::contenders::{Bare, Consumer, Contender, Ours, commit_bytes, records};

/// Records in a batch: what gathers during one fdatasync at such a rate.
const BATCH: usize = 1_024;
/// The worst commit is to stay below this many times the bare loop's worst.
const TIMES_MAX: f64 = 5.0;

/// Runs the bare loop, the log whose consumer keeps up, the log without one, and the bare loop again.
pub fn run(dir: &Path, megabytes_per_second: u64, time: Duration) -> Result<String, Failure> {
    let every = Duration::from_secs_f64(commit_bytes(BATCH) as f64 / (megabytes_per_second as f64 * 1e6));
    let mut lines = format!(
        "\nSustained {megabytes_per_second} MB/s for {} s, {BATCH} records a batch, a commit every {every:.2?}.\n\n\
         | contender | MB/s | p50 us | p99 us | p99.9 us | worst ms |\n|---|---|---|---|---|---|\n",
        time.as_secs_f64()
    );
    let mut part = |name: &str, contender: &mut dyn Contender| -> Result<f64, Failure> {
        eprintln!("sustained: {name}");
        let (latencies, rate) = steady(contender, every, time)?;
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        let worst = latencies.max() as f64 / 1e6;
        lines +=
            &format!("| {name} | {rate:.0} | {:.0} | {:.0} | {:.0} | {worst:.1} |\n", at(0.5), at(0.99), at(0.999));
        Ok(worst)
    };
    let mut bare = Bare::new(&dir.join("bare-sustained"))?;
    let first = part("bare loop, before", &mut bare)?;
    let ours = part("walcast, files used again", &mut Ours::new(&dir.join("keeps-up"), Consumer::KeepsUp)?)?;
    let growing_dir = dir.join("growing");
    let growing = part("walcast, every file new", &mut Ours::new(&growing_dir, Consumer::Gone)?)?;
    std::fs::remove_dir_all(&growing_dir)?;
    let second = part("bare loop, after", &mut bare)?;
    // The mean of both: the larger would favour us, the smaller the bare loop.
    let yardstick = f64::midpoint(first, second);
    for (name, worst) in [("files used again", ours), ("every file new", growing)] {
        let times = worst / yardstick;
        let verdict = if times <= TIMES_MAX { "kept" } else { "MISSED" };
        lines +=
            &format!("\n{name}: worst commit {times:.1} x the bare loop's, at most {TIMES_MAX} aimed at: {verdict}");
    }
    Ok(lines)
}

/// Commits at a steady pace; one that comes late is followed by the next at once. Returns the time of each, in
/// nanoseconds, and the rate in MB/s.
fn steady(contender: &mut dyn Contender, every: Duration, time: Duration) -> Result<(Histogram<u64>, f64), Failure> {
    let records = records(BATCH);
    let mut latencies = Histogram::<u64>::new(3)?;
    let started = Instant::now();
    let mut due = started;
    while started.elapsed() < time {
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        due += every;
        let before = Instant::now();
        contender.commit(&records)?;
        latencies.record(u64::try_from(before.elapsed().as_nanos())?)?;
    }
    let bytes = latencies.len() as f64 * commit_bytes(BATCH) as f64;
    Ok((latencies, bytes / 1e6 / started.elapsed().as_secs_f64()))
}
