//! Streams that last: quiet subscriptions, deadlines of everything else, and an Envoy that drains.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::{Code, Request};
use walcast::proto::client::PublishRequest;

use crate::envoy::{Plan, shipped};
use crate::support::{Broker, Client, Setup, within_patience};

/// The shipped 30 s for a whole call are two.
fn hasty(plan: Plan) -> Plan {
    plan.edit(
        "max_stream_duration: 30s, grpc_timeout_header_max: 30s",
        "max_stream_duration: 2s, grpc_timeout_header_max: 2s",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_quiet_for_longer_than_every_timeout_go_on() {
    const QUIET: Duration = Duration::from_secs(4);
    let broker = Broker::start().await;
    let plan = hasty(Plan::before([&broker])).edit("idle_timeout: 3600s", "idle_timeout: 1s");
    let plan = plan.edit("stream_idle_timeout: 30s", "stream_idle_timeout: 1s");
    // The control: without the exception of Subscribe, a quiet subscription is cut.
    let cutting = plan.clone().edit("timeout: 0s\n                  idle_timeout: 0s\n", "timeout: 0s\n");
    let (envoy, cutting) = (plan.start().await, cutting.start().await);
    let (client, control) = (Client::connect(envoy.grpc()).await, Client::connect(cutting.grpc()).await);
    let (mut subscription, mut cut) = (client.subscribe("s").await, control.subscribe("s").await);
    let stream = client.publish_stream().await;
    tokio::time::sleep(QUIET).await;
    client.publish_kept("s", "after the silence").await;
    assert_eq!(subscription.next().await.id, 1, "the subscription was there all the time");
    stream.send("s", "late", 60).await;
    let mut answers = stream.answers;
    assert_eq!((answers.next().await, subscription.next().await.id), (Ok(2), 2));
    cut.try_next().await.expect_err("the control was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_end_is_ended() {
    let broker = Broker::start().await;
    // Nothing else of the file is changed: it is this that ends them, and no other timeout.
    let envoy = hasty(Plan::before([&broker])).start().await;
    let client = Client::connect(envoy.grpc()).await;
    client.publish_kept("s", "x").await;
    // A broker that is frozen: Envoy does not wait for its health check, or the client's deadline.
    broker.signal(rustix::process::Signal::STOP);
    let begun = Instant::now();
    let ended = client.publish("s", "x", 0).await.expect_err("nobody answers");
    let took = begun.elapsed();
    println!("a call without an answer: {:?} {:?} after {took:?}", ended.code(), ended.message());
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
    assert!(took > Duration::from_millis(1_900) && took < Duration::from_secs(4), "{took:?}");
    broker.signal(rustix::process::Signal::CONT);
    envoy.healthy(1).await;
    // A body that comes a byte at a time: no idle timeout sees it.
    let (code, took) = trickle(envoy.grpc()).await;
    println!("a body without an end: {code:?} after {took:?}");
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(took > Duration::from_millis(1_900) && took < Duration::from_secs(4), "{took:?}");
    client.publish_kept("s", "others go on").await;
}

/// Envoy does not look at a route's `timeout` beside `max_stream_duration`: the file must not say one.
#[test]
fn a_route_says_no_timeout_that_does_not_count() {
    let without_comments = shipped().lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>();
    let routes = without_comments.join("\n");
    let broker = routes.split("- match: ").filter(|route| route.contains("max_stream_duration")).collect::<Vec<_>>();
    assert_eq!(broker.len(), 6, "those of calls that end");
    let wrong: Vec<_> = broker.iter().filter(|route| route.contains(" timeout: ")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A publish that claims 1,000 bytes and sends one every 100 ms; gives how and when it ended.
async fn trickle(address: &str) -> (Code, Duration) {
    let begun = Instant::now();
    let socket = tokio::net::TcpStream::connect(address).await.expect("it accepts");
    let (mut connection, driver) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(driver);
    let request = http::Request::post(format!("http://{address}/broker.Broker/Publish"));
    let request =
        request.header("content-type", "application/grpc").header("te", "trailers").body(()).expect("a request");
    let (answer, mut body) = connection.send_request(request, false).expect("headers are sent");
    body.send_data(Bytes::from_static(&[0, 0, 0, 3, 232]), false).expect("it is open");
    let sending = async {
        while body.send_data(Bytes::from_static(&[0]), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = within_patience("an answer", answer) => answer.expect("an answer"),
        () = sending => unreachable!("it never ends"),
    };
    let status = tonic::Status::from_header_map(answer.headers()).expect("a gRPC status");
    (status.code(), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_client_reaches_the_broker() {
    let broker = Broker::start().await;
    let envoy = Plan::before([&broker]).start().await;
    let client = Client::connect(envoy.grpc()).await;
    broker.signal(rustix::process::Signal::STOP);
    let mut request = Request::new(PublishRequest { subject: "s".to_owned(), ..PublishRequest::default() });
    request.set_timeout(Duration::from_millis(300));
    let begun = Instant::now();
    client.publish_request(request).await.expect_err("nobody answers");
    assert!(begun.elapsed() < Duration::from_secs(2));
    broker.signal(rustix::process::Signal::CONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_drains_ends_no_call_and_sends_clients_away() {
    let broker = Setup::new().start().await;
    let envoy = Plan::before([&broker]).start().await;
    let client = Client::connect(envoy.grpc()).await;
    let mut subscription = client.subscribe("s").await;
    assert_eq!(envoy.post("/drain_listeners?graceful&skip_exit").await, 200);
    let mut sent_again = 0;
    for id in 1..=300 {
        // The client's library fails a call that it makes when it has just been sent away; no broker has seen it.
        while let Err(status) = client.publish("s", "x", 60).await {
            assert!(status.code() == Code::Cancelled, "{status:?}");
            sent_again += 1;
        }
        assert_eq!(subscription.next().await.id, id, "the subscription goes on, and nothing came twice");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let sent_away = envoy.count("http.broker.downstream_cx_drain_close").await;
    println!("answers that sent a client away: {sent_away}, calls that this cost: {sent_again}");
    assert!(sent_away > 0 && sent_again <= 5, "{sent_away} {sent_again}");
}
