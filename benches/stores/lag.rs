//! The real broker at half load: how far the store is behind, and what it costs.

use std::time::Duration;

use crate::Failure;
use crate::broker::{Broker, Look, Pace};
use crate::compare::Sizes;
use crate::figures::{Figure, Kind, Results, quantile};
use crate::places::Place;
use crate::processes;
use crate::servers::Servers;

/// Life time of what is published: longer than any run.
pub const LIFE: &str = "1h";

/// Messages whose lag is looked at.
const LAGS: u64 = 10_000;

/// One round of one store; gives the rate of half load, in publishes a second.
///
/// # Errors
/// A publish failed, or no lag was seen.
pub async fn round(
    kind: Kind,
    servers: &Servers,
    broker: &Broker,
    sizes: &Sizes,
    results: &mut Results,
) -> Result<u32, Failure> {
    let most = broker.publish(Pace::Closed, sizes.capacity_seconds, LIFE).await?;
    let most = most.whole(format_args!("{kind}, as fast as possible"))?;
    broker.drained().await?;
    results.add(kind, Figure::PublishRate, most.rate);
    let projection = results.last(kind, Figure::ProjectionSmallRowsPerSecond).ok_or("projection comes first")?;
    let half = (projection.min(most.rate) / 2.0) as u32;

    let cpu = |pid| processes::cpu_seconds(pid);
    let database = (kind != Kind::Embedded).then(|| servers.pid(kind)).transpose()?;
    let (broker_before, database_before) = (cpu(broker.pid())?, database.map(cpu).transpose()?);
    let before = broker.look().await?;
    let watch = broker.watch();
    let load = broker.publish(Pace::Open(half), sizes.lag_seconds, LIFE).await?;
    let load = load.whole(format_args!("{kind}, at half load"))?;
    broker.drained().await?;
    let looks = watch.end().await?;
    let after = broker.look().await?;
    let millions = (after.durable - before.durable) as f64 / 1e6;
    results.add(kind, Figure::BrokerCpuSecondsPerMillion, (cpu(broker.pid())? - broker_before) / millions);
    if let (Some(pid), Some(before)) = (database, database_before) {
        results.add(kind, Figure::DatabaseCpuSecondsPerMillion, (cpu(pid)? - before) / millions);
    }

    results.add(kind, Figure::HalfLoadRate, load.rate);
    results.add(kind, Figure::CalmPublishP50Micros, load.latency_us.p50);
    results.add(kind, Figure::CalmPublishP99Micros, load.latency_us.p99);
    let lags = lags(&looks);
    for (figure, share) in [(Figure::LagP50Millis, 0.5), (Figure::LagP99Millis, 0.99)] {
        // Lag that nobody saw would be within any bound.
        let lag = quantile(&lags, share).ok_or_else(|| format!("{kind}: no message was seen to be projected"))?;
        results.add(kind, figure, lag * 1e3);
    }
    Ok(half)
}

/// Seconds from durable to projected of messages spread over all that were seen, sorted. Too long by two looks at most: a
/// message is durable from the last look on that did not see it, and projected at the first one that saw it.
fn lags(looks: &[Look]) -> Vec<f64> {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else { return Vec::new() };
    let step = ((last.projected - first.durable) / LAGS).max(1);
    let mut lags: Vec<f64> = Vec::new();
    let (mut durable, mut projected) = (looks.iter().peekable(), looks.iter());
    let mut at = first.at;
    let mut done = first;
    for sequence in (first.durable + 1..=last.projected).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        while let Some(look) = durable.next_if(|look| look.durable < sequence) {
            at = look.at;
        }
        while done.projected < sequence {
            let Some(look) = projected.next() else { return sorted(lags) };
            done = look;
        }
        lags.push(done.at.saturating_duration_since(at).as_secs_f64());
    }
    sorted(lags)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The broker with its place, through both workloads that need it, and a look whether everything is there at the end.
///
/// # Errors
/// A publish failed, or a row is missing.
pub async fn with_broker(
    kind: Kind,
    servers: &Servers,
    sizes: &Sizes,
    results: &mut Results,
    is_first: bool,
) -> Result<(), Failure> {
    let place = Place::new(kind, servers).await?;
    let broker = Broker::start(&place)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let half = round(kind, servers, &broker, sizes, results).await?;
    if kind != Kind::Embedded {
        crate::kill::round(kind, servers, &broker, half, sizes, results, is_first).await?;
    }
    let published = broker.look().await?.durable;
    place.must_have_all(broker, published).await
}
