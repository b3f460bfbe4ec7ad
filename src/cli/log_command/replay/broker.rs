//! Into another broker: every record is published there. Subjects go side by side, the records of one subject one after
//! the other, because unary calls may overtake each other.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use foldhash::fast::RandomState;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::super::super::{Failure, client};
use super::Replay;
use super::checkpoint::Ranges;
use super::source::{Chunk, Selected};
use super::window::{Ticket, Window};
use crate::event::{Expiration, Message, Sequence, UnixMicros, clock};
use crate::proto::client::PublishRequest;
use crate::proto::client::broker_client::BrokerClient;

/// Calls that are under way at once. A subject always has the same lane. With 1 ms a call this many leave both processes
/// no idle time, and it bounds what comes twice after a `kill -9`.
const LANES: usize = 512;
/// Records between the first that has not arrived and the last one read.
const WINDOW_RECORDS: usize = 8_192;
/// Bytes of bodies that are under way or wait for their lane; a single one may be larger.
const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// How long a record is tried before the replay ends: a broker restarts in seconds.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// Pauses between attempts, before jitter.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long an end in order waits for what is under way.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Publishes what is wanted; returns what has arrived behind the position.
pub(super) async fn replay(replay: &mut Replay, server: &str) -> Result<Ranges, Failure> {
    let stop = replay.stop.clone();
    let (server, log) = (server.to_owned(), replay.checkpoint.log_id.clone());
    let target = Target { client: client::connect(&server).await?, server, log };
    let mut lanes = Lanes::new(target, replay.after);
    let mut phase = Phase::Reading;
    let mut failed = None;
    loop {
        let free_at = lanes.dispatch(replay);
        let (now, give_up) = (Instant::now(), phase.gives_up_at());
        if phase != Phase::Reading && lanes.is_idle() {
            break;
        }
        tokio::select! {
            biased;
            () = stop.cancelled(), if give_up.is_none() => {
                phase.end(Instant::now());
                lanes.forget_waiting();
            }
            () = sleep_until(give_up.unwrap_or(now)), if give_up.is_some() => break,
            Some(done) = lanes.calls.next(), if !lanes.calls.is_empty() => {
                if let Err(failure) = lanes.done(done, replay) {
                    failed.get_or_insert(failure);
                    phase.end(Instant::now());
                    lanes.forget_waiting();
                }
            }
            () = sleep_until(free_at.unwrap_or(now)), if free_at.is_some() => {}
            chunk = replay.next(), if phase == Phase::Reading && lanes.steps.is_empty() => match chunk {
                Some(Ok(chunk)) => lanes.take(chunk),
                Some(Err(failure)) => {
                    failed.get_or_insert(failure);
                    phase.end(Instant::now());
                }
                None => phase = Phase::Finishing,
            },
        }
    }
    let arrived = lanes.window.arrived_behind();
    match failed {
        None => Ok(arrived),
        Some(failure) => {
            replay.checkpoint = replay.checkpoint.now(&arrived);
            Err(failure)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Reading,
    /// Everything was read.
    Finishing,
    /// Nothing more is sent; what is under way is waited for, no longer than until then.
    Ending {
        give_up: Instant,
    },
}

impl Phase {
    /// What fails or is asked for while the replay ends makes it no longer.
    fn end(&mut self, now: Instant) {
        if self.gives_up_at().is_none() {
            *self = Self::Ending { give_up: now + END_WITHIN };
        }
    }

    fn gives_up_at(self) -> Option<Instant> {
        match self {
            Self::Reading | Self::Finishing => None,
            Self::Ending { give_up } => Some(give_up),
        }
    }
}

/// What is to be done next, in log order.
enum Step {
    Send(Selected),
    Passed(Sequence),
}

/// Where records go, and which log they are of.
#[derive(Clone)]
struct Target {
    client: BrokerClient<Channel>,
    server: String,
    log: String,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<(Ticket, Selected)>,
    busy: bool,
}

/// A call that has ended.
struct Done {
    lane: usize,
    ticket: Ticket,
    bytes: usize,
    outcome: Result<(), Failure>,
}

struct Lanes {
    target: Target,
    steps: VecDeque<Step>,
    /// When the first step may be done, once its turn was taken.
    turn: Option<Instant>,
    lanes: Vec<Lane>,
    hasher: RandomState,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    window: Window,
    bytes: usize,
}

impl Lanes {
    fn new(target: Target, after: u64) -> Self {
        Self {
            target,
            steps: VecDeque::new(),
            turn: None,
            lanes: std::iter::repeat_with(Lane::default).take(LANES).collect(),
            hasher: RandomState::default(),
            calls: FuturesUnordered::new(),
            window: Window::new(Sequence::new(after)),
            bytes: 0,
        }
    }

    fn take(&mut self, chunk: Chunk) {
        self.steps.extend(chunk.selected.into_iter().map(Step::Send));
        self.steps.push_back(Step::Passed(chunk.through));
    }

    fn has_room(&self) -> bool {
        self.window.len() < WINDOW_RECORDS && self.bytes < WINDOW_BYTES
    }

    fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.steps.is_empty()
    }

    /// Leaves out what no call was made for.
    fn forget_waiting(&mut self) {
        self.steps.clear();
        self.lanes.iter_mut().for_each(|lane| lane.waiting.clear());
    }

    /// Hands steps to their lanes as far as there is room; when the next one is due if it is not yet.
    fn dispatch(&mut self, replay: &mut Replay) -> Option<Instant> {
        while self.has_room() {
            match self.steps.front()? {
                Step::Passed(through) => {
                    self.window.passed(*through);
                    self.steps.pop_front();
                }
                Step::Send(_) => {
                    let turn = *self.turn.get_or_insert_with(|| replay.pace.next());
                    if turn > Instant::now() {
                        return Some(turn);
                    }
                    self.turn = None;
                    let Some(Step::Send(selected)) = self.steps.pop_front() else { return None };
                    self.send(selected);
                }
            }
        }
        None
    }

    fn send(&mut self, selected: Selected) {
        let ticket = self.window.sent(selected.sequence);
        self.bytes += selected.message.body.len();
        // The remainder is below the number of lanes.
        let lane = (self.hasher.hash_one(selected.message.subject.as_str()) % LANES as u64) as usize;
        self.lanes[lane].waiting.push_back((ticket, selected));
        self.start(lane);
    }

    /// Makes the next call of a lane that has none under way.
    fn start(&mut self, lane: usize) {
        if self.lanes[lane].busy {
            return;
        }
        let Some((ticket, selected)) = self.lanes[lane].waiting.pop_front() else { return };
        self.lanes[lane].busy = true;
        let target = self.target.clone();
        self.calls.push(Box::pin(async move {
            let bytes = selected.message.body.len();
            Done { lane, ticket, bytes, outcome: publish(target, selected).await }
        }));
    }

    fn done(&mut self, done: Done, replay: &mut Replay) -> Result<(), Failure> {
        self.lanes[done.lane].busy = false;
        self.bytes -= done.bytes;
        done.outcome?;
        self.window.arrived(done.ticket);
        replay.arrived += 1;
        self.start(done.lane);
        replay.reached(self.window.position(), || self.window.arrived_behind())
    }
}

/// Publishes a record, again and again while the failure is a passing one.
async fn publish(target: Target, selected: Selected) -> Result<(), Failure> {
    let Target { mut client, server, log } = target;
    let Selected { sequence, message } = selected;
    let started = Instant::now();
    let (min, max) = RETRY_PAUSES;
    let pauses = ExponentialBuilder::new().with_min_delay(min).with_max_delay(max).with_factor(2.0);
    let mut pauses = pauses.with_jitter().without_max_times().build();
    loop {
        let request = request(&message, key(&log, sequence), clock::now());
        let Err(status) = client.publish(request).await else { return Ok(()) };
        let Some(told) = passing(&status).filter(|_| started.elapsed() < RETRY_FOR) else {
            let what = format!("publishing record {sequence} on {:?}", message.subject.as_str());
            return Err(Failure::status(&what, &server, &status));
        };
        sleep(told.max(pauses.next().unwrap_or(max))).await;
    }
}

/// The key that a record of this log has at every broker that it is replayed into: one that has come before comes no
/// second time. The key that its own publisher gave it says nothing of the log that it came from, and is left out.
fn key(log: &str, sequence: Sequence) -> String {
    format!("walcast-replay/{log}/{sequence}")
}

/// The publish of a record, in the same place of its trace.
fn request(message: &Message, idempotency_key: String, now: UnixMicros) -> Request<PublishRequest> {
    let mut request = Request::new(PublishRequest {
        subject: message.subject.as_str().to_owned(),
        body: message.body.clone(),
        expiration_seconds: remaining(message, now),
        idempotency_key,
    });
    let traceparent = message.traceparent.as_ref().and_then(|text| AsciiMetadataValue::try_from(text.as_str()).ok());
    if let Some(traceparent) = traceparent {
        request.metadata_mut().insert("traceparent", traceparent);
    }
    request
}

/// How long the broker wants to be left alone, if the failure can pass by itself.
fn passing(status: &Status) -> Option<Duration> {
    let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => Some(told.unwrap_or_default()),
        // Without a time to come back it is a limit that will be the same then.
        Code::ResourceExhausted => told,
        // A connection that broke has the transport's error as its source.
        _ => std::error::Error::source(status).map(|_| Duration::ZERO),
    }
}

/// What is left of the expiration, in seconds: at least one, so that every record arrives and can be fetched.
fn remaining(message: &Message, now: UnixMicros) -> i32 {
    if message.expiration == Expiration::FIRE_AND_FORGET {
        return 0;
    }
    let left = message.expiration.expires_at(message.published_at).as_micros().saturating_sub(now.as_micros());
    let seconds = left.div_euclid(1_000_000).max(1);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::event::{MessageId, Subject, Traceparent};

    #[test]
    fn an_end_is_not_put_off_by_what_fails_meanwhile() {
        let now = Instant::now();
        let mut phase = Phase::Reading;
        assert_eq!(phase.gives_up_at(), None);
        for later in [0, 1, 9] {
            phase.end(now + Duration::from_secs(later));
            assert_eq!(phase.gives_up_at(), Some(now + END_WITHIN));
        }
    }

    fn message(seconds: i32) -> Message {
        Message {
            subject: Subject::new("s".to_owned()).expect("valid"),
            id: MessageId::new(1).expect("an id"),
            published_at: UnixMicros::from_micros(1_000_000),
            expiration: Expiration::from_wire(seconds).expect("not negative"),
            idempotency_key: None,
            traceparent: None,
            body: bytes::Bytes::new(),
        }
    }

    #[test]
    fn an_expiration_keeps_what_is_left_of_it() {
        let at = |seconds: i64| UnixMicros::from_micros(seconds * 1_000_000);
        assert_eq!(remaining(&message(60), at(11)), 50);
        assert_eq!(remaining(&message(60), at(1_000)), 1, "expired");
        assert_eq!(remaining(&message(0), at(2)), 0);
        assert_eq!(remaining(&message(i32::MAX), at(1)), i32::MAX);
        assert_eq!(remaining(&message(i32::MAX), at(0)), i32::MAX, "a clock that went back");
    }

    #[test]
    fn a_record_keeps_its_place_in_a_trace() {
        const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = Message { traceparent: Traceparent::parse(TRACE.as_bytes()), ..message(60) };
        let sent = |message| {
            request(message, String::new(), UnixMicros::from_micros(0)).metadata().get("traceparent").cloned()
        };
        assert_eq!(sent(&traced).as_ref().map(AsciiMetadataValue::as_bytes), Some(TRACE.as_bytes()));
        assert_eq!(sent(&message(60)), None);
    }

    #[test]
    fn what_can_pass_is_tried_again() {
        assert_eq!(passing(&Status::unavailable("starting")), Some(Duration::ZERO));
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_millis(100)));
        let full = Status::with_error_details(Code::ResourceExhausted, "full", details);
        assert_eq!(passing(&full), Some(Duration::from_millis(100)));
        assert_eq!(passing(&Status::resource_exhausted("body is too large")), None);
        assert_eq!(passing(&Status::invalid_argument("subject is empty")), None);
    }
}
