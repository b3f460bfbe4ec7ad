//! What an operator sees of a store that is away.

use crate::server::Server;
use crate::support::{Broker, Setup, eventually};

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
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
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
