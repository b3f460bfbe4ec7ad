//! What the traces of publishes say of the log, and when.

use http::HeaderMap;
use opentelemetry::trace::Status;
use opentelemetry_sdk::trace::SpanData;
use tonic::Code;

use super::*;
use crate::telemetry::metrics::Method;
use crate::telemetry::traces::tests::traces;

/// Publishes with a trace of its own, and gives the spans.
async fn spans_of_one_more(rig: Rig, traces: Traces, out: flume::Receiver<SpanData>) -> Vec<SpanData> {
    drop(out.drain());
    let call = traces.call(Method::Publish, &HeaderMap::new()).expect("all are");
    let traced = Publish { trace: Some(call.publish()), ..publish("a", &[1; 8_000], 0) };
    let code = if rig.publisher.publish(traced).await.is_ok() { Code::Ok } else { Code::Unavailable };
    call.end(code);
    rig.publisher.stop().await;
    drop(rig.committer.join().expect("no panic"));
    rig.releaser.await.expect("no panic");
    out.drain().collect()
}

fn names(spans: &[SpanData]) -> Vec<&str> {
    spans.iter().map(|span| &*span.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_told_of_after_its_publishers_are_answered() {
    let (traces, out, _) = traces(1.0, 100);
    let spans = spans_of_one_more(rig_with(1024 * 1024, traces.clone()), traces, out).await;
    let mut told = names(&spans);
    // The call ends on the thread of its caller.
    told.retain(|name| !["answer", "broker.Broker/Publish"].contains(name));
    assert_eq!(told, ["admission", "queue", "commit", "fdatasync", "log commit"]);
    let [commit, frame] = ["commit", "log commit"].map(|name| spans.iter().find(|span| span.name == name));
    let (commit, frame) = (commit.expect("found"), frame.expect("found"));
    assert_eq!(commit.links[0].span_context.span_id(), frame.span_context.span_id());
    assert_eq!((&commit.status, &frame.status), (&Status::Unset, &Status::Unset));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fails_is_an_error_of_the_frame_and_of_its_publishes() {
    // The one more fails in its own fdatasync, or in that of the new segment that it needs.
    for before in [1, 7] {
        let (traces, out, _) = traces(1.0, 100);
        let rig = rig_with(1024 * 1024, traces.clone());
        for _ in 0..before {
            rig.publisher.publish(publish("a", &[1; 8_000], 0)).await.expect("an ack");
        }
        rig.disk.sync_fails.store(true, Ordering::SeqCst);
        let spans = spans_of_one_more(rig, traces, out).await;
        let failed = |span: &&SpanData| matches!(span.status, Status::Error { .. });
        let mut failed = spans.iter().filter(failed).map(|span| &*span.name).collect::<Vec<_>>();
        failed.sort_unstable();
        assert_eq!(failed, ["broker.Broker/Publish", "commit", "log commit"], "{before}: {spans:#?}");
        let mut told = names(&spans);
        told.sort_unstable();
        assert_eq!(told, ["admission", "answer", "broker.Broker/Publish", "commit", "log commit", "queue"]);
    }
}
