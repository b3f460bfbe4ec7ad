//! The publisher's `traceparent`: kept, handed out from everywhere but the store, never a reason to refuse.

use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use walcast::proto::client::PublishRequest;

use crate::support::{Broker, Client, Setup, eventually, random_bytes};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Publishes with these values of `traceparent`; gives the id.
async fn publish(client: &Client, values: &[&[u8]]) -> i32 {
    let mut request = Request::new(PublishRequest {
        subject: "s".to_owned(),
        body: "x".into(),
        expiration_seconds: 3_600,
        ..PublishRequest::default()
    });
    for value in values {
        request.metadata_mut().append("traceparent", AsciiMetadataValue::try_from(*value).expect("a header's value"));
    }
    client.publish_request(request).await.expect("a trace is no reason to refuse")
}

async fn fetched(client: &Client, id: i32) -> String {
    client.fetch("s", id).await.expect("found").traceparent
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_and_fetch_get_it_from_memory_and_from_the_log() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut live = client.subscribe("s").await;
    assert_eq!(publish(&client, &[TRACE.as_bytes()]).await, 1);
    assert_eq!(publish(&client, &[]).await, 2);
    assert_eq!([live.next().await.traceparent, live.next().await.traceparent], [TRACE, ""]);
    assert_eq!(fetched(&client, 1).await, TRACE);
    let broker = broker.kill_nine().await.start().await;
    // Until then the store may answer, which has no field for it.
    eventually("the index", || async { (broker.metric("walcast_index_gap_records").await == 0.0).then_some(()) }).await;
    let client = broker.client().await;
    assert_eq!([fetched(&client, 1).await, fetched(&client, 2).await], [TRACE, ""]);
    let mut resumed = client.resume("s", 0).await;
    assert_eq!([resumed.next().await.traceparent, resumed.next().await.traceparent], [TRACE, ""]);
}

/// The rows of a store have no field for it; its message comes without.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_store_has_comes_without_it() {
    let setup = Setup::new().set("limits.body_bytes", "64KiB").set("log.segment_bytes", "256KiB");
    let broker = setup.set("log.keep_bytes", "0").set("limits.hot_tail_bytes", "1MiB").start().await;
    let client = broker.client().await;
    assert_eq!(publish(&client, &[TRACE.as_bytes()]).await, 1);
    for number in 0..64 {
        client.publish("filler", random_bytes(number, 64 * 1024), 60).await.expect("accepted");
    }
    eventually("trimming", || async { (broker.position("trimmed").await >= 1.0).then_some(()) }).await;
    let message = client.fetch("s", 1).await.expect("the store has it");
    assert_eq!((&*message.body, &*message.traceparent), (&b"x"[..], ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_valid_is_ignored() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let upper = TRACE.to_uppercase();
    let wrong: [&[&[u8]]; 5] =
        [&[b""], &[b"x"], &["größe".as_bytes()], &[upper.as_bytes()], &[TRACE.as_bytes(), TRACE.as_bytes()]];
    for values in wrong {
        let id = publish(&client, values).await;
        assert_eq!(fetched(&client, id).await, "", "{values:?}");
    }
}
