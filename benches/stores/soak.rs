//! Messages come at a steady rate and expire: the tables of Postgres must stay as large as they are.

use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::Failure;
use crate::broker::{Broker, Pace};
use crate::figures::Kind;
use crate::places::Place;
use crate::servers::{Servers, blocking};

/// Time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Samples of this time are judged by the largest of them: a partition of messages that live a minute ends every 15 s and one is
/// dropped about every 10 s, so each minute has high and low water of both.
const WINDOW_SECONDS: f64 = 60.0;

/// After the life time of the first messages and this, partitions are dropped as fast as they are made.
const SETTLE_SECONDS: f64 = 60.0;

/// What the largest size of a later window may be of the first one's. Size follows the live rows, whose number differs by what one
/// partition holds (15 s of some 90) and by when samples fall; growth that matters is more than that over eight windows.
const GROWTH_MAX: f64 = 1.1;

/// How much for how long.
#[derive(Debug, Clone, Args)]
pub struct SoakArguments {
    /// Seconds of publishing.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Publishes a second.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// Life time of the messages in seconds.
    #[arg(long, default_value_t = 60)]
    expires: u64,
    /// Keeps a lock, as a report that never ends does, so that no partition can be dropped: fails if that is not found out.
    #[arg(long)]
    pub control: bool,
}

/// What the partitions take.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sample {
    /// Since the load began.
    pub seconds: f64,
    /// Rows, with what lies beside them.
    pub table_bytes: u64,
    /// Indexes.
    pub index_bytes: u64,
    /// The whole database, with the catalogue, which has to forget partitions too.
    pub database_bytes: u64,
    /// How many partitions.
    pub partitions: u64,
}

/// What a run gave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Soak {
    /// Publishes a second.
    pub rate: u32,
    /// Life time in seconds.
    pub expires: u64,
    /// In the order of time.
    pub samples: Vec<Sample>,
}

/// The sizes of a window beside the first one's.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Where it begins, in seconds.
    pub from: f64,
    /// The largest table, index and database in it.
    pub largest: [u64; 3],
    /// The greatest of the three, each as a part of the first window's.
    pub growth: f64,
}

impl Soak {
    /// From the first window after settling on. Only whole ones.
    pub fn windows(&self) -> Vec<Window> {
        let end = self.samples.last().map_or(0.0, |sample| sample.seconds);
        let mut windows: Vec<Window> = Vec::new();
        let mut from = self.expires as f64 + SETTLE_SECONDS;
        // The last sample is a little late or early.
        while from + WINDOW_SECONDS <= end + 1.0 {
            let within = self.samples.iter().filter(|sample| (from..from + WINDOW_SECONDS).contains(&sample.seconds));
            let largest = within.fold([0; 3], |[table, index, database], sample| {
                [table.max(sample.table_bytes), index.max(sample.index_bytes), database.max(sample.database_bytes)]
            });
            let first = windows.first().map_or(largest, |window| window.largest);
            let growth = largest.iter().zip(first).map(|(now, then)| *now as f64 / then.max(1) as f64);
            windows.push(Window { from, largest, growth: growth.fold(0.0, f64::max) });
            from += WINDOW_SECONDS;
        }
        windows
    }

    /// Whether no window is larger than the first one may let it be; None if there is nothing to compare.
    pub fn is_flat(&self) -> Option<bool> {
        let windows = self.windows();
        (windows.len() > 1).then(|| windows.iter().all(|window| window.growth <= GROWTH_MAX))
    }

    /// The bound, for people.
    pub const fn growth_max() -> f64 {
        GROWTH_MAX
    }
}

/// Publishes, samples, judges.
///
/// # Errors
/// The sizes are not flat, or flat in the control; a publish failed; rows are missing.
pub async fn run(arguments: &SoakArguments) -> Result<Soak, Failure> {
    let least = arguments.expires + SETTLE_SECONDS as u64 + 2 * WINDOW_SECONDS as u64;
    if arguments.seconds < least {
        return Err(format!("{} s are too short: two windows after settling need {least} s", arguments.seconds).into());
    }
    let servers = blocking(|| Servers::start(&[Kind::Postgres]));
    let place = Place::new(Kind::Postgres, &servers).await?;
    let broker = Broker::start(&place)?;
    broker.drained().await?;
    let admin = servers.postgres()?.client(place.database()?).await;
    let reader = servers.postgres()?.client(place.database()?).await;
    if arguments.control {
        reader.batch_execute("BEGIN; LOCK TABLE walcast.messages IN ACCESS SHARE MODE").await?;
    }
    let mut soak = Soak { rate: arguments.rate, expires: arguments.expires, samples: Vec::new() };
    println!("seconds   tables MiB   indexes MiB   database MiB   partitions");
    let life = format!("{}s", arguments.expires);
    let load = broker.publish(Pace::Open(arguments.rate), arguments.seconds, &life);
    let (load, sampled) = tokio::join!(load, sample(&admin, arguments.seconds, &mut soak.samples));
    sampled?;
    let load = load?;
    judge(arguments, &soak, &load, live(&admin).await?)?;
    Ok(soak)
}

fn judge(arguments: &SoakArguments, soak: &Soak, load: &crate::broker::Load, live: u64) -> Result<(), Failure> {
    println!("{:.0} publishes/s, {} failed, {live} rows live at the end", load.rate, load.failures());
    // Fewer rows than that, and flat means nothing.
    let live_min = f64::from(arguments.rate) * arguments.expires as f64 * 0.9;
    if load.failures() > 0 || (live as f64) < live_min {
        return Err(format!(
            "{} publishes failed; {live} rows are live, at least {live_min:.0} must be",
            load.failures()
        )
        .into());
    }
    for window in soak.windows() {
        println!("from {:4.0} s on: {:.2} of the first window", window.from, window.growth);
    }
    match (soak.is_flat(), arguments.control) {
        (Some(true), false) => println!("flat: no window is above {GROWTH_MAX} of the first"),
        (Some(false), true) => println!("not flat, as it must be while nothing can be dropped"),
        (Some(false), false) => return Err(format!("not flat: a window is above {GROWTH_MAX} of the first").into()),
        (Some(true), true) => return Err("flat, although nothing could be dropped: this measures nothing".into()),
        (None, _) => return Err("too short: there are no two windows to compare".into()),
    }
    Ok(())
}

async fn live(admin: &Client) -> Result<u64, Failure> {
    let live = "SELECT count(*) FROM walcast.messages WHERE expires_at > now()";
    Ok(u64::try_from(admin.query_one(live, &[]).await?.get::<_, i64>(0))?)
}

async fn sample(admin: &Client, seconds: u64, samples: &mut Vec<Sample>) -> Result<(), Failure> {
    // A partition that goes meanwhile has no size.
    let sizes = "SELECT coalesce(sum(pg_table_size(inhrelid)), 0)::bigint, coalesce(sum(pg_indexes_size(inhrelid)), 0)::bigint, \
                 pg_database_size(current_database()), count(*) \
                 FROM pg_inherits WHERE inhparent = 'walcast.messages'::regclass";
    let begun = Instant::now();
    for number in 1..=seconds / SAMPLE_EVERY.as_secs() {
        let at = begun + SAMPLE_EVERY * u32::try_from(number)?;
        tokio::time::sleep_until(at.into()).await;
        let row = admin.query_one(sizes, &[]).await?;
        let bytes = |column| u64::try_from(row.get::<_, i64>(column));
        let found = Sample {
            seconds: begun.elapsed().as_secs_f64(),
            table_bytes: bytes(0)?,
            index_bytes: bytes(1)?,
            database_bytes: bytes(2)?,
            partitions: bytes(3)?,
        };
        let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
        println!(
            "{:7.0} {:12.1} {:13.1} {:14.1} {:12}",
            found.seconds,
            mib(found.table_bytes),
            mib(found.index_bytes),
            mib(found.database_bytes),
            found.partitions
        );
        samples.push(found);
    }
    Ok(())
}
