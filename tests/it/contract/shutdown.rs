//! Shutting down: SIGTERM in its order, a second signal, and what clients see of it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Broker, Setup, body_of, error_reason, within_patience};

/// What the broker answers while it stops is UNAVAILABLE. A call that meets the closing connection gets
/// whatever name the client's own transport has for that; the server never saw it.
fn is_a_stop(status: &Status) {
    if std::error::Error::source(status).is_none() {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(status.message(), "service is unavailable", "{status:?}");
        assert!(!error_reason(status).is_empty());
    }
}

/// The exit code of README's table.
const SECOND_SIGNAL: i32 = 143;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_without_work_exits_0() {
    let broker = Broker::start().await;
    broker.stop().await.start().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_is_an_orderly_stop_too() {
    let broker = Broker::start().await;
    broker.signal(Signal::INT);
    assert_eq!(broker.wait().await.0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_watchers_see_not_serving_and_hold_nothing_up() {
    let broker = Broker::start().await;
    let mut health = HealthClient::new(broker.client().await.channel());
    let watch = health.watch(HealthCheckRequest { service: "broker.Broker".to_owned() }).await.expect("known");
    let mut watch = watch.into_inner();
    let first = watch.message().await.expect("whole").expect("a first answer");
    assert_eq!(first.status(), ServingStatus::Serving);
    broker.signal(Signal::TERM);
    let second = within_patience("NOT_SERVING", watch.message()).await.expect("whole").expect("a second answer");
    assert_eq!(second.status(), ServingStatus::NotServing);
    let end = within_patience("the end of the watch", watch.message()).await.expect_err("it ends with the broker");
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert_eq!(error_reason(&end), "SHUTTING_DOWN");
    let asked = Instant::now();
    assert_eq!(broker.wait().await.0.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3), "the client keeps its connection: {:?}", asked.elapsed());
}

/// A peer that speaks HTTP/2 and then answers nothing any more, not even the ping that asks whether it has seen the end.
async fn dead_connection(broker: &Broker) -> TcpStream {
    let mut dead = TcpStream::connect(broker.grpc()).await.expect("the broker accepts");
    dead.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    // It is being served once its SETTINGS are answered.
    dead.read_exact(&mut [0; 9]).await.expect("SETTINGS");
    dead
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_does_not_use_up_the_grace() {
    let broker = Setup::new().set("shutdown.grace", "10m").start().await;
    let _dead = dead_connection(&broker).await;
    let asked = Instant::now();
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait().await.0.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_unavailable_and_have_everything_that_was_acknowledged() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut streams = [client.subscribe("s").await, broker.client().await.subscribe("s").await];
    for number in 1..=100 {
        client.publish("s", body_of("s", number), 0).await.expect("accepted");
    }
    broker.signal(Signal::TERM);
    for stream in &mut streams {
        let (ids, status) = stream.drain().await;
        assert_eq!(ids, (1..=100).collect::<Vec<_>>());
        let status = status.expect("an end with a status");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    drop((streams, client));
    assert_eq!(broker.wait().await.0.code(), Some(0));
}

/// Every publish is either answered with an id, and then kept, or refused with UNAVAILABLE.
#[tokio::test(flavor = "multi_thread")]
async fn publishes_in_flight_are_made_durable_and_answered() {
    let broker = Broker::start().await;
    let mut publishers = JoinSet::new();
    for publisher in 0..64 {
        let client = broker.client().await;
        publishers.spawn(async move {
            let subject = format!("flight-{publisher}");
            for number in 1.. {
                match client.publish(&subject, body_of(&subject, number), 3_600).await {
                    Ok(id) => assert_eq!(id as u64, number),
                    Err(status) => {
                        is_a_stop(&status);
                        return (subject, number - 1);
                    }
                }
            }
            unreachable!("it publishes until it is refused")
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let broker = broker.stop().await.start().await;
    let client = broker.client().await;
    let mut acknowledged = 0;
    for (subject, last) in publishers.join_all().await {
        acknowledged += last;
        for number in 1..=last {
            assert_eq!(client.fetch_body(&subject, number as i32).await, body_of(&subject, number));
        }
        // An orderly stop answers whatever it logged: nothing was kept that nobody was told of.
        assert_eq!(client.publish_kept(&subject, "next").await as u64, last + 1, "{subject}");
    }
    assert!(acknowledged > 64, "the load was on before the signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_after_sigterm_are_refused_with_unavailable() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    client.publish_kept("s", "x").await;
    let mut stream = client.subscribe("s").await;
    broker.signal(Signal::TERM);
    let end = within_patience("the end of the stream", stream.drain()).await.1.expect("a status");
    assert_eq!(end.code(), Code::Unavailable);
    for _ in 0..20 {
        for status in [
            client.publish("s", "x", 60).await.map(drop),
            client.fetch("s", 1).await.map(drop),
            client.try_subscribe("s").await.map(drop),
        ] {
            is_a_stop(&status.expect_err("no new calls"));
        }
    }
    assert_eq!(broker.wait().await.0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_exits_at_once_and_what_was_acknowledged_stays() {
    let broker = Setup::new().set("shutdown.grace", "10m").start().await;
    let client = broker.client().await;
    for number in 1..=50 {
        client.publish_kept("s", body_of("s", number)).await;
    }
    drop(client);
    // Holds the orderly stop up for some seconds.
    let _dead = dead_connection(&broker).await;
    broker.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = Instant::now();
    broker.signal(Signal::TERM);
    let (exit, stopped) = broker.wait().await;
    assert_eq!(exit.code(), Some(SECOND_SIGNAL));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let broker = stopped.start().await;
    let client = broker.client().await;
    for number in 1..=50 {
        assert_eq!(client.fetch_body("s", number as i32).await, body_of("s", number));
    }
}
