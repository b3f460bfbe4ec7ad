//! Runs the rows and prints the table. `FAULTS_VERBOSE` shows the panics of rigs as they happen.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};

use crate::guard::guarded;
use crate::needs::Need;
use crate::rows;
use crate::table::{ControlEnd, Judged, Report, Row, Run, Variant, show};

/// No single run of a rig takes this long, the longest freeze and the reading of everything included.
const RUN_MAX: Duration = Duration::from_secs(240);

/// Rows at once whose figures nobody reads: each has a broker and a disk of its own, and mostly waits.
const AT_ONCE: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What works on any machine.
    Plain,
    /// What `make test` runs.
    Quick,
    /// Everything.
    All,
}

pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let extent = match (has("--all"), has("--quick")) {
        (true, _) => Extent::All,
        (false, true) => Extent::Quick,
        (false, false) => Extent::Plain,
    };
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let mut chosen = rows::all();
    chosen.retain(|row| match extent {
        Extent::All => true,
        // The plain ones have had their turn in `cargo test`, unless they have a control that it does not build.
        Extent::Quick => row.quick && !(row.needs.is_empty() && row.controls.iter().all(|control| !is_broken(control))),
        Extent::Plain => row.quick && row.needs.is_empty(),
    });
    chosen.retain(|row| filters.is_empty() || filters.iter().any(|part| row.name.contains(*part)));
    if has("--list") {
        chosen.iter().for_each(|row| println!("{}: test", row.name));
        return ExitCode::SUCCESS;
    }
    // A panic is a cell of the table; where it comes from is of interest only on demand.
    if std::env::var_os("FAULTS_VERBOSE").is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let started = Instant::now();
    let at_once = if extent == Extent::All { 1 } else { AT_ONCE };
    let running = chosen.iter().enumerate().map(|(place, row)| async move { (place, judge(row, extent).await) });
    let mut judged: Vec<_> = runtime.block_on(stream::iter(running).buffer_unordered(at_once).collect());
    judged.sort_by_key(|(place, _)| *place);
    let judged: Vec<Judged> = judged.into_iter().map(|(_, row)| row).collect();
    let failed = judged.iter().filter(|row| row.failure().is_some()).count();
    let lost: u64 = judged.iter().map(|row| row.report.lost).sum();
    let acknowledged: u64 = judged.iter().map(|row| row.report.acknowledged).sum();
    println!("\n{}\n", show(&judged));
    println!(
        "{} faults, {failed} not as specified or without a failing control; {acknowledged} acknowledged, {lost} lost; {:.0} s",
        judged.len(),
        started.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(failed > 0))
}

async fn judge(row: &Row, extent: Extent) -> Judged {
    let begun = Instant::now();
    let judged = run(row, extent).await;
    let seconds = begun.elapsed().as_secs_f64();
    match judged.failure() {
        None => println!("ok fault: {} ({seconds:.1} s)", judged.name),
        Some(why) => println!("FAILED fault: {}: {why} ({seconds:.1} s)", judged.name),
    }
    for violation in judged.report.violations.iter().skip(1).take(5) {
        println!("    also: {violation}");
    }
    judged
}

async fn run(row: &Row, extent: Extent) -> Judged {
    let thorough = extent == Extent::All;
    let missing = row.needs.iter().find_map(|need| need.missing());
    let report = match missing {
        Some(missing) => Report { violations: vec![missing], ..Report::default() },
        None => match guarded((row.rig)(Run { variant: Variant::Real, thorough }), RUN_MAX).await {
            Ok(report) => report,
            Err(panicked) => Report { violations: vec![panicked], ..Report::default() },
        },
    };
    let mut controls = Vec::new();
    for variant in row.controls.iter().copied() {
        let broken = is_broken(&variant);
        // Without the second build the other controls still count, where nothing else may be asked of the machine.
        if broken && extent == Extent::Plain && row.controls.len() > 1 {
            continue;
        }
        let missing = broken.then_some(Need::Controls).and_then(Need::missing);
        let missing = missing.or_else(|| row.needs.iter().find_map(|need| need.missing()));
        let end = match missing {
            Some(missing) => ControlEnd::NotRun(missing),
            None => match guarded((row.rig)(Run { variant, thorough: false }), RUN_MAX).await {
                Ok(report) => report.violations.into_iter().next().map_or(ControlEnd::Passed, ControlEnd::Caught),
                Err(panicked) => ControlEnd::NotRun(panicked),
            },
        };
        controls.push((variant, end));
    }
    Judged { name: row.name.clone(), report, controls }
}

fn is_broken(control: &Variant) -> bool {
    matches!(control, Variant::Broken(_))
}
