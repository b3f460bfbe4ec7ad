//! `PublishStream`: many publishes in flight on one stream, an answer to each in order.
//!
//! No task and no channel of its own: the stream of answers is polled by its connection, and takes requests when it has
//! nothing to say. What it has taken of this node's subjects it hands to the committer as a batch ([`own`]), what is of
//! other nodes it passes on ([`others`]). While it may have no more in flight it takes no requests; they stay in the windows
//! of HTTP/2, and the client waits.

mod order;
mod others;
mod own;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, Streaming};

use self::order::{Order, Source};
use self::others::{Others, Taken};
use self::own::Own;
use super::lifecycle::Phase;
use super::publish::{FromMetadata, to_publish};
use super::service::traced;
use super::{BrokerService, edge, errors};
use crate::forward::Marker;
use crate::ingest::PublishError;
use crate::proto::server::{PublishRequest, PublishStreamResponse};
use crate::telemetry::metrics::{IngestMetrics, Rejection};

/// Refusals that wait for their reader, at some 300 bytes each. Ids cost four.
const REFUSED_MAX: usize = 64;

/// Requests that are taken at once, before other streams have their turn: about half a millisecond.
const TAKEN_AT_ONCE: usize = 1024;

/// The answers of one stream.
pub struct PublishAnswers {
    service: BrokerService,
    /// What each of the requests has of the call's metadata.
    metadata: FromMetadata,
    /// None once no more are taken.
    requests: Option<Streaming<PublishRequest>>,
    /// Whose answers are due.
    order: Order,
    own: Own,
    /// What was refused as it came.
    refused: VecDeque<PublishStreamResponse>,
    /// None if this node is alone.
    others: Option<Box<Others>>,
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

/// A stream as its caller began it.
pub struct Begun {
    /// Who has passed it on; None if it is a client's.
    pub marker: Option<Marker>,
    /// What each of the requests has of the call's metadata.
    pub metadata: FromMetadata,
    /// All of the metadata.
    pub headers: HeaderMap,
    /// What is to be published.
    pub requests: Streaming<PublishRequest>,
    /// Its place among the streams.
    pub permit: OwnedSemaphorePermit,
}

impl PublishAnswers {
    /// Begins to take requests; the stream counts until it is dropped.
    pub fn new(service: BrokerService, begun: Begun) -> Self {
        let Begun { marker, metadata, headers, requests, permit } = begun;
        let mut phases = service.lifecycle.watch();
        let stopping = Box::pin(async move {
            // An error means that the broker has gone.
            drop(phases.wait_for(|phase| *phase != Phase::Serving).await);
        });
        service.metrics.publish_streams.inc();
        let counted = Counted { metrics: service.metrics.clone(), _permit: permit };
        Self {
            own: Own::new(service.streams.in_flight_bytes_max),
            others: Others::new(&service, marker, headers).map(Box::new),
            service,
            metadata,
            requests: Some(requests),
            order: Order::default(),
            refused: VecDeque::new(),
            end: None,
            stopped: false,
            stopping,
            _counted: counted,
        }
    }

    /// The next answer in order, if it is there.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<PublishStreamResponse> {
        loop {
            let Some(source) = self.order.next() else { return Poll::Pending };
            let answer = match (source, &mut self.others) {
                (Source::Own, _) => match ready!(self.own.poll_answer(&self.service, context)) {
                    Ok(answer) => Some(answer),
                    Err(error) => {
                        self.own.fail(&self.service, &error);
                        self.stop_taking(errors::publish(&error));
                        self.forget_lost();
                        continue;
                    }
                },
                (Source::Refused, _) => self.refused.pop_front(),
                (Source::Other(at), Some(others)) => Some(ready!(others.poll_answer(at, context))),
                (Source::Other(_), None) => None,
            };
            self.order.pop();
            if let Some(answer) = answer {
                return Poll::Ready(answer);
            }
        }
    }

    /// Takes the requests that are there, as far as the bounds allow, and queues them. Whether there may be an answer now.
    fn take_requests(&mut self, context: &mut Context<'_>, left: &mut usize) -> bool {
        let batches = self.own.batches();
        let mut taken = self.resume(context);
        while self.takes() {
            let Some(requests) = &mut self.requests else { break };
            if *left == 0 {
                context.waker().wake_by_ref();
                break;
            }
            match Pin::new(requests).poll_next(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.finish(),
                Poll::Ready(Some(Ok(request))) => self.take(request, context),
                Poll::Ready(Some(Err(status))) => {
                    let status = edge::contractual(status, self.service.body_bytes_max);
                    self.stop_taking(status);
                }
            }
            *left -= 1;
            taken = true;
        }
        self.queue(context);
        taken || self.own.batches() > batches
    }

    /// Whether a further request can be taken.
    fn takes(&self) -> bool {
        let held = self.others.as_ref().is_some_and(|others| others.holds_any());
        self.own.takes() && !held && self.refused.len() < REFUSED_MAX
    }

    /// Goes on with what had to wait. Whether a request of another node did.
    fn resume(&mut self, context: &mut Context<'_>) -> bool {
        let resumed = self.own.resume(&self.service, others_in_flight(&self.others), context);
        self.unless_ended(resumed);
        let Some(others) = self.others.as_mut().filter(|others| others.holds_any()) else { return false };
        let Some(taken) = others.resume(self.own.in_flight(), context) else { return false };
        let goes_on = !matches!(taken, Taken::Held);
        self.place(taken, context);
        goes_on
    }

    fn take(&mut self, request: PublishRequest, context: &mut Context<'_>) {
        match &mut self.others {
            None => self.take_own(request, context),
            Some(others) => {
                let taken = others.take(request, self.own.in_flight(), context);
                self.place(taken, context);
            }
        }
    }

    fn place(&mut self, taken: Taken, context: &mut Context<'_>) {
        match taken {
            Taken::Own(request) => self.take_own(request, context),
            Taken::Sent(at) => self.order.push(Source::Other(at)),
            Taken::Held => {}
            Taken::Refused(rejection, status) => self.refuse(rejection, &status),
        }
    }

    fn take_own(&mut self, request: PublishRequest, context: &mut Context<'_>) {
        match to_publish(request, self.metadata.clone(), self.service.body_bytes_max) {
            Ok(publish) => {
                let trace = self.service.traces.message(publish.traceparent.as_ref());
                let publish = match trace {
                    Some(trace) => traced(publish, &trace, trace.clone().whole_publish()),
                    None => publish,
                };
                self.order.push(Source::Own);
                let put = self.own.put(&self.service, publish, others_in_flight(&self.others), context);
                self.unless_ended(put);
            }
            Err((rejection, status)) => self.refuse(rejection, &status),
        }
    }

    fn refuse(&mut self, rejection: Rejection, status: &Status) {
        self.service.metrics.stream_rejected(rejection);
        self.order.push(Source::Refused);
        self.refused.push_back(refusal(status));
    }

    /// Queues what was taken, if there is room for it.
    fn queue(&mut self, context: &mut Context<'_>) {
        let queued = self.own.queue(&self.service, others_in_flight(&self.others), context);
        self.unless_ended(queued);
    }

    /// If the log has ended, so does the stream when everything before is answered.
    fn unless_ended(&mut self, result: Result<(), PublishError>) {
        if let Err(error) = result {
            self.own.discard(&self.service, &error);
            self.stop_taking(errors::publish(&error));
            self.forget_lost();
        }
    }

    /// What was lost is not answered, unless what another node has published comes behind it.
    fn forget_lost(&mut self) {
        let (own, refused) = self.order.truncate(self.own.lost());
        self.own.forget_lost(own);
        self.refused.truncate(self.refused.len() - refused);
    }

    /// Takes no more requests.
    fn finish(&mut self) {
        self.requests = None;
        if let Some(others) = &mut self.others {
            others.finish();
        }
    }

    /// Takes no more requests; when what was taken is answered the stream ends with `status`.
    fn stop_taking(&mut self, status: Status) {
        self.finish();
        self.end.get_or_insert(status);
    }

    /// The broker stops: what was taken is still queued if there is room for it at once, and answered; then the stream ends.
    fn stop(&mut self, context: &mut Context<'_>) {
        self.stopped = true;
        self.queue(context);
        let held = self.others.as_mut().is_some_and(|others| others.discard());
        if self.requests.is_some() || self.own.holds_any() || held {
            self.stop_taking(errors::shutting_down());
            self.own.discard(&self.service, &PublishError::ShuttingDown);
            self.forget_lost();
        }
    }

    fn is_over(&self) -> bool {
        let held = self.others.as_ref().is_some_and(|others| others.holds_any());
        self.requests.is_none() && self.order.is_empty() && !held
    }
}

fn others_in_flight(others: &Option<Box<Others>>) -> usize {
    others.as_ref().map_or(0, |others| others.in_flight())
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
        formatter.debug_struct("PublishAnswers").field("in_flight", &self.own.in_flight()).finish_non_exhaustive()
    }
}
