//! What an operator sees of a store that is away.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::server::Server;
use crate::support::{Broker, Setup, eventually, random_bytes};

fn setup(url: &str) -> Setup {
    let setup = Setup::new().store("postgres").arg("--postgres-url").arg(url);
    setup.set("store.postgres.connect_timeout", "1s").expect_log("projection waits for the store")
}

/// The lag rises from scrape to scrape, and the store is told to be away.
async fn is_seen_to_be_away(broker: &Broker) {
    eventually("the store to be told as away", || async {
        (broker.metric("walcast_store_up").await == 0.0 && broker.metric("walcast_projector_lag_seconds").await > 0.0)
            .then_some(())
    })
    .await;
    let mut last = broker.metric("walcast_projector_lag_seconds").await;
    // Faster than the store is tried again: computed at the scrape, and not with the attempt.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let lag = broker.metric("walcast_projector_lag_seconds").await;
        assert!(lag >= last + 0.1, "{last}, then {lag}");
        last = lag;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shows_at_once_and_its_lag_grows_with_the_clock_also_after_a_restart() {
    let server = Server::start();
    let database = server.database().await;
    let broker = setup(&server.url(&database)).start().await;
    let client = broker.client().await;
    client.publish_kept("s", "before").await;
    broker.all_projected().await;
    assert_eq!(broker.metric("walcast_store_up").await, 1.0);
    assert_eq!(broker.metric("walcast_store_info{kind=\"postgres\"}").await, 1.0);
    assert_eq!(broker.metric("walcast_projector_lag_seconds").await, 0.0);

    server.stop();
    client.publish_kept("s", "meanwhile").await;
    is_seen_to_be_away(&broker).await;
    assert!(broker.metric("walcast_log_lines_total{level=\"warn\"}").await >= 1.0);

    // A start without its store knows the position from nobody: the oldest record of the log counts.
    let broker = broker.kill_nine().await.start().await;
    is_seen_to_be_away(&broker).await;

    server.start_again();
    broker.all_projected().await;
    eventually("the store to be told as back", || async {
        (broker.metric("walcast_store_up").await == 1.0 && broker.metric("walcast_projector_lag_seconds").await == 0.0)
            .then_some(())
    })
    .await;
}

/// An idle store is asked every 10 s, an idle one that is away each second or two; the rest is for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

async fn store_is_told_to_be(broker: &Broker, up: f64) {
    let since = Instant::now();
    eventually("the store to be told as away or back", || async {
        (broker.metric("walcast_store_up").await == up).then_some(())
    })
    .await;
    assert!(since.elapsed() < NOTICED_WITHIN, "{up} after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shows_while_nothing_is_published() {
    let server = Server::start();
    let database = server.database().await;
    let broker = setup(&server.url(&database)).start().await;
    broker.client().await.publish_kept("s", "before").await;
    broker.all_projected().await;
    assert_eq!(broker.metric("walcast_store_up").await, 1.0);
    for _ in 0..2 {
        server.stop();
        store_is_told_to_be(&broker, 0.0).await;
        assert_eq!(broker.metric("walcast_projector_lag_records").await, 0.0, "nothing was published");
        server.start_again();
        store_is_told_to_be(&broker, 1.0).await;
    }
    let stopped = broker.stop().await;
    assert_eq!(stopped.logged("projection waits for the store"), 2, "once an outage");
    assert_eq!(stopped.logged("the store answers again"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_shows_at_once_and_is_counted() {
    let server = Server::start();
    let database = server.database().await;
    let small = [("log.segment_bytes", "1MiB"), ("limits.body_bytes", "64KiB"), ("log.keep_bytes", "0")];
    let setup = small.into_iter().fold(setup(&server.url(&database)), |setup, (key, value)| setup.set(key, value));
    let broker = setup.set("limits.hot_tail_bytes", "1MiB").start().await;
    let client = broker.client().await;
    eventually("the log to be trimmed", || async {
        client.publish("s", random_bytes(1, 60_000), 600).await.expect("accepted");
        (broker.position("trimmed").await > 1.0).then_some(())
    })
    .await;
    broker.all_projected().await;
    client.fetch_body("s", 1).await;
    assert_eq!(broker.metric("walcast_store_read_failures_total").await, 0.0);
    assert_eq!(broker.metric("walcast_store_up").await, 1.0);

    server.stop();
    let status = client.fetch("s", 1).await.expect_err("only the store has it");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // Not eventually: projection, which has nothing to do, would ask within 10 s as well.
    assert_eq!(broker.metric("walcast_store_up").await, 0.0);
    let page = broker.get("/status").await.expect("the admin port answers").body;
    let state: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    let state = state["projector"]["state"].as_str().unwrap_or_default();
    assert!(state.contains("the postgres store is unavailable"), "as the metric has it: {state}");
    assert_eq!(broker.metric("walcast_store_read_failures_total").await, 1.0);
    assert_eq!(broker.metric("walcast_store_read_duration_seconds_count").await, 2.0, "also how long it failed");

    server.start_again();
    // Nobody reads: whoever asks first tells.
    store_is_told_to_be(&broker, 1.0).await;
    client.fetch_body("s", 1).await;
    assert_eq!(broker.metric("walcast_store_read_failures_total").await, 1.0);
}
