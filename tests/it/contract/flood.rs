//! Many at once: what clients do on the one connection they have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::{Broker, body_of, eventually};

/// The default queue holds at least this many (contract.md).
const PUBLISHES_IN_FLIGHT: usize = 32_768;

#[tokio::test(flavor = "multi_thread")]
async fn as_many_publishes_in_flight_as_the_queue_promises_all_succeed_on_one_connection() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut publishes = JoinSet::new();
    for number in 0..PUBLISHES_IN_FLIGHT {
        let client = client.clone();
        publishes.spawn(async move { client.publish("flood", body_of("flood", number as u64), 0).await });
    }
    let mut ids: Vec<i32> = publishes.join_all().await.into_iter().map(|answer| answer.expect("accepted")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=PUBLISHES_IN_FLIGHT as i32).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_concurrent_calls_of_all_kinds_on_one_connection_all_succeed() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for number in 1..=100 {
        client.publish_kept("calls", body_of("calls", number)).await;
    }
    // Every call is ready before the first is sent.
    let start = Arc::new(Barrier::new(10_000));
    let mut calls = JoinSet::new();
    for number in 0..10_000_u64 {
        let (client, start) = (client.clone(), Arc::clone(&start));
        calls.spawn(async move {
            start.wait().await;
            match number % 3 {
                0 => drop(client.publish_kept(&format!("calls-{}", number % 100), "x").await),
                1 => {
                    let id = number % 100 + 1;
                    assert_eq!(client.fetch_body("calls", id as i32).await, body_of("calls", id));
                }
                _ => drop(client.subscribe("calls").await),
            }
        });
    }
    calls.join_all().await;
    eventually("all subscribers forgotten", || async {
        (broker.metric("active_subscribers").await == 0.0).then_some(())
    })
    .await;
}

/// Opened and never read, half on one subject, half on random ones of four letters.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_subscriptions_that_nobody_reads_do_not_disturb_publishing_on_their_connection() {
    const SUBSCRIPTIONS: usize = 5_000;
    let broker = Broker::start().await;
    let client = broker.client().await;
    let idle = broker.resident_bytes();
    let mut random = StdRng::seed_from_u64(5_000);
    let mut opening = JoinSet::new();
    for number in 0..SUBSCRIPTIONS {
        let client = client.clone();
        let subject = match number % 2 {
            0 => "crowd".to_owned(),
            _ => (0..4).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect(),
        };
        opening.spawn(async move { client.subscribe(&subject).await });
    }
    let subscriptions = opening.join_all().await;
    assert_eq!(broker.metric("active_subscribers").await, SUBSCRIPTIONS as f64);
    let mut publishing = JoinSet::new();
    let published = Arc::new(AtomicU64::new(0));
    for publisher in 0..8 {
        let (client, published) = (client.clone(), Arc::clone(&published));
        publishing.spawn(async move {
            for number in 0..100 {
                let subject = if number % 50 == 0 { "crowd".to_owned() } else { format!("elsewhere-{publisher}") };
                client.publish_kept(&subject, body_of(&subject, number)).await;
                published.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    publishing.join_all().await;
    assert_eq!(published.load(Ordering::Relaxed), 800);
    assert_eq!(broker.metric("active_subscribers").await, SUBSCRIPTIONS as f64, "nobody was ended");
    let each = broker.resident_bytes().saturating_sub(idle) / SUBSCRIPTIONS as u64;
    // Tokio and h2 take 6 KiB for an idle stream; 16 short messages wait for half of them.
    assert!(each <= 64 * 1024, "{each} bytes for a subscription");
    drop(subscriptions);
    eventually("all of them forgotten", || async { (broker.metric("active_subscribers").await == 0.0).then_some(()) })
        .await;
}
