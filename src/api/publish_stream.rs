//! `PublishStream`: many publishes in flight on one stream, an answer to each in order.
//!
//! No task and no channel of its own: the stream of answers is polled by its connection, and takes requests when it has
//! nothing to say. What it has taken it hands to the committer as a batch. While it may have no more in flight it takes no
//! requests; they stay in the windows of HTTP/2, and the client waits.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::{Status, Streaming};

use super::lifecycle::Phase;
use super::publish::{FromMetadata, to_publish};
use super::service::{rejection, traced};
use super::{BrokerService, edge, errors};
use crate::ingest::{BatchRoom, IntoOutcomes, Outcomes, Publish, PublishBatch, PublishError, QueuedAnswer};
use crate::proto::server::{PublishRequest, PublishStreamResponse};
use crate::telemetry::metrics::{IngestMetrics, Rejection};

/// Batches of one stream that are queued or whose answers wait for their reader: enough that one is read, one written and
/// one answered at any time, few enough that the next one grows while the disk is slow.
pub const BATCHES_MAX: usize = 8;

/// Refusals that wait for their reader, at some 300 bytes each. Ids cost four.
const REFUSED_MAX: usize = 64;

/// Requests that are taken at once, before other streams have their turn: about half a millisecond.
const TAKEN_AT_ONCE: usize = 1024;

/// How long a stream without room waits before it looks again: some frames of the log, each of which gives room back.
const ROOM_RETRY: Duration = Duration::from_millis(2);

/// The answers of one stream.
pub struct PublishAnswers {
    service: BrokerService,
    /// What each of the requests has of the call's metadata.
    metadata: FromMetadata,
    /// None once no more are taken.
    requests: Option<Streaming<PublishRequest>>,
    /// Taken, not queued yet.
    open: Open,
    /// Did not fit into the open batch.
    held: Option<Publish>,
    /// Runs while there is no room for the open batch, which does not change meanwhile.
    no_room: Option<Pin<Box<Sleep>>>,
    groups: VecDeque<Group>,
    /// What the batches in `groups` are charged.
    in_flight: usize,
    in_flight_max: usize,
    /// Refusals in `open` and `groups`.
    refused: usize,
    /// How the stream ends, if not with OK.
    end: Option<Status>,
    stopped: bool,
    /// Ready when the broker stops.
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    _counted: Counted,
}

/// A stream that is counted, and takes one of the permits.
struct Counted {
    metrics: IngestMetrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.publish_streams.dec();
    }
}

/// Requests that were taken since the last batch was queued.
#[derive(Default)]
struct Open {
    batch: PublishBatch,
    /// Each with the number of publishes before it.
    refused: VecDeque<(usize, PublishStreamResponse)>,
}

/// A batch that was queued, with what was refused between its publishes.
struct Group {
    answers: Answers,
    refused: VecDeque<(usize, PublishStreamResponse)>,
    /// Publishes that were answered.
    answered: usize,
    publishes: usize,
    charge: usize,
}

enum Answers {
    Waiting(QueuedAnswer),
    Each(IntoOutcomes),
    /// The same answer for every publish.
    All(PublishStreamResponse),
}

impl PublishAnswers {
    /// Begins to take `requests`; the stream counts until it is dropped.
    pub fn new(
        service: BrokerService,
        metadata: FromMetadata,
        requests: Streaming<PublishRequest>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let mut phases = service.lifecycle.watch();
        let stopping = Box::pin(async move {
            // An error means that the broker has gone.
            drop(phases.wait_for(|phase| *phase != Phase::Serving).await);
        });
        service.metrics.publish_streams.inc();
        let counted = Counted { metrics: service.metrics.clone(), _permit: permit };
        Self {
            in_flight_max: service.streams.in_flight_bytes_max,
            service,
            metadata,
            requests: Some(requests),
            open: Open::default(),
            held: None,
            no_room: None,
            groups: VecDeque::new(),
            in_flight: 0,
            refused: 0,
            end: None,
            stopped: false,
            stopping,
            _counted: counted,
        }
    }

    /// The next answer in order, if it is there.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<PublishStreamResponse> {
        loop {
            let Some(group) = self.groups.front_mut() else { return Poll::Pending };
            if group.refused.front().is_some_and(|(before, _)| *before == group.answered)
                && let Some((_, answer)) = group.refused.pop_front()
            {
                self.refused -= 1;
                return Poll::Ready(answer);
            }
            if group.answered == group.publishes {
                self.in_flight -= group.charge;
                self.groups.pop_front();
                continue;
            }
            let answer = match &mut group.answers {
                Answers::All(answer) => answer.clone(),
                Answers::Each(outcomes) => match outcomes.next() {
                    Some(Ok(id)) => PublishStreamResponse { id: id.to_wire(), error: None },
                    Some(Err(error)) => refusal(&errors::publish(&error)),
                    // Not reached: there is one for each publish.
                    None => refusal(&errors::publish(&PublishError::LogFailed)),
                },
                Answers::Waiting(answer) => {
                    let answers = ready!(Pin::new(answer).poll(context));
                    self.answered(answers);
                    continue;
                }
            };
            group.answered += 1;
            return Poll::Ready(answer);
        }
    }

    /// Takes down the answers of the first group.
    fn answered(&mut self, answers: Result<Outcomes, PublishError>) {
        let Some(group) = self.groups.front_mut() else { return };
        match answers {
            Ok(outcomes) => {
                self.service.metrics.stream_publishes.inc_by(outcomes.published() as u64);
                for error in outcomes.errors() {
                    self.service.metrics.stream_rejected(rejection(error));
                }
                group.answers = Answers::Each(outcomes.into_iter());
            }
            // Nothing more will be answered, and what came after these was not published either.
            Err(error @ (PublishError::LogFailed | PublishError::ShuttingDown)) => {
                let unanswered = self.groups.iter().map(|group| group.publishes - group.answered).sum();
                self.count_refused(unanswered, &error);
                self.groups.clear();
                self.in_flight = 0;
                self.stop_taking(errors::publish(&error));
                self.discard(&error);
            }
            Err(error) => {
                let publishes = group.publishes;
                group.answers = Answers::All(refusal(&errors::publish(&error)));
                self.count_refused(publishes, &error);
            }
        }
    }

    fn count_refused(&self, publishes: usize, error: &PublishError) {
        for _ in 0..publishes {
            self.service.metrics.stream_rejected(rejection(error));
        }
    }

    /// Takes the requests that are there, as far as the bounds allow, and queues them. Whether a group was added.
    fn take_requests(&mut self, context: &mut Context<'_>, left: &mut usize) -> bool {
        let groups = self.groups.len();
        if self.no_room.is_some() {
            self.queue(context);
        }
        if self.no_room.is_none()
            && let Some(publish) = self.held.take()
        {
            self.put(publish, context);
        }
        while self.no_room.is_none() && self.held.is_none() && self.refused < REFUSED_MAX {
            let Some(requests) = &mut self.requests else { break };
            if *left == 0 {
                context.waker().wake_by_ref();
                break;
            }
            *left -= 1;
            match Pin::new(requests).poll_next(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.requests = None,
                Poll::Ready(Some(Ok(request))) => self.take(request, context),
                Poll::Ready(Some(Err(status))) => {
                    let status = edge::contractual(status, self.service.body_bytes_max);
                    self.stop_taking(status);
                }
            }
        }
        self.queue(context);
        self.groups.len() > groups
    }

    fn take(&mut self, request: PublishRequest, context: &mut Context<'_>) {
        let publish = to_publish(request, self.metadata.clone(), self.service.body_bytes_max).and_then(|publish| {
            let owned = self.service.check_owned(&publish.subject);
            owned.map(|()| publish).map_err(|status| (Rejection::NotOwner, status))
        });
        match publish {
            Ok(publish) => {
                let trace = self.service.traces.message(publish.traceparent.as_ref());
                let publish = match trace {
                    Some(trace) => traced(publish, &trace, trace.clone().whole_publish()),
                    None => publish,
                };
                self.put(publish, context);
            }
            Err((rejection, status)) => self.refuse(rejection, &status),
        }
    }

    fn refuse(&mut self, rejection: Rejection, status: &Status) {
        self.service.metrics.stream_rejected(rejection);
        self.refused += 1;
        self.open.refused.push_back((self.open.batch.len(), refusal(status)));
    }

    /// Adds a publish to the open batch, or holds it until that is queued.
    fn put(&mut self, publish: Publish, context: &mut Context<'_>) {
        let bytes_max = self.in_flight_max / BATCHES_MAX;
        let Err(publish) = self.service.publisher.add(&mut self.open.batch, publish, bytes_max) else { return };
        self.queue(context);
        if self.open.batch.is_empty() {
            // The first one always fits.
            self.held = self.service.publisher.add(&mut self.open.batch, publish, bytes_max).err();
        } else {
            self.held = Some(publish);
        }
    }

    /// Queues what was taken, if there is room for it.
    fn queue(&mut self, context: &mut Context<'_>) {
        let publishes = self.open.batch.len();
        if publishes == 0 {
            if !self.open.refused.is_empty() {
                let refused = std::mem::take(&mut self.open.refused);
                let answers = Answers::Each(Outcomes::default().into_iter());
                self.groups.push_back(Group { answers, refused, answered: 0, publishes: 0, charge: 0 });
            }
            return;
        }
        let charge = self.open.batch.charge();
        let within = self.in_flight + charge as usize <= self.in_flight_max || self.groups.is_empty();
        if self.groups.len() >= BATCHES_MAX || !within {
            return;
        }
        let Poll::Ready(room) = self.poll_room(charge, context) else { return };
        let Open { batch, refused } = std::mem::take(&mut self.open);
        match self.service.publisher.publish_batch(batch, room) {
            Ok(answer) => {
                self.in_flight += charge as usize;
                let (answers, charge) = (Answers::Waiting(answer), charge as usize);
                self.groups.push_back(Group { answers, refused, answered: 0, publishes, charge });
            }
            Err(error) => {
                self.count_refused(publishes, &error);
                self.stop_taking(errors::publish(&error));
                self.discard(&error);
            }
        }
    }

    /// Room for a batch of this charge. Not by a place in a queue of waiters: room that was given to a stream whose client
    /// does not read, so that nobody polls it, would be held for as long as the client likes, and the other streams stand still.
    fn poll_room(&mut self, charge: u32, context: &mut Context<'_>) -> Poll<BatchRoom> {
        loop {
            if let Some(room) = self.service.publisher.try_room(charge) {
                self.no_room = None;
                return Poll::Ready(room);
            }
            let wait = self.no_room.get_or_insert_with(|| Box::pin(tokio::time::sleep(ROOM_RETRY)));
            ready!(wait.as_mut().poll(context));
            self.no_room = None;
        }
    }

    /// Takes no more requests; when what was queued is answered the stream ends with `status`.
    fn stop_taking(&mut self, status: Status) {
        self.requests = None;
        self.end.get_or_insert(status);
    }

    /// Gives up what was taken and is not queued: refused like all that would have come after it.
    fn discard(&mut self, error: &PublishError) {
        self.count_refused(self.open.batch.len() + usize::from(self.held.is_some()), error);
        self.open = Open::default();
        self.held = None;
        self.no_room = None;
    }

    /// The broker stops: what was taken is still queued if there is room for it at once, and answered; then the stream ends.
    fn stop(&mut self, context: &mut Context<'_>) {
        self.stopped = true;
        self.queue(context);
        if self.requests.is_some() || self.holds_any() {
            self.stop_taking(errors::shutting_down());
            self.discard(&PublishError::ShuttingDown);
        }
    }

    /// Whether a request was taken and is not queued.
    fn holds_any(&self) -> bool {
        let Open { batch, refused } = &self.open;
        self.held.is_some() || !batch.is_empty() || !refused.is_empty()
    }

    fn is_over(&self) -> bool {
        self.requests.is_none() && self.groups.is_empty() && !self.holds_any()
    }
}

/// The answer to a request that is refused.
fn refusal(status: &Status) -> PublishStreamResponse {
    PublishStreamResponse { id: 0, error: Some(errors::in_stream(status)) }
}

impl Stream for PublishAnswers {
    type Item = Result<PublishStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut left = TAKEN_AT_ONCE;
        loop {
            if let Poll::Ready(answer) = this.poll_answer(context) {
                return Poll::Ready(Some(Ok(answer)));
            }
            if this.take_requests(context, &mut left) {
                continue;
            }
            if this.is_over() {
                return Poll::Ready(this.end.take().map(Err));
            }
            if this.stopped || this.stopping.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            this.stop(context);
        }
    }
}

impl std::fmt::Debug for PublishAnswers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PublishAnswers").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}
