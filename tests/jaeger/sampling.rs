//! Who is traced.

use crate::jaeger::shared;
use crate::joined::{caller, publish};
use crate::picture::CALL;
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_not_sampled_gives_nothing() {
    let jaeger = shared();
    let broker = jaeger.setup("1").start().await;
    let client = broker.client().await;
    let (unsampled, unsampled_trace, _) = caller("00");
    publish(&client, "unsampled", &unsampled).await;
    let (sampled, sampled_trace, _) = caller("01");
    publish(&client, "unsampled", &sampled).await;
    // What is exported in order tells when the first would be there.
    jaeger.trace_with(&sampled_trace, &[CALL, "project"]).await;
    broker.all_projected().await;
    let exported = broker.metric("walcast_spans_exported_total").await;
    broker.stop().await;
    assert!(jaeger.trace(&unsampled_trace).await.is_none());
    // The call with four stages, log commit with fdatasync, project with its batch.
    assert!((1.0..=9.0).contains(&exported), "{exported} spans of the one that is sampled");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_parent_the_ratio_decides() {
    const PUBLISHES: usize = 2_000;
    let jaeger = shared();
    let broker = jaeger.setup("0.1").start().await;
    let client = broker.client().await;
    let calls = (0..PUBLISHES).map(|_| client.publish("ratio", "x", 0));
    let ids = futures_util::future::join_all(calls).await;
    assert!(ids.into_iter().all(|id| id.is_ok()));
    broker.stop().await;
    // 200 are expected; six standard deviations of sqrt(180) are 80.
    let count = eventually("traces by ratio", || async {
        let count = jaeger.traces_of("ratio").await.len();
        (count >= 120).then_some(count)
    })
    .await;
    assert!(count <= 280, "{count} of {PUBLISHES} at 0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_or_with_ratio_zero_nothing_is_traced() {
    let jaeger = shared();
    let broker = jaeger.setup("0").start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("zero").await;
    client.publish_kept("zero", "x").await;
    assert_eq!(subscription.next().await.traceparent, "");
    broker.all_projected().await;
    assert_eq!(broker.metric("walcast_spans_exported_total").await, 0.0);
    broker.stop().await;
    assert!(jaeger.traces_of("zero").await.is_empty());
}
