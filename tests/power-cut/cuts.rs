//! The same disk through all cuts: nothing that was acknowledged may be missing, no id may come twice.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::machine::{self, Guest, Machine};
use crate::support::from_env;
use crate::support::load::{Load, RestartTimes};
use crate::{cut_under_load, seed, settings};

/// One start in so many is cut short.
const STARTS_PER_CUT: u32 = 4;
/// Longer than most starts.
const START_MS: u64 = 1_500;

/// From so many cuts on, segments must have been trimmed and their files used again, or the rig has not seen it.
const CYCLES_THAT_TRIM: u64 = 50;

/// What the cuts amounted to.
#[derive(Debug, Default)]
struct Figures {
    under_load: u64,
    in_starts: u64,
    restarts: RestartTimes,
    segments_started: usize,
    segments_reused: usize,
    segments_trimmed: usize,
    torn_writes: usize,
}

impl Figures {
    /// Reads what a guest logged; it must not have raised an alarm.
    fn read(&mut self, lines: &[String]) {
        let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        self.segments_started += count("segment started");
        self.segments_reused += count("\"reused\":true");
        self.segments_trimmed += count("segment trimmed");
        self.torn_writes += count("torn write cut off");
        let alarms = machine::alarms(lines, &[]);
        assert!(alarms.is_empty(), "nobody announced: {alarms:#?}");
    }

    fn print(&self, load: &Load, elapsed: Duration) {
        let (acknowledged, lost, twice) =
            load.with(|ledger| (ledger.acknowledged_count(), ledger.lost_count(), ledger.given_twice_count()));
        let (p50, max) = self.restarts.p50_and_max();
        let Self { under_load, in_starts, segments_started, segments_reused, segments_trimmed, torn_writes, .. } = self;
        println!("power cuts under load      {under_load}");
        println!("power cuts during a start  {in_starts}");
        println!("acknowledged               {acknowledged}");
        println!("lost                       {lost}");
        println!("ids given twice            {twice}");
        println!("promises broken in all     {}", load.broken().len());
        println!(
            "segments                   {segments_started} rotated, {segments_reused} of them into used files, {segments_trimmed} trimmed"
        );
        println!("torn writes cut off        {torn_writes}");
        println!("ready after a cut, p50     {:.0} ms", p50.as_secs_f64() * 1e3);
        println!("ready after a cut, max     {:.0} ms", max.as_secs_f64() * 1e3);
        println!("took                       {:.0} s", elapsed.as_secs_f64());
    }
}

/// Switches the machine on until the broker is ready; some starts are cut short.
async fn start(machine: &Machine, figures: &mut Figures, random: &mut StdRng) -> Guest {
    while random.random_range(0..STARTS_PER_CUT) == 0 {
        let guest = machine.boot();
        guest.booted().await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..=START_MS))).await;
        figures.in_starts += 1;
        figures.read(&guest.cut().await);
    }
    let guest = machine.boot();
    let ready = guest.ready().await.unwrap_or_else(|refused| panic!("{refused}"));
    figures.restarts.add(ready);
    guest
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_in_a_power_cut() {
    let (seed, cycles, started) = (seed(), from_env("WALCAST_CUT_CYCLES", 200), Instant::now());
    let mut random = StdRng::seed_from_u64(seed);
    let (load, mut figures) = (Load::new(seed), Figures::default());
    // Small enough that segments are finished, trimmed and used again within a few cycles.
    let machine = Machine::new(settings("256KiB"));
    let mut guest = machine.boot();
    guest.ready().await.expect("a broker with an empty disk starts");
    let mut next = Load::first_ids();
    while figures.under_load < cycles && load.broken().is_empty() {
        let lines = cut_under_load(guest, &load, &mut random).await;
        figures.under_load += 1;
        figures.read(&lines);
        guest = start(&machine, &mut figures, &mut random).await;
        next = load.judge(guest.grpc(), next).await;
        if figures.under_load.is_multiple_of(10) {
            let acknowledged = load.with(|ledger| ledger.acknowledged_count());
            println!(
                "{} cuts, {:.0} s: {acknowledged} acknowledged",
                figures.under_load,
                started.elapsed().as_secs_f64()
            );
        }
    }
    if load.broken().is_empty() {
        load.is_taken_by(guest.grpc(), guest.admin(), &next).await;
        // Once more from the first id on: what was there after its own cut is there after all of them.
        load.judge(guest.grpc(), Load::first_ids()).await;
    }
    figures.read(&guest.cut().await);
    figures.print(&load, started.elapsed());
    assert_eq!(load.broken(), [""; 0], "after cut {} of seed {seed}", figures.under_load);
    let acknowledged = load.with(|ledger| ledger.acknowledged_count()) as u64;
    assert!(acknowledged > cycles * 10, "the load was on");
    if cycles >= CYCLES_THAT_TRIM {
        assert!(figures.segments_reused > 0, "no segment was written into a used file");
        assert!(figures.segments_trimmed > 0, "no segment was trimmed");
    }
}
