//! What Envoy sends again, and what it does not.

use std::pin::pin;
use std::time::Duration;

use tonic::{Code, Request, Status};
use walcast::proto::client::PublishRequest;

use crate::envoy::{Envoy, Plan};
use crate::proxy::Proxy;
use crate::refusing::{Refusing, head_of};
use crate::support::{Broker, Client, eventually, random_bytes};

fn request(body_bytes: usize, key: Option<&'static str>) -> Request<PublishRequest> {
    let body = random_bytes(body_bytes as u64, body_bytes);
    let mut request =
        Request::new(PublishRequest { subject: "s".to_owned(), body, expiration_seconds: 3_600, ..Default::default() });
    if let Some(key) = key {
        request.metadata_mut().insert("idempotency-key", key.parse().expect("a key"));
    }
    request
}

/// A publish whose answer is lost with its connection, after the broker has made it durable.
async fn answer_lost(
    proxy: &Proxy,
    broker: &Broker,
    client: &Client,
    request: Request<PublishRequest>,
) -> Result<i32, Status> {
    let before = broker.position("durable").await;
    proxy.hold_answers_after(request.get_ref().body.len());
    let mut call = pin!(client.publish_request(request));
    let durable =
        eventually("the publish to be durable", || async { (broker.position("durable").await > before).then_some(()) });
    tokio::select! {
        () = durable => proxy.cut(),
        early = &mut call => panic!("answered before it was durable, or while answers are held: {early:?}"),
    }
    call.await
}

async fn retries(envoy: &Envoy) -> u64 {
    envoy.count("cluster.broker.upstream_rq_retry").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_publish_is_sent_again_if_it_has_a_key_and_only_then() {
    let broker = Broker::start().await;
    let proxy = Proxy::before(&broker).await;
    let envoy = Plan::at([proxy.address().to_owned()]).start().await;
    let client = Client::connect(envoy.grpc()).await;
    assert_eq!(client.publish_kept("s", "first").await, 1);

    let lost = answer_lost(&proxy, &broker, &client, request(100, None)).await;
    assert_eq!(lost.expect_err("nobody may send it again").code(), Code::Unavailable);
    assert_eq!(retries(&envoy).await, 0);
    // Small, and as large as a body may be: Envoy must have it whole to send it again.
    for (id, body_bytes, key) in [(3, 100, "small"), (4, 1024 * 1024, "large")] {
        envoy.healthy(1).await;
        let again = answer_lost(&proxy, &broker, &client, request(body_bytes, Some(key))).await;
        assert_eq!(again.unwrap_or_else(|status| panic!("{key}: {status}")), id, "the id of the first");
        assert!(retries(&envoy).await >= u64::try_from(id).expect("positive") - 2, "{key}");
    }
    assert_eq!(client.publish_kept("s", "last").await, 5, "each was published once");
    assert_eq!(client.fetch_body("s", 4).await, random_bytes(1024 * 1024, 1024 * 1024));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reached_no_broker_is_sent_to_another() {
    let (gone, stays) = (Broker::start().await, Broker::start().await);
    // As if no health check had found out yet.
    let plan = Plan::before([&gone, &stays])
        .edit("      interval: 1s\n      no_traffic", "      interval: 600s\n      no_traffic");
    let plan = plan.edit("no_traffic_interval: 1s", "no_traffic_interval: 600s");
    let blind = plan.clone().edit_all(1, "connect-failure,refused-stream,reset-before-request", "refused-stream");
    let (envoy, blind) = (plan.start().await, blind.start().await);
    let (client, control) = (Client::connect(envoy.grpc()).await, Client::connect(blind.grpc()).await);
    gone.kill_nine().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..50 {
        client.publish_kept("s", "without a key").await;
    }
    assert!(retries(&envoy).await > 0);
    let mut failed = 0;
    for _ in 0..50 {
        failed += u32::from(control.publish("s", "x", 0).await.is_err());
    }
    assert!(failed > 0, "the control: without tries again some fail");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_answer_is_tried_elsewhere_with_a_key_and_not_without() {
    let (broker, refusing) = (Broker::start().await, Refusing::start().await);
    let envoy = Plan::at([broker.grpc().to_owned(), refusing.address().to_owned()]).start().await;
    let client = Client::connect(envoy.grpc()).await;
    let mut failed = 0;
    for _ in 0..50 {
        match client.publish_request(request(10, None)).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable);
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && refusing.calls() == failed && retries(&envoy).await == 0, "{failed} {}", refusing.calls());
    for number in 0..50 {
        let mut request = request(10, None);
        request.metadata_mut().insert("idempotency-key", format!("key-{number}").parse().expect("a key"));
        client.publish_request(request).await.expect("sent to the other");
    }
    assert!(refusing.calls() > failed, "the refusing one was asked, too");
    // A read is its own key.
    let calls = refusing.calls();
    for _ in 0..50 {
        client.fetch("s", 1).await.expect("read from the other");
    }
    assert!(refusing.calls() > calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_bounds_how_much_is_sent_again() {
    const CALLS: usize = 2_000;
    let refusing = [Refusing::start().await, Refusing::start().await];
    let plan = Plan::at(refusing.iter().map(|node| node.address().to_owned()));
    // One try more at a time for five calls under way, and ten in any case: a tenth of what is shipped, for a tenth of the calls.
    let envoy = plan.edit("min_retry_concurrency: 100", "min_retry_concurrency: 10").start().await;
    let client = Client::connect(envoy.grpc()).await;
    let calls = (0..CALLS).map(|_| client.publish_request(request(10, Some("key"))));
    let answers = futures_util::future::join_all(calls).await;
    let mut said = std::collections::BTreeMap::new();
    for answer in answers {
        let status = answer.expect_err("nobody publishes");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        *said.entry(status.message().to_owned()).or_insert(0) += 1;
    }
    println!("{said:?}");
    let tries: usize = refusing.iter().map(Refusing::calls).sum();
    println!("{CALLS} calls that are refused were {tries} tries; without a budget {}", 4 * CALLS);
    assert!(tries > CALLS && tries < 2 * CALLS, "{tries} tries");
    assert!(envoy.count("cluster.broker.upstream_rq_retry_overflow").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_says_unavailable_where_envoy_looks() {
    // Envoy sees a gRPC status in headers only, so an error must come without a body.
    let broker = Broker::start().await;
    let status = head_of(broker.grpc(), "/broker.Broker/Publish").await;
    assert_eq!(status.as_deref(), Some("3"), "INVALID_ARGUMENT in the headers of the answer");
}
