//! The messages of a stream that are other nodes', passed on to them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::HeaderMap;
use prost::Message as _;
use tokio::time::Sleep;
use tonic::Status;

use super::own::ROOM_RETRY;
use super::refusal;
use crate::api::service::unanswered;
use crate::api::{BrokerService, errors};
use crate::cluster::Slot;
use crate::forward::{Forward, Marker, Outcome, Sending, Sent, StreamEnd, StreamHead, Upstream};
use crate::ingest::PUBLISH_OVERHEAD_BYTES;
use crate::proto::server::{PublishRequest, PublishStreamResponse};
use crate::telemetry::metrics::{ForwardMetrics, IngestMetrics, Misdirected, Rejection};
use crate::telemetry::traces::PARENT;

/// What a stream has of other nodes.
pub struct Others {
    forward: Forward,
    /// Who passed the stream on to this node: then no message may go further.
    marker: Option<Marker>,
    head: StreamHead,
    /// Counts what their owners did not answer.
    metrics: IngestMetrics,
    forwarded: ForwardMetrics,
    in_flight_max: usize,
    /// What is not answered is charged, in bytes.
    in_flight: usize,
    /// At most one for each other node, each with the node's place in the layout.
    upstreams: Vec<(usize, Upstream)>,
    /// Waits for room; nothing is taken behind it.
    held: Option<Held>,
}

struct Held {
    request: PublishRequest,
    /// Place of its owner in `upstreams`.
    at: usize,
    slot: Slot,
    /// Since when there is no room on the way to the owner, and when to look again.
    full: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// What became of a request.
pub enum Taken {
    /// It is this node's.
    Own(PublishRequest),
    /// It goes to the owner at this place.
    Sent(usize),
    /// It waits here.
    Held,
    /// It is refused.
    Refused(Rejection, Status),
}

impl Others {
    /// Of a stream with these metadata; None if this node is alone.
    pub fn new(service: &BrokerService, marker: Option<Marker>, mut headers: HeaderMap) -> Option<Self> {
        let forward = service.forward.clone()?;
        let deadline = service.deadline(&headers);
        headers.remove(&PARENT);
        Some(Self {
            forward,
            marker,
            head: StreamHead { headers, deadline },
            metrics: service.metrics.clone(),
            forwarded: service.forwarded.clone(),
            in_flight_max: service.streams.in_flight_bytes_max,
            in_flight: 0,
            upstreams: Vec::new(),
            held: None,
        })
    }

    /// What they have in flight, in bytes.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether a request waits.
    pub fn holds_any(&self) -> bool {
        self.held.is_some()
    }

    /// Passes a request on if it is another node's; this one has `own` bytes in flight.
    pub fn take(&mut self, request: PublishRequest, own: usize, context: &mut Context<'_>) -> Taken {
        let Some((owner, other)) = self.forward.elsewhere(&request.subject) else { return Taken::Own(request) };
        if let Some(marker) = &self.marker {
            self.forwarded.misdirected(Misdirected::NotOwner);
            let status = errors::not_owner(&other, marker, self.forward.will_agree(marker));
            return Taken::Refused(Rejection::NotOwner, status);
        }
        let slot = other.slot;
        let at = self.upstreams.iter().position(|(node, _)| *node == other.at).unwrap_or_else(|| {
            self.upstreams.push((other.at, Upstream::new(owner.clone())));
            self.upstreams.len() - 1
        });
        self.offer(Held { request, at, slot, full: None }, own, context)
    }

    /// Goes on with the request that waits.
    pub fn resume(&mut self, own: usize, context: &mut Context<'_>) -> Option<Taken> {
        let held = self.held.take()?;
        Some(self.offer(held, own, context))
    }

    fn offer(&mut self, mut held: Held, own: usize, context: &mut Context<'_>) -> Taken {
        let charge = PUBLISH_OVERHEAD_BYTES + held.request.encoded_len();
        let in_flight = own + self.in_flight;
        // The answers to what is in flight make room, and their reader comes by here.
        if in_flight > 0 && in_flight + charge > self.in_flight_max {
            self.held = Some(held);
            return Taken::Held;
        }
        let Held { at, slot, .. } = held;
        let upstream = &mut self.upstreams[at].1;
        loop {
            let error = match upstream.send(&self.head, &held.request, Sent { charge, slot }) {
                Ok(Sending::Sent) => {
                    self.in_flight += charge;
                    return Taken::Sent(at);
                }
                Ok(Sending::Full) => match held.poll_full(upstream, context) {
                    Poll::Ready(true) => continue,
                    Poll::Ready(false) => upstream.full(),
                    Poll::Pending => {
                        self.held = Some(held);
                        return Taken::Held;
                    }
                },
                Err(error) => error,
            };
            let status = errors::forward(&error, upstream.owner().name(), slot);
            return Taken::Refused(unanswered(&error), status);
        }
    }

    /// The next answer of the owner at this place.
    pub fn poll_answer(&mut self, at: usize, context: &mut Context<'_>) -> Poll<PublishStreamResponse> {
        let upstream = &mut self.upstreams[at].1;
        let (sent, outcome) = ready!(upstream.poll_answer(context));
        self.in_flight -= sent.charge;
        Poll::Ready(match outcome {
            Outcome::Id(id) => PublishStreamResponse { id, error: None },
            Outcome::Refused(answer) => *answer,
            Outcome::Ended(end) => match &*end {
                StreamEnd::Failed(error) => {
                    self.metrics.stream_rejected(unanswered(error));
                    refusal(&errors::forward(error, upstream.owner().name(), sent.slot))
                }
                StreamEnd::Refused(status) => refusal(status),
            },
        })
    }

    /// Nothing more comes: their owners answer what they have.
    pub fn finish(&mut self) {
        self.upstreams.iter().for_each(|(_, upstream)| upstream.finish());
    }

    /// Gives up the request that waits. Whether there was one.
    pub fn discard(&mut self) -> bool {
        self.held.take().is_some()
    }
}

impl Held {
    /// Ready when there may be room on the way to the owner; false if it has waited for so long that it is refused.
    fn poll_full(&mut self, upstream: &Upstream, context: &mut Context<'_>) -> Poll<bool> {
        let again = || Box::pin(tokio::time::sleep(ROOM_RETRY));
        let (since, sleep) = self.full.get_or_insert_with(|| (Instant::now(), again()));
        if since.elapsed() >= upstream.patience() {
            return Poll::Ready(false);
        }
        ready!(sleep.as_mut().poll(context));
        *sleep = again();
        Poll::Ready(true)
    }
}
