//! Collectors that are away or hang: publishes go on, and a counter tells.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::jaeger::Jaeger;
use crate::support::{Broker, Setup, eventually, programs};

const AWAY: &str = "the collector does not take spans";
const BACK: &str = "the collector takes spans again";

fn setup(port: u16) -> Setup {
    let setup = Setup::new().arg("--otlp-endpoint").arg(format!("http://127.0.0.1:{port}"));
    setup.set("telemetry.sample_ratio", "1").expect_log(AWAY)
}

/// All of these publishes are traced, and none of them waits for a collector.
async fn publish(broker: &Broker, count: usize) {
    let client = broker.client().await;
    for _ in 0..count / 500 {
        let calls = (0..500).map(|_| client.publish("s", "x", 0));
        let ids = futures_util::future::join_all(calls).await;
        assert!(ids.into_iter().all(|id| id.is_ok()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_costs_a_counter_and_is_found_again() {
    let port = programs::port();
    let broker = setup(port).start().await;
    publish(&broker, 1_000).await;
    eventually("spans to be given up", || async {
        let failed = broker.metric("walcast_spans_dropped_total{reason=\"export_failed\"}").await;
        (failed >= 1_024.0).then_some(())
    })
    .await;
    assert_eq!(broker.metric("walcast_spans_exported_total").await, 0.0);
    publish(&broker, 500).await;
    let jaeger = Jaeger::start_at(port);
    eventually("the collector to be found", || async {
        publish(&broker, 500).await;
        (broker.metric("walcast_spans_exported_total").await > 0.0).then_some(())
    })
    .await;
    eventually("spans in it", || async { (!jaeger.traces_of("s").await.is_empty()).then_some(()) }).await;
    let stopped = broker.stop().await;
    assert_eq!((stopped.logged(AWAY), stopped.logged(BACK)), (1, 1), "one line a change");
    assert_eq!(stopped.logged("opentelemetry"), 0, "nothing of the library's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_holds_up_neither_publishes_nor_the_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // Accepts, and keeps what it accepted.
    let hanging = tokio::spawn(async move {
        let mut accepted = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            accepted.push(connection);
        }
    });
    let broker = setup(port).start().await;
    publish(&broker, 4_000).await;
    let full = "walcast_spans_dropped_total{reason=\"queue_full\"}";
    assert!(broker.metric(full).await > 0.0, "20,000 spans do not fit");
    eventually("the collector to be given up", || async {
        let failed = broker.metric("walcast_spans_dropped_total{reason=\"export_failed\"}").await;
        (failed > 0.0).then_some(())
    })
    .await;
    publish(&broker, 500).await;
    assert_eq!(broker.metric("walcast_spans_exported_total").await, 0.0);
    let begun = Instant::now();
    let stopped = broker.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "two seconds for the flush, the rest is the machine's");
    assert_eq!(stopped.logged(AWAY), 1);
    hanging.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_collector_is_refused_at_the_start() {
    for endpoint in ["127.0.0.1:4317", "https://127.0.0.1:4317", "http://127.0.0.1", "http://127.0.0.1:4317/v1/traces"]
    {
        let (code, said) = Setup::new().arg("--otlp-endpoint").arg(endpoint).refuse();
        assert!(code == 2 && said.contains("telemetry.otlp_endpoint"), "{endpoint}: {code} {said}");
    }
}
