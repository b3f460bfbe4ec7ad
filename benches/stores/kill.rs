//! The database is killed while messages are published: what publishers notice, and how soon the store has everything again.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::broker::{Broker, Look, Pace};
use crate::compare::Sizes;
use crate::figures::{Figure, Kind, Results};
use crate::lag::LIFE;
use crate::servers::{Servers, blocking};

/// How long the load runs before the database is killed: its unmeasured second, and one more.
const CALM: Duration = Duration::from_secs(2);

/// One round of one store. The load ends before the database comes back, so that its start costs the publishers nothing.
///
/// # Errors
/// A publish failed, or the store does not come back.
pub async fn round(
    kind: Kind,
    servers: &Servers,
    broker: &Broker,
    half: u32,
    sizes: &Sizes,
    results: &mut Results,
    keep_backlog: bool,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let watch = broker.watch();
    let kill = async {
        tokio::time::sleep(CALM).await;
        blocking(|| servers.kill(kind))
    };
    let (load, killed) = tokio::join!(broker.publish(Pace::Open(half), sizes.kill_seconds, LIFE), kill);
    killed?;
    let load = load?.whole(format_args!("{kind}, while the database is killed"))?;
    let look = broker.look().await?;
    let backlog = look.durable - look.projected;
    // Without it nothing was killed, or nobody noticed.
    if backlog < u64::from(half) {
        return Err(format!("{kind}: only {backlog} messages wait for a database that was killed").into());
    }
    blocking(|| servers.start_again(kind))?;
    let ready = Instant::now();
    let drained = broker.drained().await?.as_secs_f64();
    let looks = watch.end().await?;
    if keep_backlog {
        let of = |look: &Look| {
            (look.at.saturating_duration_since(begun).as_secs_f64(), (look.durable - look.projected) as f64)
        };
        // A point in a hundred milliseconds is more than the plot has room for.
        results.backlogs.insert(kind, looks.iter().step_by(5).chain(looks.last()).map(of).collect());
    }
    let all = load.count + load.failures();
    results.add(kind, Figure::KilledPublishP50Micros, load.latency_us.p50);
    results.add(kind, Figure::KilledPublishP99Micros, load.latency_us.p99);
    results.add(kind, Figure::KilledPublishPercent, load.count as f64 / all.max(1) as f64 * 100.0);
    results.add(kind, Figure::KilledBacklogMessages, backlog as f64);
    results.add(kind, Figure::DrainSeconds, drained);
    results.add(kind, Figure::Setbacks, broker.metric("walcast_store_setbacks_total").await?);
    let (noticed, rate) = draining(&looks, ready, look.projected);
    results.add(kind, Figure::NoticeSeconds, noticed);
    results.add(kind, Figure::DrainRatio, rate.unwrap_or(backlog as f64 / drained) / load.rate);
    Ok(())
}

/// Seconds until the first batch was in the database that takes connections since `ready`, and messages a second from then on;
/// None if that batch was the last.
fn draining(looks: &[Look], ready: Instant, projected: u64) -> (f64, Option<f64>) {
    let mut moved = looks.iter().filter(|look| look.at > ready && look.projected != projected);
    let Some(first) = moved.next() else { return (0.0, None) };
    let done = moved.find(|look| look.projected == look.durable);
    let rate = done.map(|done| {
        let messages = done.projected.saturating_sub(first.projected) as f64;
        messages / done.at.saturating_duration_since(first.at).as_secs_f64()
    });
    (first.at.saturating_duration_since(ready).as_secs_f64(), rate.filter(|rate| *rate > 0.0))
}
