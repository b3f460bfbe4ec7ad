//! Places of dashboards that show 0 on a broker under load: each by its exact name, with why, and where else it is above 0.

use std::collections::BTreeMap;

use crate::boards::{self, Query};
use crate::prometheus::Prometheus;

/// What a place shows in the rig of [`crate::every_query`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// Always 0: above it, the entry is stale.
    Zero,
    /// 0 at most scrapes: a scrape may meet it.
    Mostly,
}

/// Where it is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Under the faults of [`crate::alerts`], where it is asked for.
    UnderFaults,
    /// In no rig, for this reason.
    Nowhere(&'static str),
}

/// A place that may be 0.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Dashboard, panel and letter.
    pub name: &'static str,
    /// In the rig of every query.
    pub here: Here,
    /// Elsewhere.
    pub seen: Seen,
}

const fn zero(name: &'static str) -> Place {
    Place { name, here: Here::Zero, seen: Seen::UnderFaults }
}

const fn mostly(name: &'static str) -> Place {
    Place { name, here: Here::Mostly, seen: Seen::UnderFaults }
}

const fn nowhere(name: &'static str, here: Here, why: &'static str) -> Place {
    Place { name, here, seen: Seen::Nowhere(why) }
}

/// All of them. Every other query must have been above 0 in the rig of every query.
pub const MAY_BE_ZERO: [Place; 30] = [
    zero("overview.json: Calls that failed B"),
    zero("overview.json: Log failures A"),
    zero("overview.json: Nodes that do not answer A"),
    zero("overview.json: Passed on in vain A"),
    zero("overview.json: Refused from other nodes A"),
    zero("pipeline.json: Publishes by result D"),
    zero("pipeline.json: Idempotency B"),
    zero("pipeline.json: Failed checkpoints A"),
    zero("pipeline.json: Near the last id A"),
    zero("pipeline.json: Retries and setbacks B"),
    zero("stores.json: Setbacks A"),
    zero("delivery.json: Streams ended by the broker A"),
    zero("resources.json: Spans exported A"),
    zero("resources.json: Spans dropped A"),
    zero("resources.json: Log lines left out A"),
    // The queue is empty at most scrapes, and so is what lies between write and fdatasync.
    mostly("overview.json: Distances A"),
    mostly("overview.json: On their way, share of the limit A"),
    mostly("overview.json: On their way, share of the limit B"),
    mostly("pipeline.json: Queue, share of its limits A"),
    mostly("pipeline.json: Queue, share of its limits B"),
    mostly("pipeline.json: Queue bytes A"),
    mostly("pipeline.json: Queue bytes B"),
    mostly("resources.json: What memory holds C"),
    // The broker is killed under load here: it may be in the middle of a write, and what it lacks is soon indexed.
    mostly("pipeline.json: Torn bytes cut at the start A"),
    mostly("stores.json: Not indexed yet A"),
    nowhere("delivery.json: Batches before the fan-out A", Here::Mostly, "a batch waits for less than a millisecond"),
    nowhere("envoy.json: Resets B", Here::Mostly, "Envoy cuts requests that take longer than the rigs"),
    nowhere("envoy.json: Retries D", Here::Zero, "takes a thousand retries at once"),
    nowhere("envoy.json: Connections that failed B", Here::Mostly, "takes a network that loses packets"),
    nowhere(
        "envoy.json: Connections that failed C",
        Here::Mostly,
        "not if no request is under way at the kill; else it is",
    ),
];

/// The entry of a place.
pub fn exempt(name: &str) -> Option<&'static Place> {
    MAY_BE_ZERO.iter().find(|place| place.name == name)
}

/// Entries that are not what they say: `best` has the highest value of each place that there is.
pub fn stale(places: &[Place], best: &BTreeMap<String, f64>) -> Vec<String> {
    let fault = |place: &Place| match (best.get(place.name), place.here) {
        (None, _) => Some(format!("{}: there is no such place", place.name)),
        (Some(best), Here::Zero) if *best > 0.0 => {
            Some(format!("{}: it was {best}, and need not be listed", place.name))
        }
        _ => None,
    };
    places.iter().filter_map(fault).collect()
}

/// Queries of places that must have been above 0 under the faults, and were not. `over` is longer than the faults lasted.
pub async fn unseen(prometheus: &Prometheus, rate_interval: &str, over: &str) -> Vec<String> {
    let boards = boards::shipped();
    let all = boards.iter().flat_map(|(name, board)| boards::queries(name, board, rate_interval).queries);
    let wanted = |query: &Query| exempt(&query.place).is_some_and(|place| place.seen == Seen::UnderFaults);
    let mut found = Vec::new();
    for query in all.filter(wanted) {
        match highest(prometheus, &query.expression, over).await {
            Ok(Some(best)) if best > 0.0 => {}
            other => found.push(format!("{}: {other:?}: {}", query.place, query.expression)),
        }
    }
    found
}

/// The highest value of an expression, of any series and at any time; None if it had none.
pub async fn highest(prometheus: &Prometheus, expression: &str, over: &str) -> Result<Option<f64>, String> {
    let series = prometheus.query(&format!("max_over_time(({expression})[{over}:500ms])")).await?;
    Ok(series.iter().map(crate::api::Series::value).reduce(f64::max))
}

#[test]
fn a_stale_entry_is_found() {
    let best = BTreeMap::from([("a.json: T A", 0.0), ("a.json: T B", 2.0)].map(|(name, best)| (name.to_owned(), best)));
    assert_eq!(stale(&[zero("a.json: T A"), mostly("a.json: T B")], &best), Vec::<String>::new());
    let found = stale(&[zero("a.json: T B"), mostly("T A"), zero("a.json: T")], &best);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("it was 2") && found[1].contains("no such place") && found[2].contains("no such place"));
}
