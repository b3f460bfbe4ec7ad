//! The rounds of the comparison.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::figures::{Figure, Kind, Results};
use crate::servers::{Servers, blocking};
use crate::{CompareArguments, Failure, expiry, lag, projection, report};

/// How much of everything.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Rows that are written first in each round and not measured.
    pub warm_up_rows: u64,
    /// Rows with small bodies: a second or more of the quickest store.
    pub small_rows: u64,
    /// Rows with large bodies.
    pub large_rows: u64,
    /// Messages of the subject that is read from its beginning.
    pub catch_up: u64,
    /// Fetches with cold caches, and as many with warm ones: the 99th percentile is the mean of the worst ten or so.
    pub cold_fetches: usize,
    /// How often the same fetches are made again before they count as warm: a Java machine compiles meanwhile.
    pub warm_ups: usize,
    /// How long publishing as fast as possible is measured.
    pub capacity_seconds: u64,
    /// How long half load is measured.
    pub lag_seconds: u64,
    /// How long publishes are measured of which the database is there for the first second only.
    pub kill_seconds: u64,
    /// Rows that expire at once.
    pub expiring_rows: u64,
    /// How long those of Cassandra live: a short time, because they cannot be told that it is later.
    pub ttl_seconds: u64,
}

impl Sizes {
    const FULL: Self = Self {
        warm_up_rows: 60_000,
        small_rows: 300_000,
        large_rows: 40_000,
        catch_up: 100_000,
        cold_fetches: 1_000,
        warm_ups: 5,
        capacity_seconds: 3,
        lag_seconds: 10,
        kill_seconds: 8,
        expiring_rows: 1_000_000,
        ttl_seconds: 60,
    };
    const QUICK: Self = Self {
        warm_up_rows: 10_000,
        small_rows: 30_000,
        large_rows: 4_000,
        catch_up: 10_000,
        cold_fetches: 200,
        warm_ups: 1,
        capacity_seconds: 1,
        lag_seconds: 3,
        kill_seconds: 3,
        expiring_rows: 50_000,
        ttl_seconds: 10,
    };
}

/// Where the figures are kept for another report.
fn results_file(quick: bool) -> PathBuf {
    let name = if quick { "stores-quick.json" } else { "stores.json" };
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// All rounds of all stores, and the report.
///
/// # Errors
/// Whatever went wrong.
pub async fn run(arguments: &CompareArguments) -> Result<(), Failure> {
    let sizes = if arguments.quick { Sizes::QUICK } else { Sizes::FULL };
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 3 });
    let begun = Instant::now();
    let servers = blocking(|| Servers::start(&arguments.stores));
    let settings = servers.settings().await?;
    let mut results =
        Results { quick: arguments.quick, settings, expiring_rows: sizes.expiring_rows, ..Results::default() };
    for round in 1..=rounds {
        for kind in arguments.stores.iter().copied() {
            let say = |what: &str| println!("{:5.0} s  round {round}, {kind}: {what}", begun.elapsed().as_secs_f64());
            say("projection, catch-up, Fetch");
            projection::round(kind, &servers, &sizes, &mut results).await?;
            say("half load, kill");
            lag::with_broker(kind, &servers, &sizes, &mut results, round == 1).await?;
            // Once: a million rows take Cassandra minutes, and the others differ by less than a look at the disk.
            if round == 1 {
                say("expiry");
                expiry::once(kind, &servers, &sizes, &mut results).await?;
            }
            results.save(&results_file(arguments.quick))?;
        }
    }
    println!("{:5.0} s  done", begun.elapsed().as_secs_f64());
    report(arguments)
}

/// The report of the last run.
///
/// # Errors
/// There was none, the page cannot be written, or lag is above its bound.
pub fn report(arguments: &CompareArguments) -> Result<(), Failure> {
    let file = results_file(arguments.quick);
    let results = Results::load(&file).map_err(|error| format!("the figures of a run, {}: {error}", file.display()))?;
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stores.md");
    let page = match (&arguments.report, arguments.quick) {
        (Some(page), _) => page.clone(),
        (None, false) => own,
        // Figures that mean nothing must not take the place of those that do.
        (None, true) => {
            let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stores.md");
            std::fs::copy(&own, &copy)?;
            copy
        }
    };
    report::compared(&results, &page)?;
    println!("written: {}", page.display());
    for kind in Kind::ALL {
        if let Some(lag) = results.of(kind, Figure::LagP99Millis).filter(|lag| lag.median >= LAG_P99_MAX_MILLIS) {
            return Err(format!("{kind}: lag p99 at half load is {:.0} ms, the bound is 1 s", lag.median).into());
        }
    }
    Ok(())
}

/// The bound of lag at half load.
const LAG_P99_MAX_MILLIS: f64 = 1_000.0;
