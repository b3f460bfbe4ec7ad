//! The real broker with its history in a real cluster.

use scylla::client::session::Session;

use crate::harness::{Node, Place, disturbed, execute, operator, query, shared};
use crate::support::{Setup, error_reason, eventually};

/// A broker whose history is in the keyspace of `place`.
pub fn broker_on(node: &Node, place: &Place) -> Setup {
    Setup::new()
        .store("cassandra")
        .arg("--cassandra-nodes")
        .arg(node.address())
        .set("store.cassandra.keyspace", &place.config.keyspace)
        .expect_log("projection waits for the store")
}

async fn ids(session: &Session, place: &Place, subject: &str) -> Vec<i32> {
    let keyspace = &place.config.keyspace;
    let read = format!("SELECT id FROM {keyspace}.messages WHERE subject = '{subject}' AND bucket = 0");
    query::<(i32,)>(session, &read).await.into_iter().map(|(id,)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_become_rows_and_are_fetched_before_and_after() {
    let node = shared();
    let place = Place::on(node);
    // Little log is kept, so that the first messages are soon in the rows only.
    let setup = broker_on(node, &place).set("limits.body_bytes", "256KiB").set("log.segment_bytes", "1MiB");
    let broker = setup.set("log.keep_bytes", "0").set("limits.hot_tail_bytes", "1MiB").start().await;
    let client = broker.client().await;
    for number in 1..=50 {
        let id = client.publish_kept("orders", format!("order {number}")).await;
        assert_eq!(id, number);
        assert_eq!(client.fetch_body("orders", id).await, format!("order {number}"));
    }
    let odd = client.publish("'; drop table x; -- 🦀", vec![0, 0xFF, 0xC3, 0x28], 60).await.expect("published");
    client.publish("orders", "nobody keeps this", 0).await.expect("published");
    for _ in 0..60 {
        client.publish_kept("large", vec![7; 200_000]).await;
    }
    broker.all_projected().await;
    let session = operator(&place.config).await;
    assert_eq!(ids(&session, &place, "orders").await, (1..=50).collect::<Vec<_>>());
    eventually("the log to be trimmed", || async { (broker.position("trimmed").await > 52.0).then_some(()) }).await;

    // A new process with an empty hot tail, on a log that has none of them.
    let broker = broker.stop().await.start().await;
    let client = broker.client().await;
    for number in 1..=50 {
        assert_eq!(client.fetch_body("orders", number).await, format!("order {number}"));
    }
    assert_eq!(client.fetch_body("'; drop table x; -- 🦀", odd).await, vec![0, 0xFF, 0xC3, 0x28]);
    let gone = client.fetch("orders", 51).await.expect_err("fire and forget");
    assert_eq!(error_reason(&gone), "EXPIRED");
    let never = client.fetch("orders", 52).await.expect_err("never published");
    assert_eq!(error_reason(&never), "NEVER_PUBLISHED");
    assert_eq!(broker.metric("walcast_fetches_total{source=\"store\"}").await, 51.0);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_once_after_both_were_killed() {
    let node = disturbed().await;
    let place = Place::on(&node);
    let mut setup = broker_on(&node, &place);
    let mut acknowledged = 0;
    for round in 0..3 {
        let broker = setup.start().await;
        let client = broker.client().await;
        for _ in 0..200 {
            acknowledged = client.publish_kept("s", format!("body {}", acknowledged + 1)).await;
        }
        // Without the database publishing goes on, and nothing is missing for the one who fetches.
        tokio::task::block_in_place(|| node.kill());
        for _ in 0..200 {
            acknowledged = client.publish_kept("s", format!("body {}", acknowledged + 1)).await;
        }
        assert_eq!(client.fetch_body("s", acknowledged).await, format!("body {acknowledged}"));
        assert_eq!(acknowledged, (round + 1) * 400);
        let stopped = broker.kill_nine().await;
        if round == 1 {
            // A broker that starts without its store.
            let broker = stopped.start().await;
            let client = broker.client().await;
            assert_eq!(client.fetch_body("s", 1).await, "body 1");
            tokio::task::block_in_place(|| node.restart());
            setup = broker.kill_nine().await.setup();
        } else {
            tokio::task::block_in_place(|| node.restart());
            setup = stopped.setup();
        }
    }
    let broker = setup.start().await;
    let all = f64::from(acknowledged);
    eventually("projection", || async { (broker.position("projected").await >= all).then_some(()) }).await;
    let session = operator(&place.config).await;
    assert_eq!(ids(&session, &place, "s").await, (1..=acknowledged).collect::<Vec<_>>());
    // What is fetched below may come from the log, so the rows themselves are looked at.
    let bodies = format!("SELECT id, body FROM {}.messages WHERE subject = 's' AND bucket = 0", place.config.keyspace);
    for (id, body) in query::<(i32, Vec<u8>)>(&session, &bodies).await {
        assert_eq!(body, format!("body {id}").into_bytes());
    }
    let client = broker.client().await;
    for id in 1..=acknowledged {
        assert_eq!(client.fetch_body("s", id).await, format!("body {id}"));
    }
    broker.stop().await;
}

/// What a node leaves that crashed before its commit log was synced; it was made by hand here, because a crash loses it by chance.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_what_it_confirmed_is_brought_up_from_the_log() {
    let node = shared();
    let place = Place::on(node);
    let broker = broker_on(node, &place).expect_log("has lost what it had confirmed").start().await;
    let client = broker.client().await;
    for number in 1..=50 {
        client.publish_kept("s", format!("body {number}")).await;
    }
    broker.all_projected().await;
    let session = operator(&place.config).await;
    let keyspace = &place.config.keyspace;
    let (claim, epoch) =
        query::<(String, i64)>(&session, &format!("SELECT claim, epoch FROM {keyspace}.cursor")).await.remove(0);
    // The second time the row has a claim that the broker has replaced by then.
    for round in 1..=2 {
        // Not by DELETE, which would hide what is written again.
        execute(&session, &format!("TRUNCATE {keyspace}.messages")).await;
        let back = format!(
            "UPDATE {keyspace}.cursor SET projected = 20, claim = '{claim}', epoch = {epoch} WHERE name = 'projector' IF EXISTS"
        );
        execute(&session, &back).await;
        let last = client.publish_kept("s", "one more").await;
        broker.all_projected().await;
        assert_eq!(broker.metric("walcast_store_setbacks_total").await, f64::from(round));
        assert_eq!(ids(&session, &place, "s").await, (21..=last).collect::<Vec<_>>());
        let (now,) = query::<(String,)>(&session, &format!("SELECT claim FROM {keyspace}.cursor")).await.remove(0);
        assert_ne!(now, claim, "it did not claim its cursor again");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_fit_are_named_and_another_log_is_refused() {
    let node = shared();
    let place = Place::on(node);
    let (code, said) = broker_on(node, &place).set("store.cassandra.consistency", "ONE").refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("store.cassandra.consistency"), "{said}");
    let (code, said) = Setup::new().store("cassandra").refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("store.cassandra.nodes"), "{said}");
    let broker = broker_on(node, &place).start().await;
    broker.client().await.publish_kept("s", "mine").await;
    broker.stop().await;
    // Another data directory is another log.
    let (code, said) = broker_on(node, &place).refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("belongs to the log"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_store_was_taken_stops_and_says_so() {
    let node = shared();
    let place = Place::on(node);
    let broker = broker_on(node, &place).expect_log("belongs to another walcast").start().await;
    let client = broker.client().await;
    client.publish_kept("s", "first").await;
    eventually("projection", || async { (broker.position("projected").await >= 1.0).then_some(()) }).await;
    // What a copy of the data directory does when it starts.
    let session = operator(&place.config).await;
    let keyspace = &place.config.keyspace;
    execute(
        &session,
        &format!("UPDATE {keyspace}.cursor SET claim = 'another', epoch = 9 WHERE name = 'projector' IF EXISTS"),
    )
    .await;
    client.publish_kept("s", "second").await;
    let (status, stopped) = broker.wait().await;
    assert_eq!(status.code(), Some(1));
    assert!(stopped.logged("belongs to another walcast") > 0);
}
