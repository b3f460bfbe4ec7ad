//! A calm run: load, clients' mistakes, slow subscribers and an orderly restart, under which no alert may fire.
//!
//! `WALCAST_CALM_SECONDS` (60) makes it longer, `WALCAST_CALM_FACTOR` (12) is how much faster than in `deploy/prometheus` the
//! rules run. A restart takes as long as it takes, so the factor cannot be the one of [`crate::alerts`]: at 12 five seconds of
//! absence are the minute after which a broker counts as down. `WALCAST_CALM_STORE=postgres` has a database behind the broker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::accelerate;
use crate::alerts::fixed;
use crate::load::{self, Load};
use crate::prometheus::{Plan, Prometheus, Target};
use crate::rig::with_postgres;
use crate::server::Server;
use crate::support::{Broker, Setup, from_env};
use crate::work::Work;

/// Everything that clients do but one: more connections than are allowed are an alert.
const CALM: [Work; 7] =
    [Work::Publish, Work::PublishStream, Work::Fetch, Work::Subscribe, Work::FallBehind, Work::Repeat, Work::Reject];

struct Run {
    own: Setup,
    /// Outlives the broker.
    store: Option<Server>,
    broker: Broker,
    load: Load,
    prometheus: Prometheus,
    interval: Duration,
}

impl Run {
    async fn start(factor: u32, kind: &str) -> Self {
        let own = Setup::new();
        let (setup, store) = match kind {
            "embedded" => (load::setup(), None),
            "postgres" => {
                let server = tokio::task::block_in_place(Server::start);
                (with_postgres(&server).await, Some(server))
            }
            other => panic!("WALCAST_CALM_STORE is {other}: expected embedded or postgres"),
        };
        // The bounds are those of a small broker, and keep their proportions to the load.
        let (setup, grpc, _) = fixed(setup.set("log.max_bytes", "256MiB").set("log.reserve_bytes", "1MiB"));
        let broker = setup.start().await;
        let mut load = Load::on(&grpc);
        load.begin_all(CALM);
        let interval = Duration::from_secs(15) / factor;
        let mut plan = Plan::new().every(interval, interval).scrape(Target::broker(broker.admin()));
        for rules in accelerate::rules(&own, factor) {
            plan = plan.rules(rules);
        }
        let prometheus = plan.start().await;
        Self { own, store, broker, load, prometheus, interval }
    }

    /// Looks at the alerts for a while; gives those that fired, and how often each was seen pending.
    async fn look(&self, length: Duration) -> (Vec<String>, BTreeMap<String, u32>) {
        let (begun, mut fired, mut pending) = (Instant::now(), Vec::new(), BTreeMap::new());
        while begun.elapsed() < length {
            for alert in self.prometheus.alerts().await {
                match alert.state.as_str() {
                    "firing" => fired.push(format!("{}: {}", alert.name, alert.annotations["description"])),
                    _ => *pending.entry(alert.name).or_default() += 1,
                }
            }
            tokio::time::sleep(self.interval / 2).await;
        }
        (fired, pending)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fires_under_normal_load_and_an_orderly_restart() {
    let length = Duration::from_secs(from_env("WALCAST_CALM_SECONDS", 60));
    let factor = u32::try_from(from_env("WALCAST_CALM_FACTOR", 12)).expect("a small number");
    let store = std::env::var("WALCAST_CALM_STORE").unwrap_or_else(|_| "embedded".to_owned());
    let mut run = Run::start(factor, &store).await;
    let mut seen = BTreeMap::new();
    for part in 0..3 {
        if part == 1 {
            run.broker = run.broker.stop().await.start().await;
        }
        let (fired, pending) = run.look(length / 3).await;
        assert!(fired.is_empty(), "{fired:#?}");
        pending.into_iter().for_each(|(name, times)| *seen.entry(name).or_insert(0) += times);
        run.load.goes_on(1).await;
    }
    let rules = run.prometheus.rules().await;
    assert!(rules.len() > 40 && rules.iter().all(|rule| rule.health == "ok"), "{rules:?}");
    let calls = run.prometheus.query("sum(increase(method_count[1h]))").await.expect("a valid query");
    println!(
        "calm: {} s at factor {factor}, store {store}, {:.0} calls, no alert fired; seen pending: {seen:?}",
        length.as_secs(),
        calls.first().map_or(0.0, crate::api::Series::value)
    );
    for work in CALM {
        run.load.end(work);
    }
    run.broker.stop().await;
    drop((run.store, run.own));
}

/// The control: the same look finds what is not calm.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_calm_is_found_out() {
    let mut run = Run::start(60, "embedded").await;
    run.load.begin(Work::Connect);
    let (fired, _) = run.look(Duration::from_secs(12)).await;
    assert!(fired.iter().any(|text| text.starts_with("WalcastConnectionsRefused")), "{fired:?}");
    run.load.end(Work::Connect);
    for work in CALM {
        run.load.end(work);
    }
    run.broker.stop().await;
    drop((run.store, run.own));
}
