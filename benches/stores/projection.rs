//! Rows into a store through its trait: how fast, and what they take on the disk. Then out of it again: one subject from its
//! beginning, and single messages with cold and warm caches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use walcast::event::{Subject, UnixMicros, clock};
use walcast::projector::Store;

use crate::Failure;
use crate::compare::Sizes;
use crate::figures::{Figure, Kind, Results, quantile};
use crate::places::Place;
use crate::processes;
use crate::rows::{Run, SUBJECTS};
use crate::servers::{Servers, blocking, forget_page_cache};

/// Bytes of small and large bodies.
const SMALL_BYTES: usize = 256;
const LARGE_BYTES: usize = 4 * 1024;

/// Life time of what is written: longer than any run.
const LIFE_SECONDS: i32 = 24 * 3_600;

/// Most messages and bytes that one call of `Store::after` gives.
const PAGE_MESSAGES: usize = 1_000;
const PAGE_BYTES: usize = 1024 * 1024;

/// One round of one store.
///
/// # Errors
/// The store fails, or does not have what was written.
pub async fn round(kind: Kind, servers: &Servers, sizes: &Sizes, results: &mut Results) -> Result<(), Failure> {
    let small = Run {
        previous: 0,
        count: sizes.small_rows,
        body_bytes: SMALL_BYTES,
        life_seconds: LIFE_SECONDS,
        subjects: "orders.europe",
        subject_count: SUBJECTS,
    };
    let alone = Run { previous: 0, count: sizes.catch_up, subjects: "one", subject_count: 1, ..small.clone() };
    let large = Run { previous: 0, count: sizes.large_rows, body_bytes: LARGE_BYTES, ..small.clone() };

    // A Java machine that has just been started compiles meanwhile; the others have the same.
    project(&Place::new(kind, servers).await?, &Run { count: sizes.warm_up_rows, ..small.clone() }).await?;
    let (small_place, alone_place) = (Place::new(kind, servers).await?, Place::new(kind, servers).await?);
    let large_place = Place::new(kind, servers).await?;
    let rate = project(&small_place, &small).await?;
    results.add(kind, Figure::ProjectionSmallRowsPerSecond, rate);
    results.add(kind, Figure::ProjectionLargeRowsPerSecond, project(&large_place, &large).await?);
    project(&alone_place, &alone).await?;
    results.add(kind, Figure::CatchUpMessagesPerSecond, catch_up(&alone_place, &alone).await?);

    // Everything into the tables, and nothing of it in memory.
    small_place.flush_embedded()?;
    large_place.flush_embedded()?;
    blocking(|| servers.stop(kind))?;
    forget_page_cache()?;
    blocking(|| servers.start_again(kind))?;
    fetches(kind, servers, &small_place, &small, sizes, results).await?;
    for (place, run, figure) in [
        (&small_place, &small, Figure::DiskSmallBytesPerMessage),
        (&large_place, &large, Figure::DiskLargeBytesPerMessage),
    ] {
        results.add(kind, figure, place.table_bytes().await? as f64 / run.count as f64);
    }
    Ok(())
}

/// Rows a second. Afterwards every row is read again, and counted.
async fn project(place: &Place<'_>, run: &Run) -> Result<f64, Failure> {
    let store = place.open().await?;
    let batches = run.batches()?;
    let begun = Instant::now();
    for batch in &batches {
        store.apply(batch).await?;
    }
    let rate = run.count as f64 / begun.elapsed().as_secs_f64();
    drop(batches);
    let mut found = 0;
    for number in 0..run.subject_count.min(run.count) {
        found += all_of(&store, &run.key(number)?.0, run.body_bytes).await?;
    }
    if found != run.count {
        return Err(format!("{} has {found} rows of the {} that it took", store.kind(), run.count).into());
    }
    Ok(rate)
}

/// Messages a second of one subject, from its first to its last.
async fn catch_up(place: &Place<'_>, run: &Run) -> Result<f64, Failure> {
    let store = place.open().await?;
    let subject = run.key(0)?.0;
    let begun = Instant::now();
    let found = all_of(&store, &subject, run.body_bytes).await?;
    let rate = found as f64 / begun.elapsed().as_secs_f64();
    if found != run.count {
        return Err(format!("{} gave {found} messages of {}", store.kind(), run.count).into());
    }
    Ok(rate)
}

async fn all_of(store: &Arc<dyn Store>, subject: &Subject, body_bytes: usize) -> Result<u64, Failure> {
    let (mut last, mut found) = (0, 0);
    loop {
        let page = store.after(subject, last, PAGE_MESSAGES, PAGE_BYTES, clock::now()).await?;
        let Some((id, _)) = page.last() else { return Ok(found) };
        last = id.get();
        found += page.len() as u64;
        if page.iter().any(|(_, message)| message.body.len() != body_bytes) {
            return Err(format!("a body of {} is not the one that was written", subject.as_str()).into());
        }
    }
}

/// Fetches of random messages: the first after a start with empty caches, then the same ones again until they are in memory, then the
/// ones that count as warm. What the store's processes read from the disk meanwhile tells whether cold was cold and warm was warm.
async fn fetches(
    kind: Kind,
    servers: &Servers,
    place: &Place<'_>,
    run: &Run,
    sizes: &Sizes,
    results: &mut Results,
) -> Result<(), Failure> {
    let store = place.open().await?;
    let pid = servers.pid(kind)?;
    let mut random = StdRng::seed_from_u64(11);
    let numbers: Vec<u64> = (0..sizes.cold_fetches).map(|_| random.random_range(0..run.count)).collect();
    let before = processes::disk_reads(pid)?;
    let cold = fetch(&store, run, &numbers, clock::now(), true).await?;
    let cold_bytes = processes::disk_reads(pid)? - before;
    for _ in 0..sizes.warm_ups {
        fetch(&store, run, &numbers, clock::now(), true).await?;
    }
    let before = processes::disk_reads(pid)?;
    let warm = fetch(&store, run, &numbers, clock::now(), true).await?;
    let warm_bytes = processes::disk_reads(pid)? - before;
    let after_all = clock::now().plus_seconds(2 * LIFE_SECONDS.unsigned_abs());
    let expired = fetch(&store, run, &numbers, after_all, false).await?;
    let count = numbers.len() as f64;
    let mut add = |figure, value: Option<f64>| value.map(|value| results.add(kind, figure, value));
    add(Figure::FetchColdP50Micros, quantile(&cold, 0.5));
    add(Figure::FetchColdP99Micros, quantile(&cold, 0.99));
    add(Figure::FetchColdDiskBytes, Some(cold_bytes as f64 / count));
    add(Figure::FetchWarmP50Micros, quantile(&warm, 0.5));
    add(Figure::FetchWarmP99Micros, quantile(&warm, 0.99));
    add(Figure::FetchWarmDiskBytes, Some(warm_bytes as f64 / count));
    add(Figure::FetchExpiredP50Micros, quantile(&expired, 0.5));
    if cold_bytes <= warm_bytes {
        return Err(format!("{kind}: cold fetches read {cold_bytes} bytes of the disk, warm ones {warm_bytes}").into());
    }
    Ok(())
}

/// Microseconds of fetches one after the other, sorted. Each must find its message, or none of them.
async fn fetch(
    store: &Arc<dyn Store>,
    run: &Run,
    numbers: &[u64],
    now: UnixMicros,
    is_there: bool,
) -> Result<Vec<f64>, Failure> {
    let mut times = Vec::with_capacity(numbers.len());
    for number in numbers {
        let (subject, id) = run.key(*number)?;
        let begun = Instant::now();
        let found = store.fetch(&subject, id, now).await?;
        times.push(micros(begun.elapsed()));
        if found.is_some() != is_there {
            return Err(format!("message {id} of {}: found is {}", subject.as_str(), found.is_some()).into());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
