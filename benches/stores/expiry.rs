//! Many rows expire at once: how soon the disk has their space back, what that costs, and what it does to other work.
//!
//! Embedded and Postgres are told that it is later. Cassandra goes by its own clock and keeps a row for an hour and
//! `gc_grace_seconds` longer, so there the rows go into a second table, which has the columns and options of the first but a short
//! TTL, no grace, and a check for files that have expired at each chance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use walcast::event::clock;
use walcast::projector::Store;

use crate::Failure;
use crate::compare::Sizes;
use crate::figures::{Figure, Kind, Results, quantile};
use crate::harness;
use crate::places::Place;
use crate::processes;
use crate::rows::{Run, SUBJECTS};
use crate::servers::Servers;
use crate::support::PATIENCE;

/// Rows that stay, and are fetched meanwhile.
const STAYING: u64 = 2_000;

/// How long fetches are measured before, and at least meanwhile.
const FETCHING: Duration = Duration::from_secs(2);

/// Time between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Space counts as given back when this part of what the rows took is left.
const LEFT: f64 = 0.1;

/// Inserts in flight, as the store has.
const IN_FLIGHT: usize = 256;

/// One store.
///
/// # Errors
/// The store fails, has rows that must be gone, or has lost some that must stay.
pub async fn once(kind: Kind, servers: &Servers, sizes: &Sizes, results: &mut Results) -> Result<(), Failure> {
    let place = Place::new(kind, servers).await?;
    let mut store = place.open().await?;
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
        life_seconds: 3_600,
        subjects: "going",
        ..staying.clone()
    };
    write(&store, &staying).await?;
    let empty = place.disk_bytes().await?;
    match kind {
        Kind::Embedded | Kind::Postgres => write(&store, &going).await?,
        Kind::Cassandra => write_with_ttl(&place, &going, sizes.ttl_seconds).await?,
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
    let before = Fetching::start(&store, &staying).for_a_while().await?;

    let pid = servers.pid(kind)?;
    let cpu = processes::cpu_seconds(pid)?;
    let fetching = Fetching::start(&store, &staying);
    let begun = Instant::now();
    let enough = empty + ((full - empty) as f64 * LEFT) as u64;
    let mut pokes = 0;
    let left = loop {
        match kind {
            Kind::Embedded | Kind::Postgres => store.expire(clock::now().plus_seconds(2 * 3_600)).await?,
            Kind::Cassandra if begun.elapsed().as_secs() >= pokes => {
                // Compaction looks around after a flush, and a flush wants something to write.
                poke(&place, pokes).await?;
                pokes += 1;
            }
            Kind::Cassandra => {}
        }
        let left = place.disk_bytes().await?;
        if left <= enough {
            break left;
        }
        if begun.elapsed() > PATIENCE {
            return Err(
                format!("{kind}: {left} bytes are still there {PATIENCE:?} after everything has expired").into()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    results.add(kind, Figure::ExpirySeconds, begun.elapsed().as_secs_f64());
    results.add(kind, Figure::ExpiryCpuSeconds, processes::cpu_seconds(pid)? - cpu);
    let during = fetching.for_a_while().await?;
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    results.add(kind, Figure::ExpiryMiBBefore, mib(full));
    results.add(kind, Figure::ExpiryMiBAfter, mib(left));
    results.add(kind, Figure::ExpiryFetchP99BeforeMicros, before);
    results.add(kind, Figure::ExpiryFetchP99DuringMicros, during);
    must_be_gone(&place, &store, &going).await?;
    Fetching::all(&store, &staying).await
}

async fn write(store: &Arc<dyn Store>, run: &Run) -> Result<(), Failure> {
    for batch in run.batches()? {
        store.apply(&batch).await?;
    }
    Ok(())
}

/// Into a table like the first one, and waits until the last row has expired.
async fn write_with_ttl(place: &Place<'_>, run: &Run, ttl_seconds: u64) -> Result<(), Failure> {
    let place = place.keyspace()?;
    let keyspace = &place.config.keyspace;
    let session = harness::operator(&place.config).await;
    let table = format!(
        "CREATE TABLE {keyspace}.expiring (subject text, bucket int, id int, published_at timestamp, \
         published_at_micros smallint, expiration_seconds int, expires_at timestamp, body blob, \
         PRIMARY KEY ((subject, bucket), id)) WITH gc_grace_seconds = 0 AND memtable_flush_period_in_ms = 1000 \
         AND compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', \
         'compaction_window_size': '1', 'expired_sstable_check_frequency_seconds': '1'}}"
    );
    harness::execute(&session, &table).await;
    let insert = format!(
        "INSERT INTO {keyspace}.expiring (subject, bucket, id, body) VALUES (?, ?, ?, ?) USING TTL {ttl_seconds}"
    );
    let insert = session.prepare(insert).await?;
    for batch in run.batches()? {
        let inserts = batch.rows.iter().map(|row| {
            let id = row.id.to_wire();
            let values = (row.subject.as_str(), id / 4_096, id, &*row.body);
            session.execute_unpaged(&insert, values)
        });
        // Each is made where it is awaited.
        stream::iter(inserts).buffer_unordered(IN_FLIGHT).try_for_each(|_| async { Ok(()) }).await?;
    }
    tokio::time::sleep(Duration::from_secs(ttl_seconds + 1)).await;
    Ok(())
}

async fn poke(place: &Place<'_>, number: u64) -> Result<(), Failure> {
    let place = place.keyspace()?;
    let session = harness::operator(&place.config).await;
    let keyspace = &place.config.keyspace;
    harness::execute(
        &session,
        &format!("INSERT INTO {keyspace}.expiring (subject, bucket, id) VALUES ('poke', 0, {number})"),
    )
    .await;
    Ok(())
}

async fn must_be_gone(place: &Place<'_>, store: &Arc<dyn Store>, run: &Run) -> Result<(), Failure> {
    for number in (0..run.count).step_by(usize::try_from(run.count / 100)?) {
        let (subject, id) = run.key(number)?;
        let is_there = match place.kind() {
            // At a time at which it is live: the row itself is gone.
            Kind::Embedded | Kind::Postgres => store.fetch(&subject, id, clock::now()).await?.is_some(),
            Kind::Cassandra => {
                let place = place.keyspace()?;
                let session = harness::operator(&place.config).await;
                let (keyspace, id) = (&place.config.keyspace, id.to_wire());
                let bucket = id / 4_096;
                let text = format!(
                    "SELECT id FROM {keyspace}.expiring WHERE subject = '{}' AND bucket = {bucket} AND id = {id}",
                    subject.as_str()
                );
                !harness::query::<(i32,)>(&session, &text).await.is_empty()
            }
        };
        if is_there {
            return Err(format!("message {id} of {} is still there", subject.as_str()).into());
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
