//! What is full says so, with when to come back, and harms nobody else.

use std::fs;
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{
    Mounted, Setup, broker_on_a_small_disk, error_reason, eventually, random_bytes, raw, within_patience,
};

fn is_full_for_now(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(!error_reason(status).is_empty());
    let retry = status.get_details_retry_info().unwrap_or_else(|| panic!("waiting helps, so say how long: {status:?}"));
    assert!(retry.retry_delay.is_some_and(|delay| delay > Duration::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subscriber_too_many_is_told_to_come_back_and_can() {
    let broker = Setup::new().set("limits.subscribers", "3").start().await;
    let client = broker.client().await;
    let mut subscriptions = vec![client.subscribe("a").await, client.subscribe("a").await, client.subscribe("b").await];
    is_full_for_now(&client.try_subscribe("a").await.expect_err("one too many"));
    drop(subscriptions.pop());
    let mut late = eventually("a free place", || async { client.try_subscribe("a").await.ok() }).await;
    client.publish_kept("a", "x").await;
    for subscription in subscriptions.iter_mut().chain([&mut late]) {
        assert_eq!(subscription.next().await.id, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_closed_and_the_others_go_on() {
    let broker = Setup::new().set("limits.connections", "2").start().await;
    let client = broker.client().await;
    let other = broker.client().await;
    other.publish_kept("s", "x").await;
    let mut late = tokio::net::TcpStream::connect(broker.grpc()).await.expect("the kernel accepts");
    let read = within_patience("the end", tokio::io::AsyncReadExt::read(&mut late, &mut [0; 64])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    client.publish_kept("s", "x").await;
    let refused = r#"walcast_connections_refused_total{reason="limit"} 1"#;
    let metrics = broker.get("/metrics").await.expect("it answers").body;
    assert!(metrics.lines().any(|line| line == refused), "{metrics}");
    drop(other);
    eventually("a free place", || async { (broker.metric("walcast_connections").await < 2.0).then_some(()) }).await;
    broker.client().await.publish_kept("s", "x").await;
}

/// Each request keeps a little less than a body to itself and never becomes whole.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_requests_are_bounded_over_all_calls() {
    let broker = Setup::new().set("limits.request_bytes", "2MiB").start().await;
    let calls = raw::unfinished(broker.grpc(), "/broker.Broker/Publish", 1_000_000, 300_000, 20).await;
    let (refused, held): (Vec<_>, Vec<_>) = calls.into_iter().partition(Option::is_some);
    assert!((4..=7).contains(&held.len()), "{} of 20 are held", held.len());
    for status in refused.iter().flatten() {
        is_full_for_now(status);
        assert_eq!(error_reason(status), "TOO_MANY_REQUEST_BYTES");
    }
    // The connection is gone with its calls: there is room for others.
    let client = broker.client().await;
    eventually("room again", || async { client.publish("s", random_bytes(1, 900_000), 60).await.ok() }).await;
}

/// Large answers to a reader that gives no window are copies that wait.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_bounded_over_all_calls() {
    let broker = Setup::new().set("limits.answer_bytes", "2MiB").start().await;
    let client = broker.client().await;
    client.publish_kept("s", random_bytes(1, 900_000)).await;
    let reader = raw::Reluctant::connect(broker.grpc()).await;
    let before = broker.resident_bytes();
    for _ in 0..200 {
        reader.fetch("s", 1).await;
    }
    let status = eventually("the bound", || async { client.fetch("s", 1).await.err() }).await;
    is_full_for_now(&status);
    assert_eq!(error_reason(&status), "TOO_MANY_ANSWER_BYTES");
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 40 * 1024 * 1024, "{grown} bytes for answers of 180 MB");
    drop(reader);
    eventually("room again", || async { client.fetch("s", 1).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subject_too_many_is_refused_and_the_others_go_on() {
    let broker = Setup::new().set("limits.subjects", "3").start().await;
    let client = broker.client().await;
    for subject in ["a", "b", "c"] {
        assert_eq!(client.publish_kept(subject, "x").await, 1);
    }
    let status = client.publish("d", "x", 60).await.expect_err("one too many");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("limits.subjects"), "{status:?}");
    let refused = |reason: &str| format!("walcast_publishes_rejected_total{{reason=\"{reason}\"}}");
    assert!(broker.metric(&refused("subjects_full")).await >= 1.0, "the way out is another than with ids");
    assert_eq!(broker.metric(&refused("ids_exhausted")).await, 0.0);
    assert_eq!(client.publish_kept("a", "x").await, 2);
    let broker = broker.kill_nine().await.start().await;
    let client = broker.client().await;
    assert_eq!(client.publish("d", "x", 60).await.expect_err("still").code(), Code::ResourceExhausted);
    assert_eq!(client.publish_kept("c", "x").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_bytes_in_flight_are_refused_without_taking_ids() {
    let setup = Setup::new().set("limits.body_bytes", "256KiB").set("limits.subscriber_bytes", "1MiB");
    let broker = setup.set("limits.in_flight_bytes", "1MiB").set("limits.admission_wait", "0s").start().await;
    let client = broker.client().await;
    let mut publishes = JoinSet::new();
    for number in 0..64 {
        let client = client.clone();
        publishes.spawn(async move { client.publish("crowded", random_bytes(number, 256 * 1024), 0).await });
    }
    let (taken, refused): (Vec<_>, Vec<_>) = publishes.join_all().await.into_iter().partition(Result::is_ok);
    for status in refused.into_iter().filter_map(Result::err) {
        is_full_for_now(&status);
    }
    let mut ids: Vec<i32> = taken.into_iter().filter_map(Result::ok).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=ids.len() as i32).collect::<Vec<_>>());
    let next = eventually("room again", || async { client.publish("crowded", "x", 0).await.ok() }).await;
    assert_eq!(next, ids.len() as i32 + 1);
}

/// The disk fills up with other things while the broker runs, and is emptied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_refuses_publishes_only_and_until_there_is_room() {
    let (_disk, broker, ballast) = broker_on_a_small_disk().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("s").await;
    let body = random_bytes(1, 60 * 1024);
    let mut last = client.publish_kept("s", body.clone()).await;
    // More than there is: the write stops where the disk ends.
    fs::write(&ballast, vec![1; 64 << 20]).expect_err("the disk is full");
    let status = loop {
        match client.publish("s", body.clone(), 3_600).await {
            Ok(id) => {
                assert_eq!(id, last + 1);
                last = id;
            }
            Err(status) => break status,
        }
    };
    is_full_for_now(&status);
    // Everything else goes on.
    assert!(client.fetch_body("s", last).await == body);
    assert_eq!(subscription.next_ids(last as usize).await, (1..=last).collect::<Vec<_>>());
    is_full_for_now(&client.publish("s", body.clone(), 3_600).await.expect_err("still full"));

    fs::remove_file(&ballast).expect("removed");
    let next = eventually("room again", || async { client.publish("s", body.clone(), 3_600).await.ok() }).await;
    assert_eq!(next, last + 1, "refused publishes took no id");
    let broker = broker.kill_nine().await.start().await;
    assert_eq!(broker.client().await.publish_kept("s", body).await, next + 1);
}

/// The store's disk is full: that stalls the projection and nothing else, until there is room again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stalls_the_embedded_store_and_does_not_end_the_broker() {
    let setup = Setup::new();
    let disk = Mounted::tmpfs(&setup, "size=160M");
    let ballast = disk.at().join("ballast");
    let setup = setup.data_dir(disk.at().join("data")).set("log.segment_bytes", "2MiB");
    let broker = setup.expect_log("projection waits for the store").start().await;
    let client = broker.client().await;
    client.publish_kept("s", "before").await;
    eventually("the first in the store", || async { (broker.position("projected").await == 1.0).then_some(()) }).await;
    let free = rustix::fs::statvfs(disk.at()).expect("a disk");
    // Room for the log, less than the reserve of the store.
    let filler = (free.f_bavail * free.f_frsize) as usize - (12 << 20);
    fs::write(&ballast, vec![1; filler]).expect("it fits");
    let id = client.publish_kept("s", "while it is full").await;
    eventually("the stall to show", || async {
        broker.get("/status").await?.body.contains("bytes are free").then_some(())
    })
    .await;
    assert_eq!(client.fetch_body("s", id).await, "while it is full");
    assert_eq!(client.fetch_body("s", 1).await, "before");

    fs::remove_file(&ballast).expect("removed");
    eventually("projection to go on", || async { (broker.position("projected").await == 2.0).then_some(()) }).await;
    let broker = broker.kill_nine().await.start().await;
    assert_eq!(broker.client().await.fetch_body("s", id).await, "while it is full");
}
