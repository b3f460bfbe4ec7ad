//! The fan-out: from the committed frames to the rings, and the handle to subscribe by.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use flume::{Receiver, Sender};

use super::hand_over::HandOver;
use super::readers::Readers;
use super::registry::Registry;
use super::ring::Unread;
use super::subscription::Shared;
use super::{Config, History, SubscribeError, Subscription};
use crate::event::{EncodedMessage, MessageId, Subject, UnixMicros, clock};
use crate::telemetry::metrics::DeliveryMetrics;
use crate::telemetry::traces::{About, Member, SpanPlace, Traces};

/// Frames that wait for the fan-out. It never waits for a subscriber, so it is behind only when the
/// machine is; then publishes slow down, and at most this many frames of bodies are held here.
const FRAMES_MAX: usize = 16;

/// A durable message on its way to its subscribers.
#[derive(Debug)]
pub struct Live {
    /// Its subject.
    pub subject: Subject,
    /// Its id.
    pub id: MessageId,
    /// The response that carries it.
    pub encoded: EncodedMessage,
    /// Where it belongs, if it is traced.
    pub trace: Option<Box<SpanPlace>>,
}

/// What the fan-out is told, in order.
#[derive(Debug)]
enum ToFanout {
    Frame {
        messages: Vec<Live>,
        published_at: UnixMicros,
    },
    /// Subjects that another node has now.
    Moved(Moved),
    Close,
}

/// Which subjects another node has now.
pub struct Moved(Box<dyn Fn(&str) -> bool + Send>);

impl Moved {
    /// Those for which `moved` says so.
    pub fn new(moved: impl Fn(&str) -> bool + Send + 'static) -> Self {
        Self(Box::new(moved))
    }
}

impl fmt::Debug for Moved {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Moved").finish_non_exhaustive()
    }
}

/// From where on a subscriber gets the messages of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// What is published from now on.
    Now,
    /// Everything above this id that can still be had, then what is published; 0 for all there is.
    After(u32),
    /// Everything above this id, expired or not: of a subscriber that was subscribed when it came, at another node.
    Owed(u32),
}

/// The handle on delivery; a clone is the same.
#[derive(Debug, Clone)]
pub struct Delivery {
    shared: Arc<Shared>,
    frames: Sender<ToFanout>,
}

/// The fan-out task's state.
#[derive(Debug)]
pub struct Fanout {
    shared: Arc<Shared>,
    frames: Receiver<ToFanout>,
    traces: Traces,
}

impl Delivery {
    /// Connects the handle, the fan-out, and those who read `history` for subscribers that are behind.
    pub fn new(config: Config, history: Arc<dyn History>, metrics: DeliveryMetrics) -> (Self, Fanout, Readers) {
        let (frames, frames_out) = flume::bounded(FRAMES_MAX);
        let subscribers_max = config.subscribers_max;
        let registry = Registry::new(config);
        let (orders, readers) =
            Readers::new(Arc::clone(&history), subscribers_max, registry.closing(), metrics.clone());
        let shared = Arc::new(Shared { registry, history, orders, metrics, behind: AtomicUsize::new(0) });
        let fanout = Fanout { shared: Arc::clone(&shared), frames: frames_out, traces: Traces::off() };
        (Self { shared, frames }, fanout, readers)
    }

    /// Subscribes: once this returns, every message that is published is delivered, and of those that were acknowledged
    /// before what `start` says.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn subscribe(&self, subject: &Subject, start: Start) -> Result<Subscription, SubscribeError> {
        let Shared { registry, history, .. } = &*self.shared;
        let (topic, place) = registry.join(subject)?;
        // In this order: what is not known as durable now is fanned out after the join, so nothing falls between.
        let last = history.last_id(subject);
        let shared = Arc::clone(&self.shared);
        match start {
            Start::After(after) | Start::Owed(after) if after > last => {
                registry.leave(&topic, place);
                Err(SubscribeError::BeyondLast { after, last })
            }
            Start::After(after) if after < last => {
                Ok(Subscription::behind(shared, topic, place, HandOver::resume(after, last), last))
            }
            Start::Owed(after) if after < last => {
                Ok(Subscription::behind(shared, topic, place, HandOver::fall_back(after, last), last))
            }
            Start::Now | Start::After(_) | Start::Owed(_) => {
                // A place that is lost by now is seen when it is read from.
                registry.with_ring(&topic, |ring| ring.go_live(place, last));
                Ok(Subscription::live(shared, topic, place, last))
            }
        }
    }

    /// Whether anybody is subscribed to anything. Asked after a frame is durable, a no is final for that frame.
    pub fn has_subscribers(&self) -> bool {
        self.shared.registry.topics() > 0
    }

    /// Hands a frame, whose messages were published at that time, to the fan-out, in log order.
    pub async fn deliver(&self, messages: Vec<Live>, published_at: UnixMicros) {
        // The fan-out ends after every sender only.
        drop(self.frames.send_async(ToFanout::Frame { messages, published_at }).await);
    }

    /// Ends all streams once they have read everything that was handed to the fan-out before.
    pub async fn close_in_order(&self) {
        drop(self.frames.send_async(ToFanout::Close).await);
    }

    /// Ends the streams of subjects that another node has now, once they have read everything that was handed to the fan-out before.
    pub async fn end_moved(&self, moved: Moved) {
        drop(self.frames.send_async(ToFanout::Moved(moved)).await);
    }

    /// Ends all streams once they have read what is in their rings.
    pub fn close(&self) {
        self.shared.registry.close();
    }

    /// Subscriptions now.
    pub fn subscribers(&self) -> usize {
        self.shared.registry.subscribers()
    }

    /// Subjects that have subscribers.
    pub fn topics(&self) -> usize {
        self.shared.registry.topics()
    }

    /// Frames that wait for the fan-out.
    pub fn queued_frames(&self) -> usize {
        self.frames.len()
    }

    /// Messages that the subscriber which is furthest behind has not taken. Looks at every subscriber, so for a scrape only:
    /// 10,000 of them on as many subjects cost about 2 ms.
    pub fn lag_messages(&self) -> u32 {
        let Shared { registry, history, .. } = &*self.shared;
        registry.lag_messages(|subject| history.last_id(subject))
    }

    /// Unread bytes of all subjects.
    pub fn unread_bytes(&self) -> usize {
        self.shared.registry.bytes()
    }
}

impl Fanout {
    /// Tells of hand-offs with messages that are traced.
    #[must_use]
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Runs until every handle is gone.
    pub async fn run(self) {
        while let Ok(told) = self.frames.recv_async().await {
            match told {
                ToFanout::Frame { messages, published_at } => {
                    if self.fan_out(messages) {
                        let took = published_at.elapsed_at(clock::now());
                        self.shared.metrics.duration.observe(took.as_secs_f64());
                    }
                }
                ToFanout::Moved(Moved(moved)) => self.shared.registry.end_moved(&*moved),
                ToFanout::Close => self.shared.registry.close(),
            }
        }
    }

    /// Whether anybody is subscribed to any of it.
    pub(super) fn fan_out(&self, frame: Vec<Live>) -> bool {
        let Some(mut trace) = self.traces.batch(|| frame.iter().any(|live| live.trace.is_some())) else {
            return self.push(frame, |_| {});
        };
        let (messages, begin) = (frame.len(), Instant::now());
        let mut members = Vec::new();
        let wanted = self.push(frame, |live| members.extend(member(live)));
        let end = Instant::now();
        for member in &members {
            trace.member("deliver", member, begin..end);
        }
        trace.end("hand-off", begin..end, About::messages(messages));
        wanted
    }

    /// Whether anybody is subscribed to any of it; `wanted_one` is told of each message that somebody is subscribed to.
    fn push(&self, frame: Vec<Live>, mut wanted_one: impl FnMut(&Live)) -> bool {
        let mut wanted = false;
        let mut frame = frame.into_iter().peekable();
        while let Some(first) = frame.next() {
            let subject = first.subject.clone();
            let topic = self.shared.registry.topic(subject.as_str());
            // A run of messages of one subject takes its ring's lock once.
            let others = std::iter::from_fn(|| frame.next_if(|live| live.subject == subject));
            let run = std::iter::once(first).chain(others);
            match topic {
                Some(topic) => {
                    wanted = true;
                    let run = run.inspect(&mut wanted_one).map(unread);
                    self.shared.registry.push(&topic, run);
                }
                None => run.for_each(drop),
            }
        }
        wanted
    }
}

/// A message for its trace, if it has one.
fn member(Live { subject, id, trace, .. }: &Live) -> Option<Member> {
    let place = **trace.as_ref()?;
    Some(Member { place, subject: subject.clone(), id: *id })
}

fn unread(live: Live) -> Unread {
    Unread { id: live.id, encoded: live.encoded }
}
