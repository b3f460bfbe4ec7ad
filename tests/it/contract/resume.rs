//! Resume: everything after an id that can still be had, then live, without gap or repeat.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Broker, Client, Setup, body_of, error_reason, eventually, random_bytes};

async fn publish_all(client: &Client, subject: &str, numbers: std::ops::RangeInclusive<u64>, expiration: i32) {
    for number in numbers {
        client.publish(subject, body_of(subject, number), expiration).await.expect("accepted");
    }
}

fn ids(range: std::ops::RangeInclusive<i32>) -> Vec<i32> {
    range.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_after_the_id_comes_and_then_what_is_published() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    publish_all(&client, "s", 1..=40, 60).await;
    publish_all(&client, "s", 41..=60, 0).await;
    for after in [0, 1, 30, 59, 60] {
        let mut resumed = client.resume("s", after).await;
        assert_eq!(resumed.next_ids(60 - after as usize).await, ids(after + 1..=60));
        assert!(resumed.is_quiet().await, "after {after}");
    }
    let mut resumed = client.resume("s", 58).await;
    assert_eq!(resumed.next().await.body, body_of("s", 59));
    publish_all(&client, "s", 61..=62, 60).await;
    for number in 60..=62 {
        let message = resumed.next().await;
        assert_eq!((message.id as u64, message.subject.as_str()), (number, "s"));
        assert_eq!(message.body, body_of("s", number));
        assert!(message.published_at.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_of_a_resume_are_sent_at_once_and_what_is_published_then_comes() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut fresh = client.resume("silence", 0).await;
    assert!(fresh.is_quiet().await);
    client.publish_kept("silence", "x").await;
    assert_eq!(fresh.next().await.id, 1);
}

fn is_invalid_after_id(status: &Status) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(error_reason(status), "INVALID_AFTER_ID");
    assert!(status.message().contains("after_id"), "{status:?}");
    let info = status.get_details_error_info().expect("details");
    assert_eq!(info.metadata["field"], "after_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_id_and_the_future_are_refused_and_hold_nothing() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    client.publish_kept("s", "x").await;
    for (subject, after) in [("s", -1), ("s", i32::MIN), ("s", 2), ("s", i32::MAX), ("never", 1)] {
        is_invalid_after_id(&client.try_resume(subject, Some(after)).await.expect_err("refused"));
    }
    assert_eq!(broker.metric("active_subscribers").await, 0.0);
    assert_eq!(client.resume("s", 0).await.next().await.id, 1);
    assert!(client.resume("s", 1).await.is_quiet().await);
    assert_eq!(client.try_resume("", Some(0)).await.expect_err("no subject").code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expired_are_left_out_and_fire_and_forget_ones_come_while_the_log_has_them() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for turn in 0..10 {
        for expiration in [1, 0, 3_600] {
            client.publish("mixed", body_of("mixed", turn), expiration).await.expect("accepted");
        }
    }
    eventually("the first to expire", || async { client.fetch("mixed", 28).await.err() }).await;
    let expected: Vec<i32> = (1..=30).filter(|id| id % 3 != 1).collect();
    assert_eq!(client.resume("mixed", 0).await.next_ids(20).await, expected);
    assert_eq!(client.resume("mixed", 15).await.next_ids(10).await, expected[10..]);
    // Nothing but expired ones: the next to be published is the first to come.
    client.publish("short", "x", 1).await.expect("accepted");
    eventually("it to expire", || async { client.fetch("short", 1).await.err() }).await;
    let mut resumed = client.resume("short", 0).await;
    assert!(resumed.is_quiet().await);
    client.publish_kept("short", "y").await;
    assert_eq!(resumed.next().await.id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_goes_on_across_restarts_of_both_kinds() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    publish_all(&client, "s", 1..=300, 3_600).await;
    assert_eq!(client.resume("s", 0).await.next_ids(120).await, ids(1..=120));
    let broker = broker.kill_nine().await.start().await;
    let client = broker.client().await;
    let mut resumed = client.resume("s", 120).await;
    publish_all(&client, "s", 301..=320, 0).await;
    assert_eq!(resumed.next_ids(200).await, ids(121..=320));
    let broker = broker.stop().await.start().await;
    assert_eq!(broker.client().await.resume("s", 310).await.next_ids(10).await, ids(311..=320));
}

/// Publishes as fast as it goes while subscribers resume anywhere, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_resume_has_no_gap_and_no_repeat_while_publishing_goes_on() {
    let broker = Setup::new().set("limits.subscriber_bytes", "1MiB").set("limits.body_bytes", "64KiB").start().await;
    let client = broker.client().await;
    publish_all(&client, "busy", 1..=200, 3_600).await;
    let mut publishers = JoinSet::new();
    for publisher in 0..16_u64 {
        let client = client.clone();
        publishers.spawn(async move {
            for turn in 0..400 {
                let body = random_bytes(publisher * 1_000 + turn, 1_000);
                client.publish("busy", body, (turn % 2) as i32 * 3_600).await.expect("accepted");
            }
        });
    }
    let mut subscribers = JoinSet::new();
    for number in 0..12 {
        let client = broker.client().await;
        subscribers.spawn(async move {
            let mut last = number * 16;
            while last < 200 + 6_400 {
                let mut resumed = client.resume("busy", last).await;
                for _ in 0..(400 + 97 * number).min(6_600 - last) {
                    last += 1;
                    assert_eq!(resumed.next().await.id, last, "subscriber {number}");
                }
            }
        });
    }
    publishers.join_all().await;
    subscribers.join_all().await;
    assert_eq!(broker.metric("walcast_delivery_behind").await, 0.0);
    assert!(broker.metric("walcast_delivery_rejoins_total").await > 12.0);
}

/// The log keeps two segments; what it does not hold any more is in the store, but for the fire-and-forget ones.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_no_longer_has_comes_from_the_store() {
    let setup = Setup::new().set("limits.body_bytes", "64KiB").set("log.segment_bytes", "1MiB");
    let broker = setup.set("log.keep_bytes", "1MiB").start().await;
    let client = broker.client().await;
    let body = random_bytes(1, 16 * 1024);
    for turn in 0..400 {
        client.publish("old", body.clone(), if turn % 4 == 3 { 0 } else { 3_600 }).await.expect("accepted");
    }
    broker.all_projected().await;
    let trimmed = eventually("the log to be trimmed", || async {
        let trimmed = broker.position("trimmed").await as i32;
        (trimmed > 100).then_some(trimmed)
    })
    .await;
    let mut resumed = client.resume("old", 0).await;
    let mut got = Vec::new();
    while got.last() != Some(&400) {
        let message = resumed.next().await;
        assert!(message.body == body);
        got.push(message.id);
    }
    let kept: Vec<i32> = (1..=400).filter(|id| id % 4 != 0).collect();
    assert_eq!(got.iter().copied().filter(|id| id % 4 != 0).collect::<Vec<_>>(), kept, "trimmed: {trimmed}");
    assert!(got.is_sorted());
    let forgotten = got.iter().filter(|id| *id % 4 == 0).collect::<Vec<_>>();
    assert!(forgotten.iter().all(|id| **id > trimmed), "{forgotten:?} with trimmed {trimmed}");
    assert!(forgotten.len() > 10, "the log has some");
    client.publish_kept("old", "live").await;
    assert_eq!(resumed.next().await.id, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_that_resume_at_once_after_a_restart_get_everything_and_publishers_go_on() {
    const SUBSCRIBERS: usize = 1_000;
    let broker = Broker::start().await;
    let client = broker.client().await;
    for subject in 0..20 {
        let subject = format!("s{subject}");
        publish_all(&client, &subject, 1..=100, 3_600).await;
    }
    let broker = broker.kill_nine().await.start().await;
    let mut subscribers = JoinSet::new();
    for connection in 0..10 {
        let client = broker.client().await;
        for number in 0..SUBSCRIBERS / 10 {
            let (client, subject) = (client.clone(), format!("s{}", number % 20));
            let after = ((connection * 37 + number) % 100) as i32;
            subscribers.spawn(async move {
                let mut resumed = client.resume(&subject, after).await;
                assert_eq!(resumed.next_ids(100 - after as usize + 1).await, ids(after + 1..=101));
            });
        }
    }
    let publisher = broker.client().await;
    let mut slowest = Duration::ZERO;
    for subject in 0..20 {
        let started = std::time::Instant::now();
        assert_eq!(publisher.publish_kept(&format!("s{subject}"), "live").await, 101);
        slowest = slowest.max(started.elapsed());
    }
    subscribers.join_all().await;
    println!("{SUBSCRIBERS} resumed; the slowest publish meanwhile took {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
