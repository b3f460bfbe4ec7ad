//! Simulation: the real log, committer, releaser and ids under a seeded file system that crashes, fails, fills up and
//! rots. One thread, no clock and no chance but the seed, so that a seed is a run.
//!
//! `make sim SEEDS=10000` runs many seeds; `make sim SEED=17` runs one and prints what happens in it.

mod node;
mod oracle;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use super::CommitterMetrics;
use crate::telemetry::{Metrics, Traces};
use crate::wal::sim::Pretend;
use world::{Report, World};

/// Seeds of a run without `WALCAST_SIM_SEEDS`.
const SEEDS: u64 = 1_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number of seeds, or a seed"))
}

fn metrics() -> CommitterMetrics {
    let metrics = Metrics::new("test");
    CommitterMetrics { ingest: metrics.ingest, wal: metrics.wal, traces: Traces::off() }
}

/// One run; its trace comes with it.
fn run(seed: u64, pretend: Pretend, metrics: &CommitterMetrics) -> (Result<Report, String>, Vec<String>) {
    let mut world = World::new(seed, pretend, metrics.clone());
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|_| Err("it panicked".to_owned()));
    (outcome, world.trace)
}

#[test]
fn no_seed_loses_doubles_or_invents_a_message() {
    if let Some(seed) = setting("WALCAST_SIM_SEED") {
        let (outcome, trace) = run(seed, Pretend::Nothing, &metrics());
        println!("{}", trace.join("\n"));
        println!("seed {seed}: {:?}", outcome.expect("the seed goes well"));
        return;
    }
    let (seeds, from) = (setting("WALCAST_SIM_SEEDS").unwrap_or(SEEDS), setting("WALCAST_SIM_FROM").unwrap_or(0));
    let (next, failed, total) = (AtomicU64::new(from), Mutex::new(Vec::new()), Mutex::new(Report::default()));
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let metrics = metrics();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    match run(seed, Pretend::Nothing, &metrics).0 {
                        Ok(report) => add(&mut total.lock(), &report),
                        Err(error) => failed.lock().push(format!("seed {seed}: {error}")),
                    }
                }
            });
        }
    });
    let elapsed = started.elapsed().as_secs_f64();
    println!(
        "simulation: seeds {from} to {}, {:.0} a minute: {:?}, failed {}",
        from + seeds - 1,
        seeds as f64 / elapsed * 60.0,
        total.lock(),
        failed.lock().len()
    );
    let mut failed = failed.into_inner();
    failed.sort();
    failed.truncate(10);
    assert!(failed.is_empty(), "make sim SEED=n repeats one:\n{}", failed.join("\n"));
    let total = total.into_inner();
    let faults = [total.power_cuts, total.errors_armed, total.bits_flipped, total.refusals_for_room];
    let something = [&faults[..], &[total.retries, total.conflicts]].concat();
    assert!(seeds < 100 || !something.contains(&0), "not everything was tried: {total:?}");
}

fn add(total: &mut Report, report: &Report) {
    total.acknowledged += report.acknowledged;
    total.restarts += report.restarts;
    total.power_cuts += report.power_cuts;
    total.errors_armed += report.errors_armed;
    total.bits_flipped += report.bits_flipped;
    total.refusals_for_room += report.refusals_for_room;
    total.retries += report.retries;
    total.conflicts += report.conflicts;
    total.operations += report.operations;
}

#[test]
fn a_seed_is_a_run() {
    let metrics = metrics();
    let mut fingerprints = std::collections::BTreeSet::new();
    for seed in 1_000..1_020 {
        let (first, trace) = run(seed, Pretend::Nothing, &metrics);
        let (second, same_trace) = run(seed, Pretend::Nothing, &metrics);
        assert_eq!(trace, same_trace, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
        fingerprints.insert(first.expect("the seed goes well").fingerprint);
    }
    assert_eq!(fingerprints.len(), 20, "every seed is another run");
}

/// The control: what is found when the disk does not do what it says.
#[test]
fn a_disk_that_lies_about_sync_is_found_out() {
    let metrics = metrics();
    for pretend in [Pretend::SyncData, Pretend::SyncDir] {
        let found: Vec<String> = (0..60).filter_map(|seed| run(seed, pretend, &metrics).0.err()).collect();
        let lost = found.iter().filter(|error| error.starts_with("lost:") || error.contains("refuses")).count();
        println!("control, {pretend:?}: {} of 60 seeds fail, {lost} of them for lost messages or files", found.len());
        assert!(lost > 0, "{pretend:?} goes unnoticed: {found:?}");
    }
}
