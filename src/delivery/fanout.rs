//! The fan-out: from the committed frames to the rings, and the handle to subscribe by.

use std::sync::Arc;

use flume::{Receiver, Sender};
use tokio::sync::watch;

use super::registry::Registry;
use super::ring::Unread;
use super::{Config, SubscribeError, Subscription};
use crate::event::{Durable, EncodedMessage, MessageId, Sequence, Subject};
use crate::telemetry::metrics::DeliveryMetrics;

/// Frames that wait for the fan-out. It never waits for a subscriber, so it is behind only when the
/// machine is; then publishes slow down, and at most this many frames of bodies are held here.
const FRAMES_MAX: usize = 16;

/// A durable message on its way to its subscribers.
#[derive(Debug)]
pub struct Live {
    /// Its place in the log.
    pub sequence: Sequence,
    /// Its subject.
    pub subject: Subject,
    /// Its id.
    pub id: MessageId,
    /// The response that carries it.
    pub encoded: EncodedMessage,
}

/// What the fan-out is told, in order.
#[derive(Debug)]
enum ToFanout {
    Frame(Vec<Live>),
    Close,
}

/// The handle on delivery; a clone is the same.
#[derive(Debug, Clone)]
pub struct Delivery {
    registry: Arc<Registry>,
    frames: Sender<ToFanout>,
    durable: watch::Receiver<Durable>,
    metrics: DeliveryMetrics,
}

/// The fan-out task's state.
#[derive(Debug)]
pub struct Fanout {
    registry: Arc<Registry>,
    frames: Receiver<ToFanout>,
}

impl Delivery {
    /// Connects the handle and the fan-out. `durable` is where the committer publishes its position.
    pub fn new(config: Config, durable: watch::Receiver<Durable>, metrics: DeliveryMetrics) -> (Self, Fanout) {
        let (frames, frames_out) = flume::bounded(FRAMES_MAX);
        let registry = Arc::new(Registry::new(config));
        let fanout = Fanout { registry: Arc::clone(&registry), frames: frames_out };
        (Self { registry, frames, durable, metrics }, fanout)
    }

    /// Subscribes: once this returns, every message that is published is delivered, and none that was
    /// acknowledged before.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn subscribe(&self, subject: &Subject) -> Result<Subscription, SubscribeError> {
        let (topic, place) = self.registry.join(subject.as_str())?;
        // In this order: what is durable after the read is fanned out after the join, so nothing falls between.
        let durable = *self.durable.borrow();
        self.registry.with_ring(&topic, |ring| ring.skip_through(place, durable.sequence()));
        Ok(Subscription::new(Arc::clone(&self.registry), topic, place, self.metrics.clone()))
    }

    /// Whether anybody is subscribed to anything. Asked after a frame is durable, a no is final for that frame.
    pub fn has_subscribers(&self) -> bool {
        self.registry.topics() > 0
    }

    /// Hands a frame to the fan-out, in log order.
    pub async fn deliver(&self, frame: Vec<Live>) {
        // The fan-out ends after every sender only.
        drop(self.frames.send_async(ToFanout::Frame(frame)).await);
    }

    /// Ends all streams once they have read everything that was handed to the fan-out before.
    pub async fn close_in_order(&self) {
        drop(self.frames.send_async(ToFanout::Close).await);
    }

    /// Ends all streams once they have read what is in their rings.
    pub fn close(&self) {
        self.registry.close();
    }

    /// Subscriptions now.
    pub fn subscribers(&self) -> usize {
        self.registry.subscribers()
    }

    /// Subjects that have subscribers.
    pub fn topics(&self) -> usize {
        self.registry.topics()
    }

    /// Unread bytes of all subjects.
    pub fn unread_bytes(&self) -> usize {
        self.registry.bytes()
    }
}

impl Fanout {
    /// Runs until every handle is gone.
    pub async fn run(self) {
        while let Ok(told) = self.frames.recv_async().await {
            match told {
                ToFanout::Frame(frame) => self.fan_out(frame),
                ToFanout::Close => self.registry.close(),
            }
        }
    }

    fn fan_out(&self, frame: Vec<Live>) {
        let mut frame = frame.into_iter().peekable();
        while let Some(first) = frame.next() {
            let subject = first.subject.clone();
            let topic = self.registry.topic(subject.as_str());
            // A run of messages of one subject takes its ring's lock once.
            let run = std::iter::from_fn(|| frame.next_if(|live| live.subject == subject));
            let unread = std::iter::once(first).chain(run).map(Unread::from);
            match topic {
                Some(topic) => self.registry.push(&topic, unread),
                None => unread.for_each(drop),
            }
        }
    }
}

impl From<Live> for Unread {
    fn from(live: Live) -> Self {
        Self { sequence: live.sequence, id: live.id, encoded: live.encoded }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};
    use prost::Message as _;

    use super::*;
    use crate::delivery::StreamEnd;
    use crate::event::record::Record;
    use crate::event::{Expiration, UnixMicros};
    use crate::proto::client::MessageResponse;
    use crate::telemetry::Metrics;

    struct Rig {
        delivery: Delivery,
        fanout: Fanout,
        durable: watch::Sender<Durable>,
    }

    fn rig(config: Config) -> Rig {
        let (durable, position) = watch::channel(Durable::default());
        let (delivery, fanout) = Delivery::new(config, position, Metrics::new("test").delivery);
        Rig { delivery, fanout, durable }
    }

    fn config() -> Config {
        Config { subscribers_max: 3, subscriber_bytes_max: 4_000, delivery_bytes_max: 6_000 }
    }

    fn subject(name: &str) -> Subject {
        Subject::new(name.to_owned()).expect("a valid subject")
    }

    fn live(name: &str, sequence: u64) -> Live {
        let id = MessageId::new(sequence as u32).expect("an id");
        let record = Record {
            subject: name,
            id,
            published_at: UnixMicros::from_micros(1),
            expiration: Expiration::FIRE_AND_FORGET,
            body: &[b'x'; 100],
        };
        Live { sequence: Sequence::new(sequence), subject: subject(name), id, encoded: EncodedMessage::new(&record) }
    }

    fn ready(subscription: &mut Subscription) -> Vec<Result<i32, StreamEnd>> {
        std::iter::from_fn(|| subscription.next().now_or_never().flatten())
            .map(|item| {
                item.map(|message| MessageResponse::decode(message.as_bytes().clone()).expect("valid protobuf").id)
            })
            .collect()
    }

    #[test]
    fn delivers_to_the_subscribers_of_the_subject_in_order_and_to_no_other() {
        let rig = rig(config());
        let mut a = rig.delivery.subscribe(&subject("a")).expect("room");
        let mut b = rig.delivery.subscribe(&subject("b")).expect("room");
        rig.fanout.fan_out(vec![live("a", 1), live("a", 2), live("b", 3), live("c", 4), live("a", 5)]);
        assert_eq!(ready(&mut a), [Ok(1), Ok(2), Ok(5)]);
        assert_eq!(ready(&mut b), [Ok(3)]);
        assert_eq!(ready(&mut a), []);
    }

    #[test]
    fn what_was_durable_before_is_not_delivered_even_if_it_is_fanned_out_later() {
        let rig = rig(config());
        rig.durable.send_replace(Durable(Sequence::new(2)));
        let mut late = rig.delivery.subscribe(&subject("a")).expect("room");
        rig.fanout.fan_out(vec![live("a", 1), live("a", 2), live("a", 3)]);
        assert_eq!(ready(&mut late), [Ok(3)]);
    }

    #[test]
    fn a_slow_subscriber_is_ended_with_its_last_id_and_a_fast_one_goes_on() {
        let rig = rig(config());
        let mut slow = rig.delivery.subscribe(&subject("a")).expect("room");
        let mut fast = rig.delivery.subscribe(&subject("a")).expect("room");
        rig.fanout.fan_out(vec![live("a", 1)]);
        assert_eq!(ready(&mut slow), [Ok(1)]);
        assert_eq!(ready(&mut fast), [Ok(1)]);
        for sequence in 2..=100 {
            rig.fanout.fan_out(vec![live("a", sequence)]);
            assert_eq!(ready(&mut fast), [Ok(sequence as i32)]);
        }
        assert_eq!(ready(&mut slow), [Err(StreamEnd::Lagged { last_delivered: MessageId::new(1) })]);
        assert!(rig.delivery.unread_bytes() <= 4_000);
    }

    #[test]
    fn the_bound_on_all_subjects_ends_the_slow_ones_of_the_largest() {
        let rig = rig(config());
        let mut large = rig.delivery.subscribe(&subject("large")).expect("room");
        let mut medium = rig.delivery.subscribe(&subject("medium")).expect("room");
        let mut small = rig.delivery.subscribe(&subject("small")).expect("room");
        rig.fanout.fan_out(vec![live("small", 1)]);
        rig.fanout.fan_out((2..=15).map(|sequence| live("large", sequence)).collect());
        rig.fanout.fan_out((16..=50).map(|sequence| live("medium", sequence)).collect());
        assert!(rig.delivery.unread_bytes() <= 6_000);
        assert_eq!(ready(&mut small), [Ok(1)]);
        let ended = [&mut large, &mut medium].map(|subscription| matches!(ready(subscription)[..], [Err(_)]));
        assert!(ended.contains(&true));
    }

    #[test]
    fn a_dropped_subscription_is_forgotten_at_once() {
        let rig = rig(config());
        let kept = rig.delivery.subscribe(&subject("a")).expect("room");
        drop(rig.delivery.subscribe(&subject("a")).expect("room"));
        drop(rig.delivery.subscribe(&subject("b")).expect("room"));
        assert_eq!((rig.delivery.subscribers(), rig.delivery.topics()), (1, 1));
        rig.fanout.fan_out(vec![live("a", 1)]);
        assert!(rig.delivery.unread_bytes() > 0);
        drop(kept);
        assert_eq!((rig.delivery.subscribers(), rig.delivery.topics(), rig.delivery.unread_bytes()), (0, 0, 0));
        assert!(!rig.delivery.has_subscribers());
    }

    #[test]
    fn refuses_more_than_its_subscribers_and_everyone_after_the_close() {
        let rig = rig(config());
        let mut kept: Vec<_> = (0..3).map(|_| rig.delivery.subscribe(&subject("a")).expect("room")).collect();
        let refused = rig.delivery.subscribe(&subject("a")).expect_err("full");
        assert_eq!(refused, SubscribeError::TooMany { max: 3 });
        rig.fanout.fan_out(vec![live("a", 1)]);
        rig.delivery.close();
        assert_eq!(ready(&mut kept[0]), [Ok(1), Err(StreamEnd::ShuttingDown)]);
        assert_eq!(rig.delivery.subscribe(&subject("a")).expect_err("closed"), SubscribeError::ShuttingDown);
    }
}
