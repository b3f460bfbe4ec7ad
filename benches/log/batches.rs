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

/// From this batch size on the log is to be ahead of okaywal.
const AHEAD_FROM: usize = 8;

/// One round of one cell.
#[derive(Debug, Clone, Copy)]
struct Cell {
    commits_per_second: f64,
    p99_us: f64,
}

/// By batch size, contender and round.
#[derive(Debug)]
pub struct Measured {
    sizes: Vec<usize>,
    cells: Vec<[Vec<Cell>; NAMES.len()]>,
}

/// Measures every contender at every size, turn and turn about.
pub fn run(dir: &Path, sizes: &[usize], rounds: usize, time: Duration) -> Result<Measured, Failure> {
    let mut contenders: [Box<dyn Contender>; NAMES.len()] = [
        Box::new(Bare::new(&dir.join("bare"))?),
        Box::new(Ours::new(&dir.join("walcast"), Consumer::KeepsUp)?),
        Box::new(Okay::with_defaults(&dir.join("okaywal"))?),
        Box::new(Okay::with_large_files(&dir.join("okaywal-64"))?),
    ];
    let mut measured = Measured { sizes: sizes.to_vec(), cells: vec![Default::default(); sizes.len()] };
    for round in 0..rounds {
        for (cells, &size) in measured.cells.iter_mut().zip(sizes) {
            eprintln!("round {} of {rounds}: {size} records a batch", round + 1);
            let records = records(size);
            for turn in 0..NAMES.len() {
                let who = (turn + round) % NAMES.len();
                cells[who].push(cell(&mut *contenders[who], &records, time)?);
            }
        }
    }
    Ok(measured)
}

fn cell(contender: &mut dyn Contender, records: &[Vec<u8>], time: Duration) -> Result<Cell, Failure> {
    let mut latencies = Histogram::<u64>::new(3)?;
    for _ in 0..20 {
        contender.commit(records)?;
    }
    let started = Instant::now();
    let mut before = started;
    while before - started < time {
        contender.commit(records)?;
        let after = Instant::now();
        latencies.record(u64::try_from((after - before).as_nanos())?)?;
        before = after;
    }
    let seconds = (before - started).as_secs_f64();
    Ok(Cell {
        commits_per_second: latencies.len() as f64 / seconds,
        p99_us: latencies.value_at_quantile(0.99) as f64 / 1e3,
    })
}

impl Measured {
    /// One line a size and contender, and below it what was aimed at.
    pub fn table(&self) -> String {
        let rounds = self.cells.first().map_or(0, |cells| cells[BARE].len());
        let mut text = format!(
            "Commits of records of {RECORD_BYTES} bytes, one writer; medians of {rounds} interleaved rounds.\n\n\
             | records | bytes | contender | commits/s | min-max | p99 us | ratio to bare | min-max |\n|---|---|---|---|---|---|---|---|\n"
        );
        let mut aims = String::new();
        for (size, cells) in self.sizes.iter().zip(&self.cells) {
            let ratio = |who: usize| -> Vec<f64> {
                let pairs = cells[who].iter().zip(&cells[BARE]);
                pairs.map(|(cell, bare)| cell.commits_per_second / bare.commits_per_second).collect()
            };
            for (who, name) in NAMES.iter().enumerate() {
                let rates: Vec<f64> = cells[who].iter().map(|cell| cell.commits_per_second).collect();
                let p99: Vec<f64> = cells[who].iter().map(|cell| cell.p99_us).collect();
                let (ratios, bytes) = (ratio(who), commit_bytes(*size));
                line(
                    &mut text,
                    format_args!(
                        "| {size} | {bytes} | {name} | {:.0} | {} | {:.0} | {:.2} | {} |",
                        median(&rates),
                        spread(&rates, 0),
                        median(&p99),
                        median(&ratios),
                        spread(&ratios, 2)
                    ),
                );
            }
            let (ours, okay) = (median(&ratio(OURS)), OKAY.map(|who| median(&ratio(who))));
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64], digits: usize) -> String {
    let (least, most) =
        values.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), &value| (least.min(value), most.max(value)));
    format!("{least:.digits$}-{most:.digits$}")
}
