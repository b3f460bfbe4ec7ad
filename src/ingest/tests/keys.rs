//! Publishes with idempotency keys through publisher, committer and releaser.

use super::*;
use crate::event::IdempotencyKey;

fn keyed(subject: &str, key: &str, body: &[u8]) -> Publish {
    Publish { key: Some(IdempotencyKey::new(key).expect("a key")), ..publish(subject, body, 60) }
}

/// Ends the rig; gives the sequences that were handed on, before and after the acks.
async fn ended(rig: Rig) -> (Vec<u64>, Vec<u64>) {
    rig.publisher.stop().await;
    assert!(rig.committer.join().expect("no panic").is_ok());
    rig.releaser.await.expect("no panic");
    let before = rig.recorder.before.lock().iter().map(|(sequence, _, _)| *sequence).collect();
    let after = rig.recorder.after.lock().clone();
    (before, after)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_id_and_is_no_message() {
    let rig = rig(1024 * 1024);
    let first = rig.publisher.publish(keyed("a", "k", b"body")).await.expect("an ack");
    for _ in 0..3 {
        assert_eq!(rig.publisher.publish(keyed("a", "k", b"body")).await, Ok(first));
    }
    assert_eq!(
        rig.publisher.publish(keyed("b", "k", b"body")).await.map(MessageId::get),
        Ok(1),
        "keys are of a subject"
    );
    assert_eq!(rig.publisher.publish(keyed("a", "l", b"body")).await.map(MessageId::get), Ok(2));
    assert_eq!(rig.publisher.publish(publish("a", b"body", 60)).await.map(MessageId::get), Ok(3));
    assert_eq!(rig.publisher.admission().in_flight(), 0, "what repeats gives its room back");
    assert_eq!(rig.keys.held(), 3);
    assert_eq!(ended(rig).await, ((1..=4).collect(), (1..=4).collect()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_under_a_key_is_refused_with_the_id() {
    let rig = rig(1024 * 1024);
    let id = rig.publisher.publish(keyed("a", "k", b"body")).await.expect("an ack");
    assert_eq!(rig.publisher.publish(keyed("a", "k", b"another")).await, Err(PublishError::KeyTaken { id }));
    assert_eq!(rig.publisher.publish(keyed("a", "k", b"body")).await, Ok(id));
    assert_eq!(ended(rig).await, (vec![1], vec![1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_in_flight_share_the_first_s_id() {
    let rig = rig(1024 * 1024);
    for round in 0..50 {
        let key = format!("key {round}");
        let calls =
            (0..100).map(|n| rig.publisher.publish(keyed("a", &key, if n % 10 == 9 { b"other" } else { b"body" })));
        let answers = futures_util::future::join_all(calls).await;
        let ids: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        let id = *ids[0];
        assert_eq!(id.get(), round + 1);
        // Whichever body was the first: all with it have its id, all with the other one hear of it.
        assert!(ids.iter().all(|other| **other == id) && matches!(ids.len(), 90 | 10), "{answers:?}");
        let taken = answers.iter().filter(|answer| **answer == Err(PublishError::KeyTaken { id })).count();
        assert_eq!(taken + ids.len(), 100);
    }
    assert_eq!(rig.publisher.admission().in_flight(), 0);
    assert_eq!(ended(rig).await.0, (1..=50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_answers_retries_and_keeps_no_key_of_what_it_refuses() {
    let rig = rig(128 * 1024);
    let body = [1; 8_000];
    let first = rig.publisher.publish(keyed("a", "first", &body)).await.expect("room");
    let mut last = first;
    let refused = loop {
        let key = format!("after {last}");
        match rig.publisher.publish(keyed("a", &key, &body)).await {
            Ok(id) => last = id,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PublishError::NoRoom(_)), "{refused:?}");
    assert_eq!(rig.publisher.publish(keyed("a", "first", &body)).await, Ok(first));
    let taken = rig.publisher.publish(keyed("a", "first", b"other")).await;
    assert_eq!(taken, Err(PublishError::KeyTaken { id: first }));
    assert_eq!(rig.publisher.admission().in_flight(), 0);
    rig.log.release(rig.log.durable().sequence()).expect("trimmed");
    let key = format!("after {last}");
    let next = rig.publisher.publish(keyed("a", &key, &body)).await.expect("room again");
    assert_eq!(next.get(), last.get() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_retry_is_answered_when_the_sync_of_its_first_fails() {
    let rig = rig(1024 * 1024);
    rig.publisher.publish(keyed("a", "fine", b"x")).await.expect("an ack");
    rig.disk.sync_fails.store(true, Ordering::SeqCst);
    let calls = (0..20).map(|n| rig.publisher.publish(keyed("a", "lost", if n == 7 { b"y" } else { b"x" })));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer, Err(PublishError::LogFailed), "neither an id nor that the key is taken is known");
    }
}
