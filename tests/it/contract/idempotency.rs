//! Publishes with an idempotency key: one message for one key, whatever is retried, and whatever happens to the broker.

use futures_util::future::join_all;
use tonic::metadata::{AsciiMetadataValue, BinaryMetadataValue};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use walcast::proto::client::PublishRequest;

use crate::support::{Broker, Client, Setup, broker_on_a_small_disk, error_reason, eventually, random_bytes};

const HEADER: &str = "idempotency-key";

fn request(subject: &str, key: &str, body: &str) -> PublishRequest {
    PublishRequest {
        subject: subject.to_owned(),
        body: body.to_owned().into(),
        expiration_seconds: 3_600,
        idempotency_key: key.to_owned(),
    }
}

async fn publish(client: &Client, subject: &str, key: &str, body: &str) -> Result<i32, Status> {
    client.publish_request(Request::new(request(subject, key, body))).await
}

/// Code, reason and `field` of a refusal.
fn refusal(answer: Result<i32, Status>) -> (Code, String, Option<String>) {
    let status = answer.expect_err("refused");
    let info = status.get_details_error_info().expect("every error has one");
    (status.code(), info.reason, info.metadata.get("field").cloned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_id_and_nobody_gets_it_twice() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut live = client.subscribe("s").await;
    for _ in 0..3 {
        assert_eq!(publish(&client, "s", "k", "body").await.expect("accepted"), 1);
    }
    assert_eq!(publish(&client, "s", "l", "body").await.expect("accepted"), 2, "another key");
    assert_eq!(publish(&client, "t", "k", "other body").await.expect("accepted"), 1, "another subject");
    assert_eq!(publish(&client, "s", "", "body").await.expect("accepted"), 3, "no key");
    assert_eq!(publish(&client, "s", "", "body").await.expect("accepted"), 4);
    assert_eq!(live.next_ids(4).await, [1, 2, 3, 4]);
    assert_eq!(broker.metric("walcast_idempotency_duplicates_total").await, 2.0);
    assert_eq!(broker.metric("walcast_idempotency_keys").await, 3.0);
    assert_eq!(broker.position("appended").await, 5.0);
}

/// What a retry may change: neither expiration nor trace make it another message.
#[tokio::test(flavor = "multi_thread")]
async fn expiration_and_trace_of_a_retry_do_not_matter() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    assert_eq!(publish(&client, "s", "k", "body").await.expect("accepted"), 1);
    let mut again = Request::new(PublishRequest { expiration_seconds: 1, ..request("s", "k", "body") });
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    again.metadata_mut().insert("traceparent", AsciiMetadataValue::from_static(trace));
    assert_eq!(client.publish_request(again).await.expect("accepted"), 1);
    assert_eq!(client.fetch("s", 1).await.expect("found").traceparent, "", "the first one's");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_under_the_same_key_is_refused_with_the_id() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    client.publish_kept("s", "before").await;
    assert_eq!(publish(&client, "s", "k", "body").await.expect("accepted"), 2);
    let status = publish(&client, "s", "k", "another").await.expect_err("it is another message");
    assert_eq!((status.code(), error_reason(&status).as_str()), (Code::AlreadyExists, "IDEMPOTENCY_KEY_TAKEN"));
    assert!(status.message().contains("message 2 "), "{}", status.message());
    assert_eq!(status.get_details_error_info().expect("details").metadata["id"], "2");
    assert_eq!(broker.metric("walcast_publishes_rejected_total{reason=\"key_taken\"}").await, 1.0);
    assert_eq!(client.fetch_body("s", 2).await, "body");
    assert_eq!(client.publish_kept("s", "after").await, 3, "a refused publish took no id");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_with_one_key_are_one_message() {
    let broker = Broker::start().await;
    let clients = [broker.client().await, broker.client().await, broker.client().await, broker.client().await];
    for round in 1..=20 {
        let key = format!("round {round}");
        let calls = (0..100).map(|n| publish(&clients[n % 4], "s", &key, "body"));
        for answer in join_all(calls).await {
            let id = answer.expect("accepted");
            assert_eq!(id, round);
            // A retry is answered no sooner than its first, so everybody reads what is theirs.
        }
        assert_eq!(clients[0].fetch_body("s", round).await, "body");
    }
    assert_eq!(broker.metric("walcast_idempotency_duplicates_total").await, 20.0 * 99.0);
    assert_eq!(broker.position("durable").await, 20.0);
}

/// Each retry fetches what it was told, from a connection of its own.
#[tokio::test(flavor = "multi_thread")]
async fn who_retries_reads_the_message_at_once() {
    let broker = Broker::start().await;
    let clients = [broker.client().await, broker.client().await, broker.client().await, broker.client().await];
    for round in 0..50 {
        let key = format!("round {round}");
        let retry_and_read = |client: Client| {
            let key = key.clone();
            async move {
                let id = publish(&client, "s", &key, &key).await.expect("accepted");
                assert_eq!(client.fetch_body("s", id).await, key);
            }
        };
        join_all(clients.iter().cycle().take(16).cloned().map(retry_and_read)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_the_field_send_metadata() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let with = |field: &str, values: &[&'static [u8]]| {
        let mut request = Request::new(request("s", field, "body"));
        for value in values {
            request.metadata_mut().append(HEADER, AsciiMetadataValue::try_from(*value).expect("a header's value"));
        }
        let client = client.clone();
        async move { client.publish_request(request).await }
    };
    assert_eq!(with("", &[b"k"]).await.expect("accepted"), 1);
    assert_eq!(with("k", &[]).await.expect("accepted"), 1, "field and metadata say the same");
    assert_eq!(with("k", &[b"k"]).await.expect("accepted"), 1);
    assert_eq!(with("", &[b"k", b"k"]).await.expect("accepted"), 1);

    let invalid = (Code::InvalidArgument, "INVALID_IDEMPOTENCY_KEY".to_owned(), Some(HEADER.to_owned()));
    for values in [&[&b""[..]][..], &[b"a", b"b"], &["größe".as_bytes()], &[b"a\tb"], &[&[b'x'; 256]]] {
        assert_eq!(refusal(with("", values).await), invalid, "{values:?}");
    }
    let mut binary = Request::new(request("s", "k", "body"));
    binary.metadata_mut().insert_bin("idempotency-key-bin", BinaryMetadataValue::from_bytes(b"k"));
    assert_eq!(refusal(client.publish_request(binary).await), invalid);
    let differ = (Code::InvalidArgument, "IDEMPOTENCY_KEYS_DIFFER".to_owned(), Some("idempotency_key".to_owned()));
    assert_eq!(refusal(with("k", &[b"l"]).await), differ);
    let field = (Code::InvalidArgument, "INVALID_IDEMPOTENCY_KEY".to_owned(), Some("idempotency_key".to_owned()));
    for key in ["a\nb", &"x".repeat(256)] {
        assert_eq!(refusal(publish(&client, "s", key, "body").await), field, "{key:?}");
    }
    assert_eq!(client.publish_kept("s", "next").await, 2, "refused publishes took no id");
}

/// Through kill -9, with the keys in the log only, in a checkpoint only, and in both.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_a_restart_gets_the_first_id() {
    let mut broker = Broker::start().await;
    for (turn, orderly) in [false, true, false, true].into_iter().enumerate() {
        let client = broker.client().await;
        let key = format!("turn {turn}");
        assert_eq!(publish(&client, "s", &key, &key).await.expect("accepted"), turn as i32 + 1);
        // An orderly stop takes a checkpoint; a killed broker leaves the keys behind it in the log.
        let stopped = if orderly { broker.stop().await } else { broker.kill_nine().await };
        let file = stopped.data().join("ids/idempotency-keys");
        assert_eq!(file.exists(), turn > 0, "turn {turn}");
        broker = stopped.start().await;
        let client = broker.client().await;
        for earlier in 0..=turn {
            let key = format!("turn {earlier}");
            assert_eq!(publish(&client, "s", &key, &key).await.expect("accepted"), earlier as i32 + 1, "turn {turn}");
            let taken = publish(&client, "s", &key, "another body").await.expect_err("taken");
            assert_eq!(taken.code(), Code::AlreadyExists);
        }
    }
    assert_eq!(broker.position("durable").await, 4.0);
}

/// Segments that a few messages fill and that are not kept.
fn small_log() -> Setup {
    let setup = Setup::new().set("limits.body_bytes", "64KiB").set("log.segment_bytes", "256KiB");
    setup.set("log.keep_bytes", "0")
}

/// The log has given up the record of the key: its checkpoint has it, whatever kills the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_outlives_its_record_in_the_log() {
    let broker = small_log().start().await;
    assert_eq!(publish(&broker.client().await, "s", "k", "body").await.expect("accepted"), 1);
    let stopped = broker.stop().await;
    let file = stopped.data().join("ids/idempotency-keys");
    let early = std::fs::read(&file).expect("it was written");
    let broker = stopped.start().await;
    let client = broker.client().await;
    for number in 0..64 {
        client.publish("filler", random_bytes(number, 64 * 1024), 0).await.expect("accepted");
    }
    eventually("trimming", || async { (broker.position("trimmed").await > 1.0).then_some(()) }).await;
    let broker = broker.kill_nine().await.start().await;
    let client = broker.client().await;
    assert_eq!(publish(&client, "s", "k", "body").await.expect("accepted"), 1);
    assert_eq!(client.fetch_body("s", 1).await, "body");

    // With a file that is not whole, or older than what the log still has, nothing is guessed.
    let setup = broker.stop().await.setup();
    let sound = std::fs::read(&file).expect("it was written");
    let mut damaged = sound.clone();
    damaged[60] ^= 1;
    for (bytes, says) in
        [(damaged, "idempotency-keys is damaged"), (early, "has the idempotency keys up to sequence 1")]
    {
        std::fs::write(&file, bytes).expect("can be written");
        let (code, said) = setup.refuse();
        assert!(code == 3 && said.contains(says), "{code}: {said}");
    }
    std::fs::write(&file, sound).expect("can be written");
    let broker = setup.start().await;
    assert_eq!(publish(&broker.client().await, "s", "k", "body").await.expect("accepted"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_forgotten_when_its_time_has_passed() {
    let broker = Setup::new().set("limits.idempotency_window", "2s").start().await;
    let client = broker.client().await;
    assert_eq!(publish(&client, "s", "k", "body").await.expect("accepted"), 1);
    assert_eq!(publish(&client, "s", "k", "body").await.expect("accepted"), 1);
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    assert_eq!(publish(&client, "s", "k", "another body").await.expect("a new message"), 2);
    assert_eq!(publish(&client, "s", "k", "another body").await.expect("accepted"), 2);
    assert_eq!(broker.metric("walcast_idempotency_forgotten_total").await, 0.0, "not for want of room");
    eventually("no keys", || async { (broker.metric("walcast_idempotency_keys").await == 0.0).then_some(()) }).await;
    // A restart forgets the same ones.
    let broker = broker.kill_nine().await.start().await;
    let client = broker.client().await;
    assert_eq!(publish(&client, "s", "k", "body").await.expect("a new message"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_keys_are_forgotten_when_there_are_too_many() {
    let broker = Setup::new().set("limits.idempotency_keys", "3").start().await;
    let client = broker.client().await;
    for number in 1..=5 {
        assert_eq!(publish(&client, "s", &number.to_string(), "body").await.expect("accepted"), number);
    }
    assert_eq!(broker.metric("walcast_idempotency_forgotten_total").await, 2.0);
    let broker = broker.kill_nine().await.start().await;
    let client = broker.client().await;
    assert_eq!(broker.metric("walcast_idempotency_keys").await, 3.0);
    for number in 3..=5 {
        assert_eq!(publish(&client, "s", &number.to_string(), "body").await.expect("known"), number);
    }
    assert_eq!(publish(&client, "s", "2", "body").await.expect("a new message"), 6);
    assert_eq!(publish(&client, "s", "3", "body").await.expect("a new message"), 7, "it made room for that one");
}

/// A full disk refuses what is new; what was taken before is still said, and what was refused left no key behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_still_answers_retries() {
    let (_disk, broker, ballast) = broker_on_a_small_disk().await;
    let client = broker.client().await;
    assert_eq!(publish(&client, "s", "k", "body").await.expect("accepted"), 1);
    // More than there is: the write stops where the disk ends.
    std::fs::write(&ballast, vec![1; 64 << 20]).expect_err("the disk is full");
    let large = "x".repeat(60 * 1024);
    let mut last = 1;
    let (key, status) = loop {
        let key = format!("after {last}");
        match publish(&client, "s", &key, &large).await {
            Ok(id) => last = id,
            Err(status) => break (key, status),
        }
    };
    assert_eq!((status.code(), error_reason(&status).as_str()), (Code::ResourceExhausted, "LOG_FULL"));
    assert_eq!(publish(&client, "s", "k", "body").await.expect("known"), 1);
    assert_eq!(publish(&client, "s", "k", "another").await.expect_err("taken").code(), Code::AlreadyExists);
    std::fs::remove_file(&ballast).expect("removed");
    let next = eventually("room again", || async { publish(&client, "s", &key, &large).await.ok() }).await;
    assert_eq!(next, last + 1, "it was refused and is published now");
}
