//! Calls that are no Publish.

use walcast::proto::client::{FetchRequest, SubscribeRequest};

use crate::jaeger::shared;
use crate::joined::{caller, with_parent};
use crate::support::{error_reason, eventually};

const FETCH: &str = "broker.Broker/Fetch";
const SUBSCRIBE: &str = "broker.Broker/Subscribe";
const MESSAGE: &str = "broker.Broker/PublishStream";

#[tokio::test(flavor = "multi_thread")]
async fn fetch_and_subscribe_are_spans_with_their_status() {
    let jaeger = shared();
    let broker = jaeger.setup("0").start().await;
    let client = broker.client().await;
    client.publish_kept("calls", "x").await;
    let fetch = |id| FetchRequest { subject: "calls".to_owned(), id };
    for (id, status) in [(1, "OK"), (2, "INVALID_ARGUMENT")] {
        let (traceparent, trace, span) = caller("01");
        let answer = client.grpc().fetch(with_parent(fetch(id), &traceparent)).await;
        assert_eq!(answer.is_ok(), status == "OK");
        let trace = jaeger.trace_with(&trace, &[FETCH]).await;
        let call = trace.only(FETCH);
        assert_eq!((call.tag("rpc.response.status_code"), call.parent.as_deref()), (status, Some(span.as_str())));
        assert_eq!((call.tag("messaging.destination.name"), call.tag("error")), ("calls", ""));
        assert_eq!(call.tag("messaging.operation.type"), "receive");
    }
    let (traceparent, trace, _) = caller("01");
    let request = SubscribeRequest { subject: "calls".to_owned(), after_id: Some(0) };
    let mut stream = client.grpc().subscribe(with_parent(request, &traceparent)).await.expect("open").into_inner();
    assert_eq!(stream.message().await.expect("goes on").expect("a message").id, 1);
    assert!(jaeger.trace(&trace).await.is_none(), "it lasts");
    drop(stream);
    let trace = jaeger.trace_with(&trace, &[SUBSCRIBE]).await;
    assert_eq!(trace.only(SUBSCRIBE).tag("rpc.response.status_code"), "CANCELLED");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_stream_is_a_trace_of_its_own() {
    const MESSAGES: usize = 50;
    let jaeger = shared();
    let broker = jaeger.setup("1").start().await;
    let client = broker.client().await;
    let stream = client.publish_stream().await;
    for _ in 0..MESSAGES {
        stream.send("streamed", "x", 3_600).await;
    }
    stream.send("", "no subject", 0).await;
    let mut answers = stream.answers;
    assert_eq!(answers.next_ids(MESSAGES).await.len(), MESSAGES);
    answers.next().await.expect_err("a subject is needed");
    drop(stream.requests);
    broker.all_projected().await;
    let traces = eventually("a trace for each message", || async {
        let traces = jaeger.traces_of("streamed").await;
        let whole = traces.iter().filter(|trace| trace.named("project").count() == 1).count();
        (whole == MESSAGES).then_some(traces)
    })
    .await;
    assert_eq!(traces.len(), MESSAGES);
    for trace in &traces {
        let message = trace.only(MESSAGE);
        assert_eq!((message.tag("rpc.response.status_code"), message.parent.as_ref()), ("OK", None));
        let stages = ["admission", "queue", "commit"].map(|name| trace.only(name));
        assert!(stages.iter().all(|stage| stage.parent.as_ref() == Some(&message.id)));
        let sum: u64 = stages.iter().map(|stage| stage.length).sum();
        assert!(sum.abs_diff(message.length) <= 8, "{sum} of {} us", message.length);
        assert_eq!(stages[2].links.len(), 1, "the frame");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_refused_says_so() {
    let jaeger = shared();
    let broker = jaeger.setup("0").start().await;
    let (traceparent, trace, _) = caller("01");
    let request = walcast::proto::client::PublishRequest::default();
    let refused = broker.client().await.publish_request(with_parent(request, &traceparent)).await;
    assert_eq!(error_reason(&refused.expect_err("a subject is needed")), "INVALID_SUBJECT");
    let trace = jaeger.trace_with(&trace, &["broker.Broker/Publish"]).await;
    assert_eq!(trace.only("broker.Broker/Publish").tag("rpc.response.status_code"), "INVALID_ARGUMENT");
    assert_eq!(trace.spans.len(), 1, "it never was a publish: {trace:#?}");
    broker.stop().await;
}
