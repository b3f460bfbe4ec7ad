//! Every series is moved by what it is named for, and the whole of them stays bounded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::Request;
use walcast::proto::client::PublishRequest;

use crate::support::{Broker, Client, Setup, eventually, random_bytes};

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// The histogram's count and its mean.
async fn observed(broker: &Broker, name: &str) -> (f64, f64) {
    let scraped = broker.get("/metrics").await.expect("the admin port answers");
    let (count, sum) = (scraped.metric(&format!("{name}_count")), scraped.metric(&format!("{name}_sum")));
    (count, sum / count.max(1.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_delivery_and_projection_move_their_series() {
    let broker = Broker::start().await;
    for name in ["durable", "projected"] {
        assert_eq!(broker.metric(&format!("walcast_position_timestamp_seconds{{position=\"{name}\"}}")).await, 0.0);
    }
    let client = broker.client().await;
    let mut subscription = client.subscribe("s").await;
    let before = now();
    for _ in 0..20 {
        client.publish_kept("s", "body").await;
    }
    subscription.next_ids(20).await;
    broker.all_projected().await;
    for name in [
        "walcast_queue_wait_seconds",
        "walcast_commit_duration_seconds",
        "walcast_fsync_duration_seconds",
        "walcast_delivery_duration_seconds",
    ] {
        let (count, mean) = observed(&broker, name).await;
        // One client that waits for each answer has a frame each.
        assert!(count == 20.0 && mean > 0.0 && mean < 5.0, "{name}: {count}, mean {mean}");
    }
    let (commit, fsync) = (
        observed(&broker, "walcast_commit_duration_seconds").await.1,
        observed(&broker, "walcast_fsync_duration_seconds").await.1,
    );
    assert!(commit > fsync, "the fdatasync is a part of the commit: {commit}, {fsync}");
    let (batches, age) = observed(&broker, "walcast_projection_age_seconds").await;
    assert!(batches >= 1.0 && age > 0.0 && age < 10.0, "{batches}, mean {age}");
    for name in ["durable", "projected"] {
        let at = broker.metric(&format!("walcast_position_timestamp_seconds{{position=\"{name}\"}}")).await;
        assert!(at > before - 1.0 && at < now() + 1.0, "{name}: {at}");
    }
    for (name, value) in [
        ("walcast_store_up", 1.0),
        ("walcast_log_failed", 0.0),
        ("walcast_projector_lag_seconds", 0.0),
        ("walcast_delivery_lag_messages", 0.0),
        ("walcast_delivery_queue_batches", 0.0),
        ("walcast_store_info{kind=\"embedded\"}", 1.0),
        ("walcast_store_info", 1.0),
        ("walcast_log_lines_total", 0.0),
        ("walcast_checkpoint_failures_total", 0.0),
    ] {
        assert_eq!(broker.metric(name).await, value, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_the_disk_are_those_of_the_broker() {
    let broker = Setup::new()
        .set("limits.in_flight_publishes", "44444")
        .set("log.max_bytes", "96MiB")
        .set("log.keep_bytes", "0")
        .start()
        .await;
    assert_eq!(broker.metric("walcast_limit{limit=\"in_flight_publishes\"}").await, 44_444.0);
    assert_eq!(broker.metric("walcast_limit{limit=\"log_bytes\"}").await, f64::from(96 << 20));
    let every_limit = broker.get("/metrics").await.expect("scraped").body;
    let zero = every_limit.lines().find(|line| line.starts_with("walcast_limit{") && line.ends_with(" 0"));
    assert_eq!(zero, None, "every bound is above 0");

    let disk = rustix::fs::statvfs(broker.data()).expect("it is there");
    assert_eq!(broker.metric("walcast_disk_total_bytes").await, (disk.f_blocks * disk.f_frsize) as f64);
    let (free, told) = ((disk.f_bavail * disk.f_frsize) as f64, broker.metric("walcast_disk_free_bytes").await);
    // Others write to the same disk meanwhile.
    assert!((free - told).abs() < 4e9 && told > 0.0, "{free}, {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_shows_as_lag_and_its_catching_up_as_reads() {
    let broker = Setup::new().set("limits.subscriber_bytes", "2MiB").set("limits.body_bytes", "64KiB").start().await;
    let client = broker.client().await;
    let mut slow = Client::connect_narrow(broker.grpc()).await.subscribe("torrent").await;
    let mut fast = client.subscribe("torrent").await;
    let body = random_bytes(1, 32 * 1024);
    for _ in 0..400 {
        client.publish("torrent", body.clone(), 60).await.expect("accepted");
    }
    fast.next_ids(400).await;
    let lag = broker.metric("walcast_delivery_lag_messages").await;
    assert!(lag > 200.0 && lag <= 400.0, "{lag} messages, and its connection holds no more than a few");
    slow.next_ids(400).await;
    eventually("no lag", || async { (broker.metric("walcast_delivery_lag_messages").await == 0.0).then_some(()) })
        .await;
    let (reads, mean) = observed(&broker, "walcast_delivery_catch_up_read_duration_seconds").await;
    assert!(reads >= 10.0 && mean > 0.0, "{reads} chunks of 256 KiB at most, mean {mean}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_had_to_do_is_told() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for _ in 0..5 {
        client.publish_kept("s", "body").await;
    }
    let broker = broker.kill_nine().await.start().await;
    assert_eq!(broker.metric("walcast_recovered_records").await, 5.0, "no checkpoint was due");
    assert!(broker.metric("walcast_recovery_duration_seconds").await > 0.0);
    assert_eq!(broker.metric("walcast_recovery_torn_bytes").await, 0.0);
    let broker = broker.stop().await.start().await;
    assert_eq!(broker.metric("walcast_recovered_records").await, 0.0, "an orderly stop takes a checkpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_show_their_age_and_what_they_cost() {
    let setup =
        Setup::new().set("log.segment_bytes", "1MiB").set("limits.body_bytes", "64KiB").set("log.keep_bytes", "0");
    let broker = setup.start().await;
    assert_eq!(broker.metric("walcast_checkpoint_duration_seconds").await, 0.0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let age = broker.metric("walcast_checkpoint_age_seconds").await;
    assert!(age >= 2.0, "{age}");
    let client = broker.client().await;
    eventually("a checkpoint", || async {
        client.publish("s", random_bytes(1, 60_000), 60).await.expect("accepted");
        (broker.metric("walcast_checkpoint_duration_seconds").await > 0.0).then_some(())
    })
    .await;
    assert!(broker.metric("walcast_checkpoint_age_seconds").await < age);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_the_store_are_timed() {
    let setup =
        Setup::new().set("log.segment_bytes", "1MiB").set("limits.body_bytes", "64KiB").set("log.keep_bytes", "0");
    let broker = setup.set("limits.hot_tail_bytes", "1MiB").start().await;
    let client = broker.client().await;
    eventually("the log to be trimmed", || async {
        client.publish("s", random_bytes(1, 60_000), 600).await.expect("accepted");
        (broker.position("trimmed").await > 1.0).then_some(())
    })
    .await;
    client.fetch_body("s", 1).await;
    let (reads, mean) = observed(&broker, "walcast_store_read_duration_seconds").await;
    assert!(reads == 1.0 && mean > 0.0, "{reads}, {mean}");
    assert_eq!(broker.metric("walcast_store_read_failures_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_what_the_log_has_risen_by() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let publish = |subject: &str, key: String| PublishRequest {
        subject: subject.to_owned(),
        body: "b".into(),
        idempotency_key: key,
        ..PublishRequest::default()
    };
    // Each key twice, alone and on a stream.
    for number in 0..10 {
        client.publish_request(Request::new(publish("alone", format!("key {}", number % 5)))).await.expect("accepted");
    }
    let requests = (0..20).map(move |number| publish("stream", format!("key {}", number % 10)));
    client.publish_all(requests).await.expect("begun").next_ids(20).await;
    client.publish("", "no subject", 0).await.expect_err("refused");
    let value = async |name: &str| broker.metric(name).await;
    let alone = value("method_count{method=\"Publish\",status=\"OK\"}").await;
    let (stream, repeated) =
        (value("walcast_stream_publishes_total").await, value("walcast_idempotency_duplicates_total").await);
    assert_eq!((alone, stream, repeated), (10.0, 20.0, 15.0));
    assert_eq!(broker.position("durable").await, alone + stream - repeated, "as docs/metrics.md has it");
    assert_eq!(value("walcast_publishes_rejected_total").await, 1.0);
    broker.all_projected().await;
    assert_eq!(value("walcast_store_batch_rows_sum").await, 0.0, "all of it was fire and forget");
    client.publish_kept("s", "body").await;
    broker.all_projected().await;
    assert_eq!(value("walcast_store_batch_rows_sum").await, 1.0);
}
