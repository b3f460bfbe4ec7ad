//! The rig itself: the load reaches what it says, and Prometheus tells it.

use std::fs;
use std::time::Duration;

use crate::load::{self, Load};
use crate::prometheus::{Plan, Target};
use crate::server::Server;
use crate::support::Setup;
use crate::work::Work;

/// What each work leaves behind, as a query that has data only then.
const TRACES_OF_WORK: [&str; 20] = [
    "rate(method_count{method='Publish',status='OK'}[5s]) > 0",
    "rate(method_count{method='PublishStream',status='OK'}[5s]) > 0",
    "rate(method_count{method='Fetch',status='OK'}[5s]) > 0",
    "rate(method_count{method='Publish',status='INVALID_ARGUMENT'}[5s]) > 0",
    "rate(walcast_stream_publishes_total[5s]) > 0",
    "walcast_fetches_total{source='hot'} > 0",
    "walcast_fetches_total{source='log'} > 0",
    "walcast_fetches_total{source='store'} > 0",
    "walcast_fetches_total{source='expired'} > 0",
    "walcast_fetches_total{source='never_published'} > 0",
    "active_subscribers > 0",
    "rate(walcast_deliveries_total[5s]) > 0",
    "walcast_delivery_fallbacks_total > 0",
    "walcast_delivery_rejoins_total > 0",
    "walcast_idempotency_duplicates_total > 0",
    "walcast_publishes_rejected_total{reason='invalid'} > 0",
    "walcast_publishes_rejected_total{reason='too_large'} > 0",
    "walcast_publishes_rejected_total{reason='key_taken'} > 0",
    "walcast_connections_refused_total{reason='limit'} > 0",
    "walcast_connections_refused_total{reason='handshake'} > 0",
];

/// Settings of [`load::setup`] with a database behind.
pub async fn with_postgres(server: &Server) -> Setup {
    let url = server.url(&server.database().await);
    let setup = load::setup().store("postgres").arg("--postgres-url").arg(url);
    setup.set("store.postgres.connect_timeout", "1s")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_reaches_every_corner_of_the_broker() {
    let server = tokio::task::block_in_place(Server::start);
    let broker = with_postgres(&server).await.start().await;
    let mut load = Load::on(broker.grpc());
    load.begin_all(Work::ALL);
    let prometheus = Plan::new().scrape(Target::broker(broker.admin())).start().await;
    load.goes_on(1).await;
    for trace in TRACES_OF_WORK {
        let found = prometheus.eventually(trace).await;
        assert!(found.iter().all(|series| series.label("job") == "walcast"), "{trace}: {found:?}");
    }
    for work in Work::ALL {
        load.end(work);
    }
    // Every gauge of what the works hold goes back.
    prometheus.eventually("active_subscribers == 0").await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_load_shows_none_of_it() {
    let broker = load::setup().start().await;
    let prometheus = Plan::new().scrape(Target::broker(broker.admin())).start().await;
    for trace in TRACES_OF_WORK {
        assert_eq!(prometheus.query(trace).await, Ok(Vec::new()), "{trace}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_tells_values_rules_and_alerts_and_what_it_does_not_understand() {
    let setup = load::setup();
    let rules = setup.folder().join("rules.yml");
    let text = "groups:\n- name: rig\n  rules:\n  - record: rig:up\n    expr: up\n\
                \x20 - alert: RigFires\n    expr: up == 1\n    annotations: { summary: 'it is {{ $value }}' }\n\
                \x20 - alert: RigIsSilent\n    expr: up == 2\n";
    fs::write(&rules, text).expect("the folder is ours");
    let broker = setup.start().await;
    let prometheus = Plan::new().rules(rules).scrape(Target::broker(broker.admin())).start().await;
    let recorded = prometheus.eventually("rig:up").await;
    assert_eq!((recorded[0].value(), recorded[0].label("instance")), (1.0, broker.admin()));
    prometheus.eventually("ALERTS{alertname='RigFires',alertstate='firing'}").await;
    assert!(prometheus.fires("RigFires").await && !prometheus.fires("RigIsSilent").await);
    assert_eq!(prometheus.alerts().await[0].annotations["summary"], "it is 1");
    let rules = prometheus.rules().await;
    let told: Vec<_> = rules.iter().map(|rule| (&*rule.name, &*rule.kind, &*rule.health)).collect();
    assert_eq!(
        told,
        [("rig:up", "recording", "ok"), ("RigFires", "alerting", "ok"), ("RigIsSilent", "alerting", "ok")]
    );
    let over_time = prometheus.query_range("up", Duration::from_secs(60), Duration::from_millis(500)).await;
    assert!(over_time.expect("a valid query")[0].points.len() >= 2);
    assert_eq!(prometheus.query("no_such_metric").await, Ok(Vec::new()));
    assert!(prometheus.query("rate(up").await.expect_err("half a query").contains("parse error"));
    broker.stop().await;
}
