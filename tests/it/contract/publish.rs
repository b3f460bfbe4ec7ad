//! Publish: ids, bodies, subjects, expiration.

use tonic::Code;

use crate::support::{Broker, Client, Setup, eventually, random_bytes};

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_dense_from_1_on_each_subject() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for expected in 1..=20 {
        for subject in ["a", "b", "größe"] {
            assert_eq!(client.publish_kept(subject, "x").await, expected, "{subject}");
        }
    }
    assert_eq!(client.publish("late", "x", 0).await.expect("accepted"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_publishes_get_each_id_once() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.publish_kept("busy", "x").await })
        })
        .collect();
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task.await.expect("no panic"));
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=200).collect::<Vec<_>>());
}

async fn ids_continue(client: &Client, from: i32) {
    assert_eq!(client.publish_kept("kept", "x").await, from);
    assert_eq!(client.publish("forgotten", "x", 0).await.expect("accepted"), from);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_go_on_after_every_kind_of_restart() {
    for store in ["embedded", "none"] {
        let broker = Setup::new().store(store).start().await;
        ids_continue(&broker.client().await, 1).await;
        let broker = broker.stop().await.start().await;
        ids_continue(&broker.client().await, 2).await;
        let broker = broker.kill_nine().await.start().await;
        ids_continue(&broker.client().await, 3).await;
        let broker = broker.kill_nine().await.start().await.stop().await.start().await;
        ids_continue(&broker.client().await, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_publish_takes_no_id() {
    let broker = Setup::new().set("limits.body_bytes", "64KiB").start().await;
    let client = broker.client().await;
    assert_eq!(client.publish_kept("s", "x").await, 1);
    assert_eq!(client.publish("s", "x", -1).await.expect_err("negative").code(), Code::InvalidArgument);
    let over = random_bytes(1, 64 * 1024 + 1);
    assert_eq!(client.publish("s", over, 60).await.expect_err("too long").code(), Code::ResourceExhausted);
    assert_eq!(client.publish("s\0", "x", 60).await.expect_err("control").code(), Code::InvalidArgument);
    assert_eq!(client.publish_kept("s", "x").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_expiration_is_refused_by_name() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for seconds in [-1, -3_600, i32::MIN] {
        let status = client.publish("s", "x", seconds).await.expect_err("negative");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("expirationSeconds"), "{status:?}");
    }
    assert_eq!(client.publish("s", "x", i32::MAX).await.expect("the longest is fine"), 1);
    assert_eq!(client.fetch_body("s", 1).await, "x");
}

/// Every length class of the encodings on the way, and bytes that break text stores.
fn bodies() -> Vec<bytes::Bytes> {
    let mut bodies: Vec<bytes::Bytes> = [0, 1, 127, 128, 255, 256, 4_095, 4_096, 16_384, 65_536, 1_048_575, 1_048_576]
        .into_iter()
        .enumerate()
        .map(|(seed, length)| random_bytes(seed as u64, length))
        .collect();
    bodies.extend(
        [&b"\0"[..], b"a\0b", b"\xff\xfe\x80", b"\xc3\x28", b"'; drop table messages; --", b"\\x00 \\N \n\r\t"]
            .map(bytes::Bytes::from_static),
    );
    bodies.push((0..=255).collect());
    bodies.push(vec![0; 1_048_576].into());
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_any_bytes_comes_back_from_every_path() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("bodies").await;
    for (body, id) in bodies().into_iter().zip(1..) {
        assert_eq!(client.publish_kept("bodies", body.clone()).await, id);
        assert!(client.fetch_body("bodies", id).await == body, "fetched at once: body {id}");
        assert!(subscription.next().await.body == body, "delivered: body {id}");
    }
    for restarted in [broker.stop().await.start().await.kill_nine().await.start().await] {
        let client = restarted.client().await;
        for (body, id) in bodies().into_iter().zip(1..) {
            assert!(client.fetch_body("bodies", id).await == body, "fetched after restarts: body {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_is_1_to_255_bytes_of_printable_utf_8() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let longest = "x".repeat(255);
    let longest_wide = format!("{}x", "é".repeat(127));
    let odd = ["a", " ", ".", "*", ">", "a/../../b", "größe", "日本", "🦀", "\u{a0}", "\u{ad}", "\u{202e}", "\u{feff}"];
    for subject in odd.into_iter().chain([longest.as_str(), longest_wide.as_str()]) {
        let mut subscription = client.subscribe(subject).await;
        assert_eq!(client.publish_kept(subject, subject.to_owned()).await, 1, "{subject:?}");
        assert_eq!(client.fetch_body(subject, 1).await, subject.as_bytes());
        let delivered = subscription.next().await;
        assert_eq!((delivered.subject.as_str(), delivered.body.as_ref()), (subject, subject.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_subject_is_refused_by_every_method_naming_subject() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut refused: Vec<String> = vec![String::new(), "x".repeat(256), "é".repeat(128), "x".repeat(70_000)];
    // Unicode Cc: C0, DEL and C1, at the start, inside and at the end.
    for code in (0..=0x1f).chain(0x7f..=0x9f) {
        let control = char::from_u32(code).expect("a character");
        refused.extend([format!("{control}"), format!("a{control}b"), format!("é{control}")]);
    }
    for subject in &refused {
        let statuses = [
            client.publish(subject, "x", 60).await.expect_err("publish"),
            client.fetch(subject, 1).await.expect_err("fetch"),
            client.try_subscribe(subject).await.expect_err("subscribe"),
        ];
        for status in statuses {
            assert_eq!(status.code(), Code::InvalidArgument, "{subject:?}: {status:?}");
            assert!(status.message().contains("subject"), "{subject:?}: {status:?}");
        }
    }
    assert_eq!(client.publish_kept("a", "x").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fire_and_forget_is_delivered_and_never_fetched() {
    for store in ["embedded", "none"] {
        let broker = Setup::new().store(store).start().await;
        let client = broker.client().await;
        let mut subscription = client.subscribe("ff").await;
        assert_eq!(client.publish("ff", "once", 0).await.expect("accepted"), 1);
        assert_eq!(subscription.next().await.body, "once");
        assert_eq!(
            client.fetch("ff", 1).await.expect_err("forgotten").message(),
            "message with id provided is expired"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_found_until_its_time_is_over() {
    for store in ["embedded", "none"] {
        let broker = Setup::new().store(store).start().await;
        let client = broker.client().await;
        assert_eq!(client.publish("short", "x", 2).await.expect("accepted"), 1);
        assert_eq!(client.publish_kept("short", "y").await, 2);
        assert_eq!(client.fetch_body("short", 1).await, "x");
        let status = eventually("expiry", || async { client.fetch("short", 1).await.err() }).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "message with id provided is expired");
        assert_eq!(client.fetch_body("short", 2).await, "y");
    }
}
