use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use opentelemetry_sdk::trace::SpanData;
use tonic::Code;

use super::*;
use crate::event::{MessageId, Subject};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Method;

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// Traces that are looked at here instead of being sent.
pub(crate) fn traces(ratio: f64, room: usize) -> (Traces, flume::Receiver<SpanData>, Metrics) {
    let (spans, out) = flume::bounded(room);
    let metrics = Metrics::new("test");
    let inner = Inner { threshold: threshold(ratio), spans, metrics: metrics.traces.clone() };
    (Traces(Some(Arc::new(inner))), out, metrics)
}

/// A call of this trace.
pub(crate) fn sampled_call(trace_id: &str) -> CallTrace {
    let traceparent = format!("00-{trace_id}-00f067aa0ba902b7-01");
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", traceparent.parse().expect("a header"));
    traces(0.0, 10).0.call(Method::Publish, &headers).expect("sampled")
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), HeaderValue::from_static(value))).collect()
}

fn subject() -> Subject {
    Subject::new("orders".to_owned()).expect("a subject")
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    span.attributes.iter().find(|pair| pair.key.as_str() == key).map(|pair| pair.value.as_str().into_owned())
}

#[test]
fn a_parent_decides_and_without_one_the_ratio() {
    for (ratio, pairs, expected) in [
        (0.0, &[("traceparent", SAMPLED)][..], true),
        (1.0, &[("traceparent", UNSAMPLED)], false),
        (1.0, &[("traceparent", "not one")], true),
        (1.0, &[], true),
        (0.0, &[], false),
    ] {
        let (traces, _out, _) = traces(ratio, 10);
        assert_eq!(traces.call(Method::Publish, &headers(pairs)).is_some(), expected, "{ratio} {pairs:?}");
    }
    let (all, _out, _) = traces(1.0, 10);
    assert!(all.call(Method::Other, &headers(&[])).is_none(), "health and reflection");
    assert!(Traces::off().call(Method::Publish, &headers(&[("traceparent", SAMPLED)])).is_none());
    let mut twice = headers(&[("traceparent", UNSAMPLED)]);
    twice.append("traceparent", HeaderValue::from_static(SAMPLED));
    assert!(all.call(Method::Fetch, &twice).is_some(), "several are as good as none");
}

#[test]
fn the_ratio_is_kept() {
    let (traces, _out, _) = traces(0.01, 10);
    let drawn = (0..1_000_000).filter(|_| traces.call(Method::Fetch, &HeaderMap::new()).is_some()).count();
    // 10,000 are expected; six standard deviations of sqrt(9,900) are 600.
    assert!((9_400..=10_600).contains(&drawn), "{drawn}");
}

#[test]
fn a_call_is_a_child_of_its_caller_and_carries_its_state_and_status() {
    let (traces, out, _) = traces(0.0, 10);
    let call = traces.call(Method::Fetch, &headers(&[("traceparent", SAMPLED), ("tracestate", "a=1,b=2")]));
    let call = call.expect("sampled");
    call.about(&subject(), None);
    call.end(Code::Unavailable);
    let span = out.recv().expect("a span");
    assert_eq!(span.name, "broker.Broker/Fetch");
    assert_eq!(span.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(span.span_context.trace_state().header(), "a=1,b=2");
    assert_eq!(attribute(&span, "rpc.response.status_code").as_deref(), Some("UNAVAILABLE"));
    assert_eq!(attribute(&span, "error.type").as_deref(), Some("UNAVAILABLE"));
    assert_eq!(attribute(&span, "messaging.destination.name").as_deref(), Some("orders"));
    assert!(matches!(span.status, opentelemetry::trace::Status::Error { .. }));
    assert!(out.is_empty());
}

#[test]
fn stages_of_a_publish_add_up_and_are_linked_with_its_frame() {
    let (traces, out, _) = traces(1.0, 20);
    let call = traces.call(Method::Publish, &HeaderMap::new()).expect("all are");
    let mut publish = call.publish();
    let pause = || std::thread::sleep(Duration::from_millis(2));
    pause();
    publish.queued(Instant::now());
    pause();
    let taken = Instant::now();
    let mut frame = traces.batch(|| true).expect("it is on");
    publish.committed(&mut frame, taken, MessageId::new(7).expect("an id"));
    pause();
    frame.end("log commit", taken..Instant::now(), About::messages(1));
    publish.answered(Instant::now());
    drop(publish);
    pause();
    call.end(Code::Ok);
    let spans: Vec<SpanData> = out.drain().collect();
    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}: {spans:#?}"));
    let (server, frame, commit) = (find("broker.Broker/Publish"), find("log commit"), find("commit"));
    let stages = ["admission", "queue", "commit", "answer"].map(find);
    let length = |span: &SpanData| span.end_time.duration_since(span.start_time).expect("not negative");
    assert_eq!(stages.iter().map(|stage| length(stage)).sum::<Duration>(), length(server));
    for pair in stages.windows(2) {
        assert_eq!(pair[0].end_time, pair[1].start_time);
        assert!(length(pair[0]) >= Duration::from_millis(2));
    }
    assert!(stages.iter().all(|stage| stage.parent_span_id == server.span_context.span_id()));
    assert_eq!(commit.links[0].span_context.span_id(), frame.span_context.span_id());
    assert_eq!(frame.links[0].span_context.span_id(), commit.span_context.span_id());
    assert_ne!(frame.span_context.trace_id(), server.span_context.trace_id());
    assert_eq!(attribute(server, "messaging.message.id").as_deref(), Some("7"));
    assert_eq!(spans.len(), 6);
}

#[test]
fn a_publish_that_is_refused_has_the_stages_that_it_came_to() {
    let (traces, out, _) = traces(1.0, 20);
    let call = traces.call(Method::Publish, &HeaderMap::new()).expect("all are");
    drop(call.publish());
    call.end(Code::ResourceExhausted);
    let names: Vec<_> = out.drain().map(|span| span.name).collect();
    assert_eq!(names, ["admission", "answer", "broker.Broker/Publish"]);

    drop(traces.message(None).expect("all are").whole_publish());
    let spans: Vec<SpanData> = out.drain().collect();
    assert_eq!(spans.len(), 2, "a message of a stream ends with its publish: {spans:?}");
    assert!(matches!(spans[1].status, opentelemetry::trace::Status::Error { .. }));
}

#[test]
fn a_publish_that_the_log_failed_shows_where() {
    let (traces, out, _) = traces(1.0, 20);
    let message = traces.message(None).expect("all are");
    let mut publish = message.whole_publish();
    let (queued, taken) = (Instant::now(), Instant::now());
    publish.queued(queued);
    let mut frame = traces.batch(|| true).expect("it is on");
    publish.log_failed(&mut frame, taken);
    drop(publish);
    frame.end("log commit", taken..Instant::now(), About::messages(1).failed("LOG_FAILED"));
    let spans: Vec<SpanData> = out.drain().collect();
    let failed = |span: &SpanData| matches!(span.status, opentelemetry::trace::Status::Error { .. });
    let told: Vec<_> = spans.iter().map(|span| (&*span.name, failed(span), attribute(span, "error.type"))).collect();
    let kind = |kind: &str| Some(kind.to_owned());
    assert_eq!(
        told,
        [
            ("admission", false, None),
            ("queue", false, None),
            ("commit", true, kind("LOG_FAILED")),
            ("broker.Broker/PublishStream", true, kind("UNAVAILABLE")),
            ("log commit", true, kind("LOG_FAILED")),
        ]
    );
    let (commit, frame) = (&spans[2], &spans[4]);
    assert_eq!(commit.links[0].span_context.span_id(), frame.span_context.span_id());
    assert_eq!(frame.links[0].span_context.span_id(), commit.span_context.span_id());
    assert_eq!(attribute(&spans[3], "messaging.message.id"), None, "it has none");
}

#[test]
fn links_are_bounded_and_the_rest_is_counted() {
    let (traces, out, _) = traces(1.0, 1_000);
    assert!(traces.batch(|| false).is_none());
    let mut batch = traces.batch(|| true).expect("it is on");
    let place = SpanPlace::sampled(SAMPLED).expect("sampled");
    let member = Member { place, subject: subject(), id: MessageId::new(1).expect("an id") };
    let begin = Instant::now();
    for _ in 0..200 {
        batch.member("project", &member, begin..begin);
    }
    batch.end("project batch", begin..Instant::now(), About::messages(200).store("postgres"));
    let spans: Vec<SpanData> = out.drain().collect();
    assert_eq!(spans.len(), LINKS_MAX + 1);
    let last = spans.last().expect("the batch");
    assert_eq!((last.links.len(), last.links.dropped_count), (LINKS_MAX, 72));
    assert_eq!(attribute(last, "walcast.links.left_off").as_deref(), Some("72"));
    assert_eq!(attribute(last, "db.system.name").as_deref(), Some("postgresql"));
    for (part, link) in spans.iter().zip(&last.links.links) {
        assert_eq!(part.span_context.span_id(), link.span_context.span_id());
        assert_eq!(part.parent_span_id, place.span);
    }
}

#[test]
fn what_finds_no_room_is_counted_and_nobody_waits() {
    let (traces, out, metrics) = traces(1.0, 2);
    for _ in 0..5 {
        traces.call(Method::Fetch, &HeaderMap::new()).expect("all are").end(Code::Ok);
    }
    assert_eq!((out.len(), metrics.traces.queue_full.get()), (2, 3));
}

#[test]
fn a_log_line_can_name_the_trace_it_belongs_to() {
    let (traces, _out, _) = traces(0.0, 10);
    let call = traces.call(Method::Publish, &headers(&[("traceparent", SAMPLED)])).expect("sampled");
    let now = || current_trace_id().map(|id| id.to_string());
    assert_eq!(now(), None);
    let entered = call.enter();
    assert_eq!(now().as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    drop(entered);
    assert_eq!(now(), None);
}

#[tokio::test]
async fn who_works_for_a_call_elsewhere_works_on_its_trace() {
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let now = || current_trace_id().map(|id| id.to_string());
    let entered = sampled_call(id).enter();
    let current = Current::here();
    drop(entered);
    let elsewhere = tokio::task::spawn_blocking(current.on_thread(now)).await.expect("no panic");
    assert_eq!((elsewhere.as_deref(), now()), (Some(id), None));
    let polled = current.on_task(async {
        let before = now();
        tokio::task::yield_now().await;
        (before, now())
    });
    let (at_first, after_a_pause) = tokio::join!(polled, async { assert_eq!(now(), None, "between two polls") }).0;
    assert_eq!((at_first.as_deref(), after_a_pause.as_deref()), (Some(id), Some(id)));
    let none = Current::here();
    let _busy = sampled_call(id).enter();
    assert_eq!(none.on_thread(now)(), None, "a call that is not traced is in no trace");
}

#[test]
fn texts_that_name_no_sampled_span_are_no_place() {
    let long = format!("cc{}-what-the-future", &SAMPLED[2..]);
    assert!(SpanPlace::sampled(SAMPLED).is_some() && SpanPlace::sampled(&long).is_some());
    for text in ["", UNSAMPLED, "größe", &"0".repeat(55), &"x".repeat(55), &SAMPLED[..54]] {
        assert_eq!(SpanPlace::sampled(text), None, "{text}");
    }
}
