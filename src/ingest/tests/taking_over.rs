//! What another node hands over, and subjects that are closed.

use super::*;
use crate::event::record::{self, KeyEntry, Record};
use crate::event::{IdempotencyKey, UnixMicros, clock};

fn record(subject: &str, id: u32, key: Option<&str>, body: &[u8]) -> Bytes {
    let record = Record {
        subject,
        id: MessageId::new(id).expect("an id"),
        published_at: clock::now(),
        expiration: Expiration::from_wire(60).expect("not negative"),
        idempotency_key: key,
        traceparent: None,
        body,
    };
    let mut bytes = Vec::new();
    record::encode(&record, &mut bytes).expect("it encodes");
    bytes.into()
}

fn handed(records: Vec<Bytes>) -> HandedOver {
    HandedOver::new(records, FRAME_BYTES, |subject| subject.starts_with('s')).expect("it may come")
}

fn marks(marks: &[(&str, u32)]) -> Bytes {
    let mut bytes = Vec::new();
    let marks = marks.iter().map(|(subject, id)| (*subject, MessageId::new(*id).expect("an id")));
    record::encode_marks(marks, &mut bytes).expect("they encode");
    bytes.into()
}

fn mark(rig: &Rig, subject: &str) -> Option<u32> {
    rig.subjects.high_water_mark(subject).map(|(_, id)| id.get())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_keep_their_ids_and_are_taken_once() {
    let rig = rig(1024 * 1024);
    assert_eq!(rig.publisher.publish(publish("own", b"x", 60)).await.expect("published").get(), 1);
    let first = vec![record("s1", 5, None, b"five"), record("s2", 1, None, b""), record("s1", 6, Some("k"), b"six")];
    rig.publisher.take_over(handed(first.clone())).await.expect("durable");
    assert_eq!((mark(&rig, "s1"), mark(&rig, "s2")), (Some(6), Some(1)));
    // A second time, as after a move that was given up, with more behind it.
    let more = [first, vec![record("s1", 7, None, b"seven")]].concat();
    rig.publisher.take_over(handed(more)).await.expect("durable");
    assert_eq!((rig.log.durable().sequence().get(), mark(&rig, "s1")), (5, Some(7)));
    let mut reader = rig.log.reader(Sequence::new(1)).expect("readable");
    let mut found = Vec::new();
    while let Some(frame) = reader.next().expect("readable") {
        for (_, bytes) in frame.iter() {
            let Ok(record::Logged::Message(record)) = record::decode(&bytes) else { panic!("not a message") };
            found.push((record.subject.to_owned(), record.id.get(), record.body.to_vec()));
        }
    }
    let message = |subject: &str, id, body: &[u8]| (subject.to_owned(), id, body.to_vec());
    let expected =
        [message("s1", 5, b"five"), message("s2", 1, b""), message("s1", 6, b"six"), message("s1", 7, b"seven")];
    assert_eq!(found, expected);
    // The next publish goes on, and the retry of one of the other node is known.
    let keyed =
        |body: &[u8]| Publish { key: Some(IdempotencyKey::new("k").expect("a key")), ..publish("s1", body, 60) };
    assert_eq!(rig.publisher.publish(keyed(b"six")).await.expect("known").get(), 6);
    assert_eq!(
        rig.publisher.publish(keyed(b"other")).await,
        Err(PublishError::KeyTaken { id: MessageId::new(6).expect("an id") })
    );
    assert_eq!(rig.publisher.publish(publish("s1", b"x", 60)).await.expect("published").get(), 8);
    assert_eq!(rig.recorder.before.lock().iter().map(|seen| seen.1).collect::<Vec<_>>(), [1, 5, 1, 6, 7, 8]);
    let delivered = || rig.recorder.after.lock().clone();
    while delivered().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(delivered(), [1, 6], "what was published here only");
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_and_keys_are_known_once_they_are_durable() {
    let rig = rig(1024 * 1024);
    rig.publisher.take_over(handed(vec![record("s1", 3, None, b"three")])).await.expect("durable");
    rig.publisher.take_over(handed(vec![marks(&[("s1", 3), ("s2", 40)])])).await.expect("durable");
    let print = Fingerprint::new("s2", "k", b"forty");
    let key = |published_at| KeyEntry {
        name: print.name,
        body: print.body,
        published_at,
        id: MessageId::new(40).expect("an id"),
    };
    let mut bytes = Vec::new();
    record::encode_keys([key(UnixMicros::from_micros(1)), key(clock::now())], &mut bytes).expect("they encode");
    rig.publisher.take_over(handed(vec![bytes.into()])).await.expect("durable");
    assert_eq!(*rig.recorder.taken_over.lock(), [2, 3]);
    assert_eq!(rig.keys.held(), 1, "the first one has expired");
    let keyed = Publish { key: Some(IdempotencyKey::new("k").expect("a key")), ..publish("s2", b"forty", 60) };
    assert_eq!(rig.publisher.publish(keyed).await.expect("known").get(), 40);
    for (subject, next) in [("s1", 4), ("s2", 41)] {
        assert_eq!(rig.publisher.publish(publish(subject, b"x", 60)).await.expect("published").get(), next);
    }
    assert_eq!(rig.subjects.marked_through().sequence().get(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_as_a_whole() {
    let lost = Bytes::from_static(record::LOST);
    let new = |records: Vec<Bytes>| HandedOver::new(records, FRAME_BYTES, |subject| subject.starts_with('s'));
    let refused = |records: Vec<Bytes>| new(records).expect_err("refused").to_string();
    assert!(refused(vec![record("s", 1, None, b""), record("t", 1, None, b"")]).contains("subject \"t\""));
    assert!(refused(vec![marks(&[("s", 1), ("t", 1)])]).contains("subject \"t\""));
    assert!(refused(vec![lost]).contains("lost"));
    assert!(refused(vec![record("s", 1, None, b""), marks(&[("s", 1)])]).contains("by itself"));
    assert!(refused(Vec::new()).contains("0 records"));
    assert!(refused(vec![record("s", 1, None, &[0; FRAME_BYTES])]).contains("fit"));
    // More subjects than the table takes: 1,000.
    let rig = rig(1024 * 1024);
    let many: Vec<String> = (0..700).map(|number| format!("s{number}")).collect();
    let half = |from: usize| marks(&many[from..].iter().map(|name| (name.as_str(), 1)).take(350).collect::<Vec<_>>());
    rig.publisher.take_over(handed(vec![half(0)])).await.expect("fits");
    rig.publisher.take_over(handed(vec![half(350)])).await.expect("fits");
    rig.publisher.take_over(handed(vec![half(0)])).await.expect("they have their places");
    let more: Vec<String> = (0..301).map(|number| format!("s-more-{number}")).collect();
    let marks_of = |names: &[String]| marks(&names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>());
    let full = Err(TakeOverError::Publish(PublishError::IdsExhausted(IdsExhausted::Table { max: 1_000 })));
    assert_eq!(rig.publisher.take_over(handed(vec![marks_of(&more)])).await, full, "one too many");
    // Of each subject two messages: more messages than places, and fewer subjects.
    let twice = |name: &String| [record(name, 1, None, b""), record(name, 2, None, b"")];
    rig.publisher.take_over(handed(more[..160].iter().flat_map(twice).collect())).await.expect("fits");
    rig.publisher.take_over(handed(vec![marks_of(&more[160..300])])).await.expect("the last places");
    assert_eq!(rig.publisher.take_over(handed(vec![record("s-last", 1, None, b"")])).await, full);
    rig.publisher.take_over(handed(vec![record("s0", 2, None, b"")])).await.expect("its subject is known");
    assert_eq!((rig.subjects.len(), rig.log.durable().sequence().get()), (1_000, 325));
}

/// Keys of another node make none of this node's forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_do_not_fit_are_refused_and_forget_none() {
    let rig = rig(1024 * 1024);
    let keyed = |number: usize| {
        let key = IdempotencyKey::new(format!("own {number}")).expect("a key");
        Publish { key: Some(key), ..publish("own", b"x", 60) }
    };
    for id in 1..=900 {
        assert_eq!(rig.publisher.publish(keyed(id as usize)).await.expect("published").get(), id);
    }
    let key = |number: usize, published_at| {
        let print = Fingerprint::new("s", &number.to_string(), b"");
        KeyEntry { name: print.name, body: print.body, published_at, id: MessageId::new(1).expect("an id") }
    };
    let handed_keys = |keys: Vec<KeyEntry>| {
        let mut bytes = Vec::new();
        record::encode_keys(keys, &mut bytes).expect("they encode");
        handed(vec![bytes.into()])
    };
    let (now, long_ago) = (clock::now(), UnixMicros::from_micros(1));
    let keys = |count: usize| (0..count).map(|number| key(number, now)).collect::<Vec<_>>();
    let full = Err(TakeOverError::Keys(KeysFull { new: 101, max: 1_000 }));
    assert_eq!(rig.publisher.take_over(handed_keys(keys(101))).await, full);
    assert_eq!((rig.keys.held(), rig.log.durable().sequence().get()), (900, 900));
    let expired = (1_000..1_050).map(|number| key(number, long_ago));
    let fits = keys(100).into_iter().chain(expired).collect();
    rig.publisher.take_over(handed_keys(fits)).await.expect("they fit");
    // Once more, as after a move that was given up: they are known.
    rig.publisher.take_over(handed_keys(keys(100))).await.expect("they are there");
    assert_eq!(rig.keys.held(), 1_000);
    assert_eq!(rig.publisher.publish(keyed(1)).await.expect("known").get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_subjects_get_no_ids_and_known_retries_are_answered() {
    let rig = rig(1024 * 1024);
    let keyed = |body: &[u8]| Publish { key: Some(IdempotencyKey::new("k").expect("a key")), ..publish("s", body, 60) };
    assert_eq!(rig.publisher.publish(keyed(b"one")).await.expect("published").get(), 1);
    // Under load: everything that got an id is durable at the position, and nothing after it.
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let publisher = rig.publisher.clone();
        load.spawn(async move {
            let mut last = 0;
            loop {
                match publisher.publish(publish("s", b"x", 60)).await {
                    Ok(id) => last = id.get(),
                    Err(error) => return (last, error),
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let closed = Closed::new(|subject| subject == "s");
    let at = rig.publisher.close(Some(closed)).await.expect("heard");
    let mut last = 1;
    for (id, error) in load.join_all().await {
        assert_eq!(error, PublishError::Moving);
        last = last.max(id);
    }
    assert!(last > 1, "the load was on");
    assert_eq!((at, mark(&rig, "s")), (rig.log.durable(), Some(last)));
    assert_eq!(rig.publisher.publish(publish("t", b"x", 60)).await.expect("not closed").get(), 1);
    assert_eq!(rig.publisher.publish(keyed(b"one")).await.expect("known").get(), 1);
    assert_eq!(
        rig.publisher.publish(keyed(b"two")).await,
        Err(PublishError::KeyTaken { id: MessageId::new(1).expect("an id") })
    );
    rig.publisher.close(None).await.expect("heard");
    assert_eq!(rig.publisher.publish(publish("s", b"x", 60)).await.expect("open").get(), last + 1);
    // The words count after the committer has ended, too.
    rig.publisher.stop().await;
    rig.committer.join().expect("no panic").expect("in order");
    assert_eq!(rig.publisher.close(None).await, Err(PublishError::ShuttingDown));
    let stopped = rig.publisher.take_over(handed(vec![marks(&[("s", 1)])])).await;
    assert_eq!(stopped, Err(PublishError::ShuttingDown.into()));
}
