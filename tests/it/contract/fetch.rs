//! Fetch: the table of cases by code and text, in every state the broker can be in.

use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::support::{Broker, Client, Setup, body_of, error_reason, eventually, random_bytes};

const NEVER_PUBLISHED: &str = "message with id provided is not valid or never published";
const EXPIRED: &str = "message with id provided is expired";

fn is_never_published(status: &Status) {
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, NEVER_PUBLISHED), "{status:?}");
    assert_eq!(error_reason(status), "NEVER_PUBLISHED");
}

fn is_expired(status: &Status) {
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, EXPIRED), "{status:?}");
    assert_eq!(error_reason(status), "EXPIRED");
}

/// Id 1 is kept, 2 fire and forget, 3 expires within two seconds, 4 is kept.
async fn publish_one_of_each(client: &Client) {
    assert_eq!(client.publish_kept("table", "kept").await, 1);
    assert_eq!(client.publish("table", "forgotten", 0).await.expect("accepted"), 2);
    assert_eq!(client.publish("table", "short", 1).await.expect("accepted"), 3);
    assert_eq!(client.publish_kept("table", "last").await, 4);
    eventually("expiry", || async { client.fetch("table", 3).await.err() }).await;
}

async fn answers_the_table(client: &Client, history: bool) {
    for id in [i32::MIN, -1, 0, 5, 6, i32::MAX] {
        is_never_published(&client.fetch("table", id).await.expect_err("never issued"));
    }
    for id in [i32::MIN, 0, 1, 2] {
        is_never_published(&client.fetch("unknown subject", id).await.expect_err("never issued"));
    }
    for id in [2, 3] {
        is_expired(&client.fetch("table", id).await.expect_err("expired"));
    }
    for (id, body) in [(1, "kept"), (4, "last")] {
        match client.fetch("table", id).await {
            Ok(message) => assert_eq!(message.body, body),
            // Trimmed, and a broker without a history has it nowhere else.
            Err(status) if !history => is_expired(&status),
            Err(status) => panic!("fetch {id}: {status:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_are_told_apart_while_running_and_after_restarts() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    publish_one_of_each(&client).await;
    answers_the_table(&client, true).await;
    let broker = broker.stop().await.start().await;
    answers_the_table(&broker.client().await, true).await;
    let broker = broker.kill_nine().await.start().await;
    answers_the_table(&broker.client().await, true).await;
    assert_eq!(broker.client().await.publish_kept("table", "next").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_are_told_apart_without_a_store() {
    let broker = Setup::new().store("none").start().await;
    let client = broker.client().await;
    publish_one_of_each(&client).await;
    answers_the_table(&client, true).await;
    // The log has them for as long as it is kept.
    let broker = broker.stop().await.start().await;
    answers_the_table(&broker.client().await, true).await;
    let broker = broker.kill_nine().await.start().await;
    answers_the_table(&broker.client().await, true).await;
}

/// The limit is on what is published, not on what was.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_todays_limit_is_found_in_the_log_and_in_the_store() {
    for store in ["none", "embedded"] {
        let setup = Setup::new().store(store).set("limits.body_bytes", "128KiB");
        let broker = setup.clone().start().await;
        let body = vec![7; 100_000];
        broker.client().await.publish_kept("large", body.clone()).await;
        drop(broker.stop().await);
        let broker = setup.set("limits.body_bytes", "1KiB").start().await;
        assert!(broker.client().await.fetch_body("large", 1).await == body, "{store}");
    }
}

/// Segments that a few messages fill and that are not kept.
fn small_segments() -> Setup {
    let setup = Setup::new().set("limits.body_bytes", "64KiB").set("log.segment_bytes", "256KiB");
    setup.set("log.keep_bytes", "0")
}

/// The first segments are gone: what they held is with the store, and ids are known without them.
#[tokio::test(flavor = "multi_thread")]
async fn the_cases_are_told_apart_after_the_log_was_trimmed() {
    for store in ["embedded", "none"] {
        let broker = small_segments().store(store).set("limits.hot_tail_bytes", "1MiB").start().await;
        let client = broker.client().await;
        publish_one_of_each(&client).await;
        for number in 0..64 {
            client.publish("filler", random_bytes(number, 64 * 1024), 60).await.expect("accepted");
        }
        eventually("trimming", || async { (broker.position("trimmed").await > 4.0).then_some(()) }).await;
        answers_the_table(&client, store == "embedded").await;
        let broker = broker.kill_nine().await.start().await;
        let client = broker.client().await;
        answers_the_table(&client, store == "embedded").await;
        assert_eq!(client.publish_kept("table", "next").await, 5);
        if store == "embedded" {
            for number in 0..64 {
                let body = client.fetch_body("filler", number as i32 + 1).await;
                assert!(body == random_bytes(number, 64 * 1024), "filler {number}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_publisher_reads_its_own_write() {
    for store in ["embedded", "none"] {
        let broker = Setup::new().store(store).start().await;
        let mut tasks = JoinSet::new();
        for worker in 0..16_u64 {
            // Every second one fetches over another connection than it published on.
            let (publisher, reader) = (broker.client().await, broker.client().await);
            tasks.spawn(async move {
                for turn in 0..200 {
                    let subject = format!("own-{}", turn % 7);
                    let body = body_of(&subject, worker * 1_000 + turn);
                    let id = publisher.publish_kept(&subject, body.clone()).await;
                    let reader = if turn % 2 == 0 { &publisher } else { &reader };
                    assert_eq!(reader.fetch_body(&subject, id).await, body);
                }
            });
        }
        tasks.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_message_carries_id_subject_and_time_also_from_the_store() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    client.publish_kept("größe", "x").await;
    let hot = client.fetch("größe", 1).await.expect("found");
    let broker = broker.stop().await.start().await;
    let stored = broker.client().await.fetch("größe", 1).await.expect("found");
    assert_eq!((hot.id, hot.subject.as_str()), (1, "größe"));
    assert_eq!(stored, hot);
}
