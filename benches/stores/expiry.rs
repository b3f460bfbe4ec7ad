//! Many rows expire at once: how soon the disk has their space back, what that costs, and what it does to other work.
//!
//! In embedded and Postgres the rows come late: they were published two hours ago, and have expired when they are written. Cassandra
//! keeps a row for its life time from the write on, an hour and `gc_grace_seconds`, so there the rows go into a second table, which has
//! the columns and options of the first but a short TTL, no grace, short windows, and a flush and a check for files that have
//! expired each second.

mod second_table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use walcast::event::{UnixMicros, clock};
use walcast::projector::Store;

use crate::Failure;
use crate::compare::Sizes;
use crate::figures::{Figure, Kind, Results, quantile};
use crate::places::Place;
use crate::processes;
use crate::rows::{Run, SUBJECTS};
use crate::servers::Servers;
use crate::support::PATIENCE;

/// Rows that stay, and are fetched meanwhile.
const STAYING: u64 = 2_000;

/// Life time of the others, in seconds.
const LIFE_SECONDS: i32 = 3_600;

/// When they were published, in microseconds before now: they have expired, and so has all that may lie in a bucket with them, which
/// ends half a life time later at most.
const AGO_MICROS: i64 = 2 * LIFE_SECONDS as i64 * 1_000_000;

/// How long fetches are measured before, and at least meanwhile.
const FETCHING: Duration = Duration::from_secs(2);

/// Time between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Space counts as given back when this part of what the rows took is left.
const LEFT: f64 = 0.1;

/// How many of the rows are looked for.
const LOOKED_FOR: u64 = 100;

/// One store.
///
/// # Errors
/// The store fails, has rows that must be gone, or has lost some that must stay.
pub async fn once(kind: Kind, servers: &Servers, sizes: &Sizes, results: &mut Results) -> Result<(), Failure> {
    let place = Place::new(kind, servers).await?;
    let mut store = place.open().await?;
    let (staying, going) = runs(sizes);
    write(&store, &staying, clock::now()).await?;
    let empty = place.disk_bytes().await?;
    let published_at = UnixMicros::from_micros(clock::now().as_micros() - AGO_MICROS);
    match kind {
        Kind::Embedded | Kind::Postgres => write(&store, &going, published_at).await?,
        Kind::Cassandra => second_table::write(&place, &going, sizes.ttl_seconds).await?,
    }
    if kind == Kind::Embedded {
        // Its last rows are in journals, which are as large whatever they hold: they go into its tables first.
        drop(store);
        place.flush_embedded()?;
        store = place.open().await?;
    }
    let full = place.disk_bytes().await?;
    if full < empty + going.count * 200 {
        return Err(format!("{kind}: {} rows took {} bytes of the disk", going.count, full - empty).into());
    }
    if kind != Kind::Cassandra {
        // Or nothing would tell that they are gone later; the second table looks for itself.
        all_are(true, &place, &store, &going, published_at).await?;
    }
    let before = Fetching::start(&store, &staying).for_a_while().await?;

    let pid = servers.pid(kind)?;
    let cpu = processes::cpu_seconds(pid)?;
    let fetching = Fetching::start(&store, &staying);
    let begun = Instant::now();
    let left = given_back(&place, &store, empty + ((full - empty) as f64 * LEFT) as u64).await?;
    results.add(kind, Figure::ExpirySeconds, begun.elapsed().as_secs_f64());
    results.add(kind, Figure::ExpiryCpuSeconds, processes::cpu_seconds(pid)? - cpu);
    let during = fetching.for_a_while().await?;
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    results.add(kind, Figure::ExpiryMiBBefore, mib(full));
    results.add(kind, Figure::ExpiryMiBAfter, mib(left));
    results.add(kind, Figure::ExpiryFetchP99BeforeMicros, before);
    results.add(kind, Figure::ExpiryFetchP99DuringMicros, during);
    all_are(false, &place, &store, &going, published_at).await?;
    Fetching::all(&store, &staying).await
}

/// The rows that stay, and those that go.
fn runs(sizes: &Sizes) -> (Run, Run) {
    let staying = Run {
        previous: 0,
        count: STAYING,
        body_bytes: 256,
        life_seconds: 30 * 24 * 3_600,
        subjects: "staying",
        subject_count: SUBJECTS,
    };
    let going = Run {
        previous: staying.end(),
        count: sizes.expiring_rows,
        life_seconds: LIFE_SECONDS,
        subjects: "going",
        ..staying
    };
    (staying, going)
}

async fn write(store: &Arc<dyn Store>, run: &Run, published_at: UnixMicros) -> Result<(), Failure> {
    for batch in run.batches_of(published_at)? {
        store.apply(&batch).await?;
    }
    Ok(())
}

/// Waits until no more than `enough` bytes are on the disk, and gives how many there are.
async fn given_back(place: &Place<'_>, store: &Arc<dyn Store>, enough: u64) -> Result<u64, Failure> {
    let begun = Instant::now();
    let mut pokes = 0;
    loop {
        match place.kind() {
            Kind::Embedded | Kind::Postgres => store.expire(clock::now()).await?,
            Kind::Cassandra if begun.elapsed().as_secs() >= pokes => {
                second_table::poke(place, pokes).await?;
                pokes += 1;
            }
            Kind::Cassandra => {}
        }
        let left = place.disk_bytes().await?;
        if left <= enough {
            return Ok(left);
        }
        if begun.elapsed() > PATIENCE {
            let kind = place.kind();
            return Err(
                format!("{kind}: {left} bytes are still there {PATIENCE:?} after everything has expired").into()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether rows all over the run are there, or are not.
async fn all_are(
    there: bool,
    place: &Place<'_>,
    store: &Arc<dyn Store>,
    run: &Run,
    published_at: UnixMicros,
) -> Result<(), Failure> {
    // At a time at which they were live: the row itself is there or gone.
    let then = published_at.plus_seconds(1);
    for number in (0..run.count).step_by(usize::try_from(run.count / LOOKED_FOR)?) {
        let (subject, id) = run.key(number)?;
        let found = match place.kind() {
            Kind::Embedded | Kind::Postgres => store.fetch(&subject, id, then).await?.is_some(),
            Kind::Cassandra => second_table::is_there(place, &subject, id).await?,
        };
        if found != there {
            let subject = subject.as_str();
            return Err(format!("{}: message {id} of {subject}: found is {found}", place.kind()).into());
        }
    }
    Ok(())
}

/// One reader that fetches rows that stay, one after the other.
struct Fetching {
    stop: Arc<AtomicBool>,
    reader: tokio::task::JoinHandle<Result<Vec<f64>, Failure>>,
}

impl Fetching {
    fn start(store: &Arc<dyn Store>, run: &Run) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (store, run, asked) = (Arc::clone(store), run.clone(), Arc::clone(&stop));
        let reader = tokio::spawn(async move {
            let mut times = Vec::new();
            let mut number = 0;
            while !asked.load(Ordering::Relaxed) {
                number = (number + 7_919) % run.count;
                let (subject, id) = run.key(number)?;
                let begun = Instant::now();
                if store.fetch(&subject, id, clock::now()).await?.is_none() {
                    return Err(format!("message {id} of {} is gone", subject.as_str()).into());
                }
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            times.sort_by(f64::total_cmp);
            Ok(times)
        });
        Self { stop, reader }
    }

    /// The 99th percentile in microseconds, when some time has passed.
    async fn for_a_while(self) -> Result<f64, Failure> {
        tokio::time::sleep(FETCHING).await;
        self.stop.store(true, Ordering::Relaxed);
        let times = self.reader.await??;
        quantile(&times, 0.99).ok_or_else(|| "nothing was fetched".into())
    }

    /// Whether all rows are there.
    async fn all(store: &Arc<dyn Store>, run: &Run) -> Result<(), Failure> {
        for number in 0..run.count {
            let (subject, id) = run.key(number)?;
            if store.fetch(&subject, id, clock::now()).await?.is_none() {
                return Err(format!("message {id} of {} was live and is gone", subject.as_str()).into());
            }
        }
        Ok(())
    }
}
