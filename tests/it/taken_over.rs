//! Recovery of the real broker from a log with what a node takes over of another one's slots: messages with ids of the
//! other node, high-water marks and idempotency keys. They are written into its log while it is stopped.

use std::path::Path;
use std::sync::Arc;

use tonic::{Code, Request};
use walcast::event::record::{self, KeyEntry, Record};
use walcast::event::{Expiration, MessageId, UnixMicros};
use walcast::ingest::Fingerprint;
use walcast::proto::client::PublishRequest;
use walcast::wal::{Batch, DiskFileSystem, Options};

use super::support::{Broker, Setup, walcast};

const FRAME_BYTES: usize = 64 * 1024;

fn id(number: u32) -> MessageId {
    MessageId::new(number).expect("an id")
}

/// Appends to the log of a stopped broker: of the subject `moved` message 41 and the key of 40, of `silent` its mark alone.
fn take_over(data: &Path) {
    let options = Options { frame_bytes_max: FRAME_BYTES, ..Options::new(data.join("log")) };
    let mut opened = walcast::wal::open(Arc::new(DiskFileSystem), options).expect("opens");
    let published_at = UnixMicros::from_micros(jiff::Timestamp::now().as_microsecond());
    let message = Record {
        subject: "moved",
        id: id(41),
        published_at,
        expiration: Expiration::from_wire(3_600).expect("not negative"),
        idempotency_key: Some("key of 41"),
        traceparent: None,
        body: b"message 41",
    };
    let Fingerprint { name, body } = Fingerprint::new("moved", "key of 40", b"message 40");
    let key = KeyEntry { name, body, published_at, id: id(40) };
    let mut batch = Batch::new(FRAME_BYTES);
    batch.push(|buffer| record::encode_keys([key], buffer)).expect("fits");
    batch.push(|buffer| record::encode(&message, buffer)).expect("fits");
    batch.push(|buffer| record::encode_marks([("moved", id(41)), ("silent", id(9))], buffer)).expect("fits");
    opened.writer.ensure_room(batch.bytes()).expect("room");
    opened.writer.append(&batch).expect("appended");
}

async fn publish(broker: &Broker, subject: &str, key: &str, body: &str) -> Result<i32, Code> {
    let request = PublishRequest {
        subject: subject.to_owned(),
        body: body.to_owned().into(),
        expiration_seconds: 3_600,
        idempotency_key: key.to_owned(),
    };
    broker.client().await.publish_request(Request::new(request)).await.map_err(|status| status.code())
}

/// What must be so whenever the broker has started, however the process before it ended.
async fn check(broker: &Broker, last: i32) {
    assert_eq!(publish(broker, "moved", "key of 40", "message 40").await, Ok(40));
    assert_eq!(publish(broker, "moved", "key of 40", "another").await, Err(Code::AlreadyExists));
    assert_eq!(publish(broker, "moved", "key of 41", "message 41").await, Ok(41));
    assert_eq!(publish(broker, "own", "key", "own").await, Ok(1));
    let client = broker.client().await;
    assert_eq!(client.fetch_body("moved", 41).await, "message 41");
    assert_eq!(client.fetch_body("own", 1).await, "own");
    // It is in neither log nor store, so it has expired; one that was never published is told from it.
    let missing = client.fetch("moved", 40).await.expect_err("nobody has it");
    assert!(missing.message().contains("expired"), "{missing}");
    assert_eq!(client.fetch("silent", 9).await.expect_err("nobody has it").message(), missing.message());
    assert_eq!(publish(broker, "moved", &format!("new {last}"), "new").await, Ok(last + 1));
    let mut resumed = client.resume("moved", 40).await;
    assert_eq!(resumed.next_ids((last - 39) as usize).await, (41..=last + 1).collect::<Vec<_>>());
    broker.all_projected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_knows_what_was_taken_over_after_every_start() {
    let broker = Setup::new().start().await;
    assert_eq!(publish(&broker, "own", "key", "own").await, Ok(1));
    let stopped = broker.stop().await;
    take_over(stopped.data());
    // Read from the log, then from the checkpoint of an orderly end, then from either.
    let broker = stopped.start().await;
    check(&broker, 41).await;
    let broker = broker.kill_nine().await.start().await;
    check(&broker, 42).await;
    let broker = broker.stop().await.start().await;
    check(&broker, 43).await;
    let broker = broker.kill_nine().await.start().await;
    check(&broker, 44).await;
    assert_eq!(publish(&broker, "silent", "first", "first").await, Ok(10));
    broker.all_projected().await;
    let stopped = broker.stop().await;
    for command in [["log", "verify"], ["store", "check"]] {
        let output = walcast(&command).arg("--data-dir").arg(stopped.data()).output().expect("it runs");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Neither the store of the node nor its index can be had without passing over these records again.
#[tokio::test(flavor = "multi_thread")]
async fn store_and_index_are_built_anew_from_such_a_log() {
    let broker = Setup::new().start().await;
    assert_eq!(publish(&broker, "own", "key", "own").await, Ok(1));
    let stopped = broker.stop().await;
    take_over(stopped.data());
    for folder in ["store", "index", "ids"] {
        std::fs::remove_dir_all(stopped.data().join(folder)).expect("it is there");
    }
    let broker = stopped.start().await;
    check(&broker, 41).await;
    let stopped = broker.stop().await;
    let output = walcast(&["store", "check"]).arg("--data-dir").arg(stopped.data()).output().expect("it runs");
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && says.contains("3 messages of 5 records compared, 0 differences"), "{says}");
}
