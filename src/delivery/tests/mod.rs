//! Tests of the room: what subscribers get, against a history in memory.

mod hand_over;
mod memory;
mod model;

use std::sync::Arc;
use std::task::{Context, Waker};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use prost::Message as _;

use super::*;
use crate::event::record::Record;
use crate::event::{EncodedMessage, Expiration, MessageId, Subject, UnixMicros};
use crate::proto::client::MessageResponse;
use crate::telemetry::Metrics;
use memory::Memory;

struct Rig {
    delivery: Delivery,
    fanout: Fanout,
    readers: BoxFuture<'static, ()>,
    history: Arc<Memory>,
    metrics: Metrics,
}

impl Rig {
    fn new(config: Config) -> Self {
        let (history, metrics) = (Arc::new(Memory::default()), Metrics::new("test"));
        let (delivery, fanout, readers) =
            Delivery::new(config, Arc::clone(&history) as Arc<dyn History>, metrics.delivery.clone());
        Self { delivery, fanout, readers: readers.run().boxed(), history, metrics }
    }

    /// The next message of a subject, durable and not yet fanned out.
    fn publish(&self, name: &str) -> Live {
        let id = MessageId::new(self.history.last_id(&subject(name)) + 1).expect("an id");
        let encoded = encoded(name, id);
        self.history.append(name, id, encoded.clone());
        Live { subject: subject(name), id, encoded, trace: None }
    }

    fn publish_all(&self, names: &[&str]) {
        let frame = names.iter().map(|name| self.publish(name)).collect();
        self.fanout.fan_out(frame);
    }

    fn subscribe(&self, name: &str) -> Subscription {
        self.delivery.subscribe(&subject(name), Start::Now).expect("room")
    }

    fn resume(&self, name: &str, after: u32) -> Subscription {
        self.delivery.subscribe(&subject(name), Start::After(after)).expect("room")
    }

    /// Lets the readers work through what was ordered.
    fn read(&mut self) {
        let _never_done = self.readers.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    /// What the subscription has without waiting for the readers.
    fn ready(subscription: &mut Subscription) -> Vec<Result<i32, StreamEnd>> {
        std::iter::from_fn(|| subscription.next().now_or_never().flatten()).map(|item| item.map(id_of)).collect()
    }

    /// What the subscription has once the readers are done.
    fn all(&mut self, subscription: &mut Subscription) -> Vec<Result<i32, StreamEnd>> {
        let mut all = Vec::new();
        // A chunk may settle ids and bring no message.
        let mut quiet = 0;
        while quiet < 5 {
            let some = Self::ready(subscription);
            quiet = if some.is_empty() { quiet + 1 } else { 0 };
            all.extend(some);
            self.read();
        }
        all
    }
}

fn config() -> Config {
    Config { subscribers_max: 3, subscriber_bytes_max: 4_000, delivery_bytes_max: 6_000 }
}

fn subject(name: &str) -> Subject {
    Subject::new(name.to_owned()).expect("a valid subject")
}

fn encoded(name: &str, id: MessageId) -> EncodedMessage {
    EncodedMessage::new(&Record {
        subject: name,
        id,
        published_at: UnixMicros::from_micros(1),
        expiration: Expiration::FIRE_AND_FORGET,
        idempotency_key: None,
        traceparent: None,
        body: &[b'x'; 100],
    })
}

fn id_of(message: EncodedMessage) -> i32 {
    MessageResponse::decode(message.as_bytes().clone()).expect("valid protobuf").id
}

fn ids(range: std::ops::RangeInclusive<i32>) -> Vec<Result<i32, StreamEnd>> {
    range.map(Ok).collect()
}

#[test]
fn delivers_to_the_subscribers_of_the_subject_in_order_and_to_no_other() {
    let rig = Rig::new(config());
    let (mut a, mut b) = (rig.subscribe("a"), rig.subscribe("b"));
    rig.publish_all(&["a", "a", "b", "c", "a"]);
    assert_eq!(Rig::ready(&mut a), ids(1..=3));
    assert_eq!(Rig::ready(&mut b), ids(1..=1));
    assert_eq!(Rig::ready(&mut a), []);
}

#[test]
fn what_was_durable_before_is_not_delivered_even_if_it_is_fanned_out_later() {
    let rig = Rig::new(config());
    let early = vec![rig.publish("a"), rig.publish("a")];
    let mut late = rig.subscribe("a");
    rig.fanout.fan_out(early);
    rig.publish_all(&["a"]);
    assert_eq!(Rig::ready(&mut late), ids(3..=3));
}

#[test]
fn a_slow_subscriber_is_served_from_history_and_goes_live_again_and_a_fast_one_goes_on() {
    let mut rig = Rig::new(config());
    let (mut slow, mut fast) = (rig.subscribe("a"), rig.subscribe("a"));
    rig.publish_all(&["a"]);
    assert_eq!(Rig::ready(&mut slow), ids(1..=1));
    assert_eq!(Rig::ready(&mut fast), ids(1..=1));
    for id in 2..=100 {
        rig.publish_all(&["a"]);
        assert_eq!(Rig::ready(&mut fast), ids(id..=id));
    }
    assert!(rig.delivery.unread_bytes() <= 4_000);
    assert_eq!(rig.all(&mut slow), ids(2..=100));
    let metrics = &rig.metrics.delivery;
    assert_eq!((metrics.fallbacks.get(), metrics.rejoins.get(), metrics.behind.get()), (1, 1, 0));
    assert_eq!(metrics.catch_up_messages.get(), 99);
    rig.publish_all(&["a"]);
    assert_eq!((Rig::ready(&mut slow), Rig::ready(&mut fast)), (ids(101..=101), ids(101..=101)));
}

#[test]
fn the_bound_on_all_subjects_makes_the_slow_ones_of_the_largest_fall_back() {
    let mut rig = Rig::new(config());
    let (mut large, mut medium, mut small) = (rig.subscribe("large"), rig.subscribe("medium"), rig.subscribe("small"));
    rig.publish_all(&["small"]);
    rig.publish_all(&["large"; 14]);
    rig.publish_all(&["medium"; 35]);
    assert!(rig.delivery.unread_bytes() <= 6_000);
    assert_eq!(Rig::ready(&mut small), ids(1..=1));
    assert_eq!((rig.all(&mut large), rig.all(&mut medium)), (ids(1..=14), ids(1..=35)));
    assert!(rig.metrics.delivery.fallbacks.get() > 0);
}

#[test]
fn resumes_after_any_id_and_goes_on_live() {
    let mut rig = Rig::new(config());
    rig.publish_all(&["a"; 20]);
    for after in [0, 1, 19, 20] {
        let mut resumed = rig.resume("a", after);
        let last = rig.history.last_id(&subject("a")) as i32;
        assert_eq!(rig.all(&mut resumed), ids(after as i32 + 1..=last), "after {after}");
        rig.publish_all(&["a"; 2]);
        assert_eq!(Rig::ready(&mut resumed), ids(last + 1..=last + 2), "after {after}");
    }
    let refused = rig.delivery.subscribe(&subject("a"), Start::After(29)).expect_err("the future");
    assert_eq!(refused, SubscribeError::BeyondLast { after: 29, last: 28 });
    let refused = rig.delivery.subscribe(&subject("new"), Start::After(1)).expect_err("the future");
    assert_eq!(refused, SubscribeError::BeyondLast { after: 1, last: 0 });
    assert_eq!((rig.delivery.subscribers(), rig.delivery.topics()), (0, 0), "a refused one is forgotten");
}

#[test]
fn what_a_resuming_subscriber_asks_for_may_be_gone_and_what_it_is_owed_may_not() {
    let mut rig = Rig::new(config());
    rig.publish_all(&["a"; 10]);
    rig.history.forget("a", 5);
    let mut resumed = rig.resume("a", 2);
    assert_eq!(rig.all(&mut resumed), ids(6..=10), "3 to 5 cannot be had");
    rig.publish_all(&["a"; 100]);
    rig.history.forget("a", 50);
    let gone = StreamEnd::Gone { last_delivered: 10, first_available: 51 };
    assert_eq!(rig.all(&mut resumed), [Err(gone)]);
    let mut again = rig.resume("a", 10);
    assert_eq!(rig.all(&mut again), ids(51..=110), "its client can go on");
    // Nothing is left at all.
    rig.publish_all(&["a"; 100]);
    rig.history.forget("a", 210);
    assert_eq!(rig.all(&mut again), [Err(StreamEnd::Gone { last_delivered: 110, first_available: 211 })]);
    let ends = rig.metrics.render();
    let counted = r#"walcast_delivery_ended_total{reason="messages_gone"} 2"#;
    assert!(ends.lines().any(|line| line == counted), "{ends}");
}

#[test]
fn history_that_cannot_be_read_ends_the_stream_with_the_last_id() {
    let mut rig = Rig::new(config());
    rig.publish_all(&["a"; 3]);
    rig.history.fail(Some(HistoryError::NotIndexed));
    let mut resumed = rig.resume("a", 1);
    let end = StreamEnd::History { last_delivered: 1, error: HistoryError::NotIndexed };
    assert_eq!(rig.all(&mut resumed), [Err(end)]);
}

#[test]
fn a_dropped_subscription_is_forgotten_at_once() {
    let rig = Rig::new(config());
    let kept = rig.subscribe("a");
    drop(rig.subscribe("a"));
    drop(rig.subscribe("b"));
    assert_eq!((rig.delivery.subscribers(), rig.delivery.topics()), (1, 1));
    rig.publish_all(&["a"]);
    assert!(rig.delivery.unread_bytes() > 0);
    let behind = rig.resume("a", 0);
    assert_eq!(rig.metrics.delivery.behind.get(), 1);
    drop((kept, behind));
    assert_eq!((rig.delivery.subscribers(), rig.delivery.topics(), rig.delivery.unread_bytes()), (0, 0, 0));
    assert_eq!(rig.metrics.delivery.behind.get(), 0);
    assert!(!rig.delivery.has_subscribers());
}

#[test]
fn refuses_more_than_its_subscribers_and_everyone_after_the_close() {
    let mut rig = Rig::new(config());
    rig.publish_all(&["a"]);
    let mut kept: Vec<_> = (0..2).map(|_| rig.subscribe("a")).collect();
    let mut behind = rig.resume("a", 0);
    let refused = rig.delivery.subscribe(&subject("a"), Start::Now).expect_err("full");
    assert_eq!(refused, SubscribeError::TooMany { max: 3 });
    rig.publish_all(&["a"]);
    assert_eq!(Rig::ready(&mut behind), [], "it waits for the readers");
    rig.delivery.close();
    assert_eq!(Rig::ready(&mut kept[0]), [Ok(2), Err(StreamEnd::ShuttingDown)]);
    assert_eq!(rig.all(&mut behind), [Err(StreamEnd::ShuttingDown)], "what was ordered is given up");
    let refused = rig.delivery.subscribe(&subject("a"), Start::Now).expect_err("closed");
    assert_eq!(refused, SubscribeError::ShuttingDown);
}
