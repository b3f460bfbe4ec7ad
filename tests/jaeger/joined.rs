//! From one publish to its fsync, its database transaction and its delivery; also across a restart.

use tonic::Request;
use walcast::proto::client::PublishRequest;

use crate::jaeger::{Jaeger, shared};
use crate::picture::{CALL, Picture, SHARED, STAGES};
use crate::server::Server;
use crate::support::{Broker, Client, Setup};

const STALLED: &str = "projection waits for the store";

/// A new place in a new trace: its traceparent, the trace and the span.
pub fn caller(flags: &str) -> (String, String, String) {
    let (trace, span) = (format!("{:032x}", rand::random::<u128>()), format!("{:016x}", rand::random::<u64>()));
    (format!("00-{trace}-{span}-{flags}"), trace, span)
}

/// A request with this traceparent.
pub fn with_parent<T>(message: T, traceparent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("ASCII"));
    request
}

/// Publishes with this traceparent, kept for an hour.
pub async fn publish(client: &Client, subject: &str, traceparent: &str) -> i32 {
    let request = PublishRequest {
        subject: subject.to_owned(),
        body: "hello".into(),
        expiration_seconds: 3_600,
        ..PublishRequest::default()
    };
    client.publish_request(with_parent(request, traceparent)).await.expect("published")
}

fn on_postgres(jaeger: &Jaeger, server: &Server, database: &str) -> Setup {
    jaeger.setup("0").store("postgres").arg("--postgres-url").arg(server.url(database))
}

/// One publish with a subscriber.
async fn picture(jaeger: &Jaeger, broker: &Broker, subject: &str) -> (Picture, String) {
    let client = broker.client().await;
    let mut subscription = client.subscribe(subject).await;
    let (traceparent, trace, span) = caller("01");
    assert_eq!(publish(&client, subject, &traceparent).await, 1);
    assert_eq!(subscription.next().await.traceparent, traceparent, "as it came");
    (Picture::of(jaeger, &trace).await, span)
}

#[tokio::test(flavor = "multi_thread")]
async fn tour_of_one_publish_from_its_call_to_fsync_database_and_subscriber() {
    let (jaeger, server) = (shared(), Server::start());
    let broker = on_postgres(jaeger, &server, &server.database().await).start().await;
    let (picture, span) = picture(jaeger, &broker, "tour").await;
    println!("{}", picture.show());
    assert_eq!(picture.problems(&span), Vec::<String>::new(), "{}", picture.show());

    let call = picture.own.only(CALL);
    for (key, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.method", CALL),
        ("rpc.response.status_code", "OK"),
        ("span.kind", "server"),
        ("messaging.system", "walcast"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "tour"),
        ("messaging.message.id", "1"),
        ("messaging.message.body.size", "5"),
    ] {
        assert_eq!(call.tag(key), value, "{key}: {call:?}");
    }
    let all = || picture.linked.values().flat_map(|trace| &trace.spans);
    let batch = all().find(|span| span.name == "project batch").expect("it is linked");
    assert_eq!((batch.tag("db.system.name"), batch.tag("walcast.outcome")), ("postgresql", "applied"));
    assert_eq!((batch.tag("db.operation.batch.size"), batch.tag("walcast.store.retries")), ("1", "0"));
    let [process] = &picture.own.processes[..] else { panic!("one broker: {:?}", picture.own.processes) };
    assert_eq!(process.get("service.version").map(String::as_str), Some(env!("CARGO_PKG_VERSION")));
    assert!(process.contains_key("service.instance.id"), "{process:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_without_any_one_of_its_spans_is_found_wanting() {
    let jaeger = shared();
    let broker = jaeger.setup("0").start().await;
    let (whole, span) = picture(jaeger, &broker, "wanting").await;
    assert_eq!(whole.problems(&span), Vec::<String>::new(), "{}", whole.show());
    for name in STAGES.into_iter().chain([CALL, "project", "deliver"]) {
        let mut picture = whole.clone();
        picture.own.spans.retain(|span| span.name != name);
        let problems = picture.problems(&span);
        assert!(problems.iter().any(|problem| problem.contains(name)), "without {name}: {problems:?}");
    }
    for (name, batch) in SHARED.into_iter().chain([("fdatasync", "fdatasync")]) {
        let mut picture = whole.clone();
        picture.linked.values_mut().for_each(|trace| trace.spans.retain(|span| span.name != batch));
        assert!(picture.problems(&span).iter().any(|problem| problem.contains(name)), "without {batch}");
        let mut picture = whole.clone();
        let spans = picture.linked.values_mut().flat_map(|trace| &mut trace.spans);
        spans.filter(|span| span.name == batch).for_each(|span| span.links.clear());
        assert_eq!(picture.problems(&span).is_empty(), batch == "fdatasync", "{batch} without its links");
    }
    let mut picture = whole.clone();
    picture.own.spans.iter_mut().filter(|span| span.name == "queue").for_each(|span| span.length += 100);
    assert!(picture.problems(&span).iter().any(|problem| problem.starts_with("the stages take")));
    assert!(!whole.problems("0000000000000001").is_empty(), "another caller");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_after_kill_nine_joins_the_trace_of_its_publish() {
    let (jaeger, server) = (shared(), Server::start());
    let database = server.database().await;
    let setup = on_postgres(jaeger, &server, &database).set("store.postgres.connect_timeout", "1s");
    let broker = setup.expect_log(STALLED).start().await;
    let (traceparent, trace, span) = caller("01");
    server.stop();
    publish(&broker.client().await, "restart", &traceparent).await;
    let before = jaeger.trace_with(&trace, &[CALL, "commit", "answer"]).await;
    assert_eq!(before.named("project").count(), 0, "the database is away");
    let broker = broker.kill_nine().await;
    server.start_again();
    let broker = broker.start().await;
    let after = Picture::around(jaeger, jaeger.trace_with(&trace, &["project"]).await).await;
    let project = after.own.only("project");
    assert_eq!(project.parent.as_deref(), Some(span.as_str()));
    assert!(project.begin > after.own.only(CALL).begin);
    assert_eq!(project.tag("messaging.message.id"), "1");
    let only_missing = after.problems(&span);
    assert_eq!(only_missing, ["0 spans deliver"], "nobody was subscribed: {}", after.show());
    let instances: Vec<_> = after.own.processes.iter().map(|process| process.get("service.instance.id")).collect();
    assert!(instances.iter().all(|instance| *instance == instances[0]), "the same broker: {instances:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_without_a_caller_begins_with_the_call_and_goes_on_with_its_record() {
    let jaeger = shared();
    let broker = jaeger.setup("1").start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("own").await;
    client.publish_kept("own", "hello").await;
    let handed_out = subscription.next().await.traceparent;
    let (trace, span) = (&handed_out[3..35], &handed_out[36..52]);
    let own = jaeger.trace_with(trace, &[CALL, "project", "deliver"]).await;
    let call = own.only(CALL);
    assert_eq!((call.parent.as_ref(), call.id.as_str()), (None, span), "{own:#?}");
    for name in STAGES.into_iter().chain(["project", "deliver"]) {
        assert_eq!(own.only(name).parent.as_deref(), Some(span), "{name}");
    }
    broker.stop().await;
}
