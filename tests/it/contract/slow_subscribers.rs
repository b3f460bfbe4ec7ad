//! Slow subscribers: past their memory they are served from the log and the store, and nobody else notices.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Client, Setup, error_reason, eventually, random_bytes};

/// Messages that the fast subscriber may be behind the publisher: less than its bound holds.
const FAST_BEHIND_MAX: i32 = 16;

fn setup() -> Setup {
    Setup::new().set("limits.subscriber_bytes", "2MiB").set("limits.body_bytes", "64KiB")
}

/// Publishes `count` messages of 32 KiB, while a fast subscriber keeps up.
async fn torrent(publisher: &Client, fast: &mut crate::support::Subscription, from: i32, count: i32, expiration: i32) {
    let body = random_bytes(7, 32 * 1024);
    for id in from..from + count {
        let published = publisher.publish("torrent", body.clone(), expiration).await;
        assert_eq!(published.expect("a slow subscriber refuses nothing"), id);
        if id - from >= FAST_BEHIND_MAX {
            assert_eq!(fast.next().await.id, id - FAST_BEHIND_MAX, "the fast one has no gap");
        }
    }
    let rest = fast.next_ids(FAST_BEHIND_MAX as usize).await;
    assert_eq!(rest, (from + count - FAST_BEHIND_MAX..from + count).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_delays_nobody_gets_everything_in_order_and_goes_live_again() {
    const MESSAGES: i32 = 3_000;
    /// Until the broker has all the memory that it needs: buffers, spare segments, the allocator's pages.
    const WARM_UP: i32 = 900;
    let broker = setup().start().await;
    let mut slow = Client::connect_narrow(broker.grpc()).await.subscribe("torrent").await;
    let mut fast = broker.client().await.subscribe("torrent").await;
    let publisher = broker.client().await;
    torrent(&publisher, &mut fast, 1, WARM_UP, 0).await;
    let before = broker.resident_bytes();
    // 65 MiB more for a bound of 2; the slow one reads nothing of it.
    torrent(&publisher, &mut fast, WARM_UP + 1, MESSAGES - WARM_UP, 0).await;
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes more with a subscriber that is 94 MiB behind");
    assert!(broker.metric("walcast_delivery_queue_bytes").await <= f64::from(2 << 20));

    assert_eq!(slow.next_ids(MESSAGES as usize).await, (1..=MESSAGES).collect::<Vec<_>>());
    let id = publisher.publish("torrent", "live", 0).await.expect("accepted");
    assert_eq!((slow.next().await.id, fast.next().await.id), (id, id));
    assert_eq!(broker.metric("walcast_delivery_fallbacks_total").await, 1.0);
    assert_eq!(broker.metric("walcast_delivery_rejoins_total").await, 1.0);
    assert_eq!(broker.metric("walcast_delivery_behind").await, 0.0);
    assert!(broker.metric("walcast_delivery_catch_up_bytes_total").await > 60e6);
}

fn is_gone(status: &Status) -> (i32, i32) {
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert_eq!(error_reason(status), "MESSAGES_GONE");
    let metadata = status.get_details_error_info().expect("details").metadata;
    let id = |name: &str| metadata[name].parse().unwrap_or_else(|_| panic!("{name} is a number: {metadata:?}"));
    (id("last_delivered_id"), id("first_available_id"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_whose_messages_are_gone_is_told_where_it_can_go_on() {
    const MESSAGES: i32 = 600;
    let setup = setup().store("none").set("log.segment_bytes", "1MiB").set("log.keep_bytes", "2MiB");
    let broker = setup.start().await;
    let mut slow = Client::connect_narrow(broker.grpc()).await.subscribe("torrent").await;
    let mut fast = broker.client().await.subscribe("torrent").await;
    let publisher = broker.client().await;
    torrent(&publisher, &mut fast, 1, MESSAGES, 3_600).await;
    eventually("the log to be trimmed", || async { (broker.position("trimmed").await > 300.0).then_some(()) }).await;

    let (ids, status) = slow.drain().await;
    let (last_delivered, first_available) = is_gone(&status.expect("it was ended"));
    assert_eq!(ids, (1..=ids.len() as i32).collect::<Vec<_>>(), "what it got has no gap");
    assert_eq!(last_delivered, ids.len() as i32);
    assert!(first_available > last_delivered + 1 && first_available <= MESSAGES, "{first_available}");
    let ended = r#"walcast_delivery_ended_total{reason="messages_gone"}"#;
    assert_eq!(broker.metric(ended).await, 1.0);
    // It goes on where it was told, and with what comes.
    let mut again = publisher.resume("torrent", last_delivered).await;
    let rest = again.next_ids((MESSAGES - first_available + 1) as usize).await;
    assert_eq!(rest, (first_available..=MESSAGES).collect::<Vec<_>>());
    let id = publisher.publish("torrent", "", 0).await.expect("accepted");
    assert_eq!((again.next().await.id, fast.next().await.id), (id, id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_is_served_from_the_store_once_the_log_no_longer_has_its_messages() {
    const MESSAGES: i32 = 600;
    let setup = setup().set("log.segment_bytes", "1MiB").set("log.keep_bytes", "2MiB");
    let broker = setup.start().await;
    let mut slow = Client::connect_narrow(broker.grpc()).await.subscribe("torrent").await;
    let mut fast = broker.client().await.subscribe("torrent").await;
    let publisher = broker.client().await;
    torrent(&publisher, &mut fast, 1, MESSAGES, 3_600).await;
    eventually("the log to be trimmed", || async { (broker.position("trimmed").await > 300.0).then_some(()) }).await;
    assert_eq!(slow.next_ids(MESSAGES as usize).await, (1..=MESSAGES).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_a_subscriber_that_is_behind() {
    let broker = setup().start().await;
    let mut slow = Client::connect_narrow(broker.grpc()).await.subscribe("torrent").await;
    let mut fast = broker.client().await.subscribe("torrent").await;
    torrent(&broker.client().await, &mut fast, 1, 200, 0).await;
    let draining = tokio::spawn(async move { slow.drain().await });
    broker.stop().await;
    let (ids, status) = draining.await.expect("no panic");
    assert_eq!(ids, (1..=ids.len() as i32).collect::<Vec<_>>());
    assert!(ids.len() < 200, "it had not read everything");
    assert_eq!(error_reason(&status.expect("it was ended")), "SHUTTING_DOWN");
}
