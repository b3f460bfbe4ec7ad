//! Commits/s and p99 by batch size.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Failure;
use crate::contenders::{Bare, Consumer, Contender, Okay, Ours, RECORD_BYTES, commit_bytes, records};

const NAMES: [&str; 4] = ["bare loop", "walcast", "okaywal", "okaywal 64 MiB"];
const BARE: usize = 0;
const OURS: usize = 1;
const OKAY: [usize; 2] = [2, 3];

/// The least ratio to the bare loop that is aimed at.
fn floor(batch: usize) -> f64 {
    if batch <= 64 { 0.9 } else { 0.8 }
}

/// Beyond this many times between the bare loop's slow and quick rounds, the disk was somebody else's.
const RESTLESS: f64 = 3.0;

/// From this batch size on the log is to be ahead of okaywal.
const AHEAD_FROM: usize = 8;

/// What one contender did at one size.
#[derive(Debug, Clone)]
struct Cell {
    /// Of each round.
    commits_per_second: Vec<f64>,
    /// Nanoseconds of every commit of all rounds.
    latencies: Histogram<u64>,
}

/// By batch size and contender.
#[derive(Debug)]
pub struct Measured {
    sizes: Vec<usize>,
    cells: Vec<Vec<Cell>>,
}

/// Measures every contender at every size, turn and turn about.
pub fn run(dir: &Path, sizes: &[usize], rounds: usize, time: Duration) -> Result<Measured, Failure> {
    let mut contenders: [Box<dyn Contender>; NAMES.len()] = [
        Box::new(Bare::new(&dir.join("bare"))?),
        Box::new(Ours::new(&dir.join("walcast"), Consumer::KeepsUp)?),
        Box::new(Okay::with_defaults(&dir.join("okaywal"))?),
        Box::new(Okay::with_large_files(&dir.join("okaywal-64"))?),
    ];
    let empty = Cell { commits_per_second: Vec::new(), latencies: Histogram::new(3)? };
    let mut measured = Measured { sizes: sizes.to_vec(), cells: vec![vec![empty; NAMES.len()]; sizes.len()] };
    for (cells, &size) in measured.cells.iter_mut().zip(sizes) {
        eprintln!("{size} records a batch, {rounds} rounds");
        let records = records(size);
        for round in 0..rounds {
            for turn in 0..NAMES.len() {
                // To and fro, and each begins in its turn, so that nobody always follows the same one.
                let turn = if round % 2 == 0 { turn } else { NAMES.len() - 1 - turn };
                let who = (turn + round / 2) % NAMES.len();
                one_turn(&mut *contenders[who], &records, time, &mut cells[who])?;
            }
        }
    }
    Ok(measured)
}

fn one_turn(
    contender: &mut dyn Contender,
    records: &[Vec<u8>],
    time: Duration,
    cell: &mut Cell,
) -> Result<(), Failure> {
    contender.commit(records)?;
    let started = Instant::now();
    let mut before = started;
    let mut commits = 0;
    while before - started < time {
        contender.commit(records)?;
        let after = Instant::now();
        cell.latencies.record(u64::try_from((after - before).as_nanos())?)?;
        before = after;
        commits += 1;
    }
    cell.commits_per_second.push(f64::from(commits) / (before - started).as_secs_f64());
    Ok(())
}

impl Measured {
    /// One line a size and contender, and below it what was aimed at.
    pub fn table(&self) -> String {
        let rounds = self.cells.first().map_or(0, |cells| cells[BARE].commits_per_second.len());
        let mut text = format!(
            "Commits of records of {RECORD_BYTES} bytes, one writer; medians of {rounds} interleaved rounds.\n\n\
             | records | bytes | contender | commits/s | p10-p90 | p99 us | ratio to bare | p10-p90 |\n|---|---|---|---|---|---|---|---|\n"
        );
        let mut aims = String::new();
        for (size, cells) in self.sizes.iter().zip(&self.cells) {
            let ratio = |who: usize| -> Vec<f64> {
                let pairs = cells[who].commits_per_second.iter().zip(&cells[BARE].commits_per_second);
                pairs.map(|(rate, bare)| rate / bare).collect()
            };
            for (who, name) in NAMES.iter().enumerate() {
                let (rates, ratios) = (&cells[who].commits_per_second, ratio(who));
                let p99 = cells[who].latencies.value_at_quantile(0.99) as f64 / 1e3;
                let (rate, times) = (quantile(rates, 0.5), quantile(&ratios, 0.5));
                let [least, most] = [0.1, 0.9].map(|part| quantile(rates, part));
                let [least_times, most_times] = [0.1, 0.9].map(|part| quantile(&ratios, part));
                line(
                    &mut text,
                    format_args!(
                        "| {size} | {bytes} | {name} | {rate:.0} | {least:.0}-{most:.0} | {p99:.0} | {times:.2} | {least_times:.2}-{most_times:.2} |",
                        bytes = commit_bytes(*size)
                    ),
                );
            }
            let bare = &cells[BARE].commits_per_second;
            let spread = quantile(bare, 0.9) / quantile(bare, 0.1);
            if spread > RESTLESS {
                let words = "the machine is busy with something else, measure again";
                line(
                    &mut aims,
                    format_args!("{size}: the bare loop's own rate varied {spread:.1}-fold (p10 to p90): {words}"),
                );
            }
            let (ours, okay) = (quantile(&ratio(OURS), 0.5), OKAY.map(|who| quantile(&ratio(who), 0.5)));
            let verdict = |kept| if kept { "kept" } else { "MISSED" };
            line(
                &mut aims,
                format_args!(
                    "{size}: {ours:.2} of the bare loop, at least {} aimed at: {}",
                    floor(*size),
                    verdict(ours >= floor(*size))
                ),
            );
            if *size >= AHEAD_FROM {
                let best = okay[0].max(okay[1]);
                line(
                    &mut aims,
                    format_args!(
                        "{size}: {:.2} of the better okaywal, more than 1 aimed at: {}",
                        ours / best,
                        verdict(ours > best)
                    ),
                );
            }
        }
        text + "\n" + &aims
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a string takes everything");
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
