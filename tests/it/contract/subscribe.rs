//! Subscribe: from the headers on, in id order, each once, nobody delayed, nobody remembered.

use tokio::task::JoinSet;

use crate::support::{Broker, body_of, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_are_sent_at_once() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    // Nothing is ever published here, so only the registration can have sent them.
    let mut subscription = client.subscribe("silence").await;
    assert!(subscription.is_quiet().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribe_headers_publish_never_misses_and_nothing_earlier_comes() {
    let broker = Broker::start().await;
    let (publisher, subscriber) = (broker.client().await, broker.client().await);
    for turn in 0..300 {
        let before = publisher.publish("hammered", "before", turn % 2 * 60).await.expect("accepted");
        let mut subscription = subscriber.subscribe("hammered").await;
        let after = publisher.publish("hammered", "after", turn % 2 * 60).await.expect("accepted");
        assert_eq!(after, before + 1);
        let first = subscription.next().await;
        assert_eq!((first.id, first.body.as_ref()), (after, &b"after"[..]), "turn {turn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_published_before_a_restart_is_not_delivered_after_it() {
    let broker = Broker::start().await;
    broker.client().await.publish_kept("s", "old").await;
    let broker = broker.kill_nine().await.start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("s").await;
    client.publish_kept("s", "new").await;
    assert_eq!(subscription.next().await.id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_gets_every_message_once_in_id_order_from_concurrent_publishers() {
    const PUBLISHERS: usize = 16;
    const EACH: usize = 100;
    let broker = Broker::start().await;
    let mut subscribers = JoinSet::new();
    for _ in 0..8 {
        let mut subscription = broker.client().await.subscribe("shared").await;
        subscribers.spawn(async move { subscription.next_ids(PUBLISHERS * EACH).await });
    }
    let client = broker.client().await;
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let client = client.clone();
        publishers.spawn(async move {
            for number in 0..EACH {
                let body = body_of("shared", (publisher * EACH + number) as u64);
                client.publish("shared", body, (number % 2) as i32 * 60).await.expect("accepted");
            }
        });
    }
    publishers.join_all().await;
    let expected: Vec<i32> = (1..=(PUBLISHERS * EACH) as i32).collect();
    for ids in subscribers.join_all().await {
        assert_eq!(ids, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_carries_body_id_subject_and_time() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("größe").await;
    client.publish_kept("größe", "42").await;
    let (delivered, fetched) = (subscription.next().await, client.fetch("größe", 1).await.expect("found"));
    assert_eq!((delivered.id, delivered.subject.as_str(), delivered.body.as_ref()), (1, "größe", &b"42"[..]));
    let published = delivered.published_at.expect("a time");
    let now = walcast::event::clock::now().as_seconds();
    assert!((now - 600..=now + 1).contains(&published.seconds), "{published:?}");
    assert_eq!(fetched, delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_subscribed_subject_is_delivered() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut subscriptions = Vec::new();
    for subject in ["a", "ab", "a.b", "A", "*", ">"] {
        subscriptions.push((subject, client.subscribe(subject).await));
    }
    for (subject, _) in &subscriptions {
        client.publish_kept(subject, (*subject).to_owned()).await;
    }
    for (subject, subscription) in &mut subscriptions {
        assert_eq!(subscription.next().await.subject, *subject);
        assert!(subscription.is_quiet().await, "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_messages_before_the_subscriber_reads_all_arrive_in_order() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("patient").await;
    for number in 1..=50 {
        client.publish("patient", body_of("patient", number), 0).await.expect("accepted");
    }
    for number in 1..=50 {
        let message = subscription.next().await;
        assert_eq!((message.id as u64, message.body), (number, body_of("patient", number)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_leaves_is_forgotten_at_once() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut stayer = client.subscribe("s").await;
    let leavers = [client.subscribe("s").await, client.subscribe("s").await, client.subscribe("t").await];
    let active = || async { broker.metric("active_subscribers").await };
    assert_eq!(active().await, 4.0);
    // No message is published meanwhile: forgetting does not wait for a failed delivery.
    drop(leavers);
    eventually("three subscribers forgotten", || async { (active().await == 1.0).then_some(()) }).await;
    // A whole connection that goes away.
    let other = broker.client().await;
    let (first, second) = (other.subscribe("s").await, other.subscribe("u").await);
    assert_eq!(active().await, 3.0);
    drop((first, second, other));
    eventually("a connection's subscribers forgotten", || async { (active().await == 1.0).then_some(()) }).await;
    let id = client.publish_kept("s", "x").await;
    assert_eq!(stayer.next().await.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_subscribe_and_fetch_race_on_one_subject() {
    let broker = Broker::start().await;
    let mut tasks = JoinSet::new();
    for worker in 0..8_u64 {
        let client = broker.client().await;
        tasks.spawn(async move {
            for turn in 0..50 {
                let mut subscription = client.subscribe("raced").await;
                let body = body_of("raced", worker * 1_000 + turn);
                let id = client.publish_kept("raced", body.clone()).await;
                assert_eq!(client.fetch_body("raced", id).await, body);
                let mut previous = None;
                loop {
                    let message = subscription.next().await;
                    assert!(previous.is_none_or(|previous| message.id == previous + 1), "dense for each subscriber");
                    previous = Some(message.id);
                    if message.id == id {
                        assert_eq!(message.body, body);
                        break;
                    }
                    assert!(message.id < id, "{id} was left out");
                }
            }
        });
    }
    tasks.join_all().await;
    let client = broker.client().await;
    assert_eq!(client.publish_kept("raced", "last").await, 401);
}
