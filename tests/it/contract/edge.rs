//! What stands around the contract: health, reflection, metrics, the admin port, start-up lines.

use tokio_stream::StreamExt as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Reflected;

use crate::support::{Broker, Setup, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_for_the_server_and_for_the_service() {
    let broker = Broker::start().await;
    let mut health = HealthClient::new(broker.client().await.channel());
    for service in ["", "broker.Broker"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.expect("known");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "broker.Other".to_owned() }).await.expect_err("unknown");
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

async fn reflect(broker: &Broker, ask: MessageRequest) -> Reflected {
    let mut reflection = ServerReflectionClient::new(broker.client().await.channel());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.expect("it is served");
    answers
        .get_mut()
        .next()
        .await
        .expect("one answer")
        .expect("it is whole")
        .message_response
        .expect("it says something")
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_tells_services_methods_and_messages() {
    let broker = Broker::start().await;
    let Reflected::ListServicesResponse(list) = reflect(&broker, MessageRequest::ListServices(String::new())).await
    else {
        panic!("not a list of services")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for expected in ["broker.Broker", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
    }
    for symbol in ["broker.Broker", "broker.Broker.Publish", "broker.MessageResponse"] {
        let ask = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let Reflected::FileDescriptorResponse(files) = reflect(&broker, ask).await else {
            panic!("{symbol} is not described")
        };
        assert!(!files.file_descriptor_proto.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_names_that_operators_know() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let subscription = client.subscribe("s").await;
    for _ in 0..3 {
        client.publish_kept("s", "x").await;
    }
    client.fetch_body("s", 1).await;
    client.fetch("s", 99).await.expect_err("never published");
    client.publish("", "x", 0).await.expect_err("no subject");
    let metrics = broker.get("/metrics").await.expect("it answers");
    assert_eq!(metrics.status, 200);
    assert!(metrics.headers.to_lowercase().contains("content-type: text/plain"), "{}", metrics.headers);
    for (name, value) in [("active_subscribers", 1.0), ("method_duration_count", 6.0), ("method_count", 6.0)] {
        assert!(metrics.metric(name) >= value, "{name} in {}", metrics.body);
    }
    let series = |start: &str| metrics.body.lines().any(|line| line.starts_with(start));
    assert!(series("method_count{method="), "{}", metrics.body);
    assert!(metrics.body.lines().any(|line| line.starts_with("method_count{") && line.contains("status=")));
    assert!(series("method_duration_bucket{"), "a histogram");
    assert!(metrics.body.contains("le=\"0.0001\""), "buckets from 100 us");
    assert_eq!(broker.position("durable").await, 3.0, "{}", metrics.body);
    drop(subscription);
    // A stream is counted when it ends, with the status that it ends with.
    let ended = r#"method_count{method="Subscribe",status="CANCELLED"}"#;
    eventually("the end to be counted", || async { (broker.metric(ended).await == 1.0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_subject_becomes_a_label() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    client.publish_kept("first-secret-subject", "x").await;
    let before = broker.get("/metrics").await.expect("it answers").body;
    for number in 0..50 {
        client.publish_kept(&format!("secret-subject-{number}"), "x").await;
    }
    let after = broker.get("/metrics").await.expect("it answers").body;
    assert!(!after.contains("secret-subject"));
    assert_eq!(before.lines().count(), after.lines().count(), "the number of series does not grow with subjects");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_tells_life_readiness_and_status() {
    let broker = Broker::start().await;
    broker.client().await.publish_kept("s", "x").await;
    assert_eq!(broker.get("/livez").await.expect("it answers").status, 200);
    let ready = broker.get("/readyz").await.expect("it answers");
    assert_eq!(ready.status, 200);
    assert!(ready.json().is_object(), "each part by name: {}", ready.body);
    let status = broker.get("/status").await.expect("it answers");
    assert_eq!(status.status, 200);
    assert!(status.body.contains(env!("CARGO_PKG_VERSION")), "{}", status.body);
    assert!(status.json().is_object());
    assert_eq!(broker.get("/nothing").await.expect("it answers").status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ports_asked_for_are_the_ports_taken() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let broker = Setup::new().arg("--listen").arg(&address).start().await;
    assert_eq!(broker.grpc(), address);
    assert_ne!(broker.admin(), address);
}
