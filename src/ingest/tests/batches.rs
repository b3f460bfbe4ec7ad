//! Batches of streams.

use std::pin::pin;
use std::task::Poll;

use super::*;
use crate::ingest::batch::frame_bytes;

/// Bounds the batches of these tests from above; the frame bounds them as well.
const BATCH_BYTES: usize = 64 * 1024;

fn batch_of(publisher: &Publisher, publishes: impl IntoIterator<Item = Publish>) -> PublishBatch {
    let mut batch = PublishBatch::default();
    for publish in publishes {
        publisher.add(&mut batch, publish, BATCH_BYTES).expect("it fits");
    }
    batch
}

async fn outcomes_of(
    publisher: &Publisher,
    batch: PublishBatch,
) -> Result<Vec<Result<u32, PublishError>>, PublishError> {
    let room = publisher.room(batch.charge()).await;
    let outcomes = publisher.publish_batch(batch, room)?.await?;
    Ok(outcomes.into_iter().map(|outcome| outcome.map(MessageId::get)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_gets_ids_in_its_order_and_gives_its_room_back() {
    let rig = rig(1024 * 1024);
    for round in 0..20 {
        let batch = batch_of(&rig.publisher, (0..30).map(|n| publish(["a", "b", "c"][n % 3], b"body", 60)));
        let ids = outcomes_of(&rig.publisher, batch).await.expect("the log works");
        let expected: Vec<_> = (0..30).map(|n| Ok(round * 10 + n / 3 + 1)).collect();
        assert_eq!(ids, expected);
        assert_eq!((rig.publisher.admission().in_flight(), rig.publisher.stream_bytes()), (0, 0));
    }
    assert!(rig.log.durable().sequence() >= Sequence::new(600), "durable before the answer");
    let before = rig.recorder.before.lock();
    assert!(before.iter().zip(1..).all(|((sequence, _, _), expected)| *sequence == expected), "in log order");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_single_publishes_share_frames_and_no_id_is_given_twice() {
    let rig = rig(1024 * 1024);
    let batches = (0..40).map(|_| async {
        let batch = batch_of(&rig.publisher, (0..25).map(|_| publish("s", &[1; 300], 0)));
        outcomes_of(&rig.publisher, batch).await.expect("the log works")
    });
    let singles = (0..200).map(|_| async { rig.publisher.publish(publish("s", b"x", 0)).await.map(MessageId::get) });
    let (batches, singles) =
        futures_util::join!(futures_util::future::join_all(batches), futures_util::future::join_all(singles));
    for ids in &batches {
        let first = ids[0].clone().expect("an id");
        assert_eq!(*ids, (first..first + 25).map(Ok).collect::<Vec<_>>(), "nothing comes between");
    }
    let all = batches.into_iter().flatten().chain(singles);
    let mut ids: Vec<u32> = all.map(|id| id.expect("an id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=1_200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_no_larger_than_a_frame_and_its_first_publish_always_fits() {
    let rig = rig(1024 * 1024);
    let mut batch = PublishBatch::default();
    let large = || publish("s", &[1; 5_000], 0);
    for _ in 0..3 {
        rig.publisher.add(&mut batch, large(), BATCH_BYTES).expect("it fits");
    }
    rig.publisher.add(&mut batch, large(), BATCH_BYTES).expect_err("a fourth is beyond the frame");
    assert!(3 * frame_bytes(&large()) <= FRAME_BYTES);
    let mut small = PublishBatch::default();
    rig.publisher.add(&mut small, large(), 100).expect("the first one fits");
    rig.publisher.add(&mut small, publish("s", b"", 0), 100).expect_err("a second does not");
    let mut many = PublishBatch::default();
    while rig.publisher.add(&mut many, publish("s", b"", 0), usize::MAX).is_ok() {}
    assert!(many.len() == BATCH_PUBLISHES_MAX || many.len() * frame_bytes(&publish("s", b"", 0)) <= FRAME_BYTES);
    for batch in [batch, small, many] {
        let len = batch.len();
        assert_eq!(outcomes_of(&rig.publisher, batch).await.expect("the log works").len(), len);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subject_too_many_is_refused_in_its_place() {
    let rig = rig(1024 * 1024);
    for number in 0..999 {
        rig.subjects.restore(&format!("old-{number}"), MessageId::MAX).expect("room");
    }
    let subjects = ["a", "old-7", "b", "a"];
    let batch = batch_of(&rig.publisher, subjects.map(|subject| publish(subject, b"x", 0)));
    let table = PublishError::IdsExhausted(IdsExhausted::Table { max: 1_000 });
    let subject = PublishError::IdsExhausted(IdsExhausted::Subject);
    let refused = vec![Ok(1), Err(subject.clone()), Err(table), Ok(2)];
    assert_eq!(outcomes_of(&rig.publisher, batch).await, Ok(refused));
    let batch = batch_of(&rig.publisher, [publish("old-1", b"x", 0)]);
    assert_eq!(outcomes_of(&rig.publisher, batch).await, Ok(vec![Err(subject)]), "without a record, too");
    assert_eq!((rig.publisher.admission().in_flight(), rig.publisher.stream_bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_a_whole_batch_without_taking_an_id() {
    let rig = rig(128 * 1024);
    let refused = loop {
        let batch = batch_of(&rig.publisher, [publish("a", &[1; 8_000], 0)]);
        match outcomes_of(&rig.publisher, batch).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, PublishError::NoRoom(_)), "{refused:?}");
    assert_eq!((rig.publisher.admission().in_flight(), rig.publisher.stream_bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_and_a_stop_leave_no_batch_waiting() {
    let rig = rig(1024 * 1024);
    rig.disk.sync_fails.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let batch = batch_of(&rig.publisher, [publish("a", b"lost", 60)]);
        assert_eq!(outcomes_of(&rig.publisher, batch).await, Err(PublishError::LogFailed));
    }
    let rig = super::rig(1024 * 1024);
    rig.publisher.stop().await;
    let batch = batch_of(&rig.publisher, [publish("a", b"late", 60)]);
    assert_eq!(outcomes_of(&rig.publisher, batch).await, Err(PublishError::ShuttingDown));
}

/// The rig's log has room for a mebibyte in flight, an eighth of which is for streams.
#[tokio::test(flavor = "multi_thread")]
async fn streams_wait_for_their_share_while_single_publishes_find_room() {
    let rig = rig(1024 * 1024);
    let all = rig.publisher.try_room(128 * 1024).expect("all of it");
    assert!(rig.publisher.try_room(1).is_none());
    let mut waiting = pin!(rig.publisher.room(1_000));
    let polled = std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
    assert!(polled, "it waits");
    assert_eq!(rig.publisher.publish(publish("a", b"x", 0)).await.expect("room").get(), 1);
    drop(all);
    drop(waiting.await);
    assert_eq!((rig.publisher.admission().in_flight(), rig.publisher.stream_bytes()), (0, 0));
    // More than the share is no reason to wait for ever.
    drop(rig.publisher.try_room(500 * 1024).expect("alone it may have all"));
}
