//! The `broker.Broker` service: validates, hands on, translates errors.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use super::errors;
use super::framing::PREFIX_BYTES;
use super::lifecycle::{Lifecycle, Phase};
use super::owners::{self, AsSent};
use super::publish::{FromMetadata, Refused, to_publish};
use super::publish_stream::{Begun, PublishAnswers};
use crate::delivery::{Delivery, Start, Subscription};
use crate::event::{EncodedMessage, MessageId, Subject};
use crate::fetch::Fetch;
use crate::forward::{self, Forward, ForwardError, ForwardedSubscription, SUBSCRIBED_AT};
use crate::ingest::{IdsExhausted, Publish, PublishError, Publisher};
use crate::proto::server::broker_server::Broker;
use crate::proto::server::{FetchRequest, PublishRequest, PublishResponse, SubscribeRequest};
use crate::telemetry::metrics::{ForwardMetrics, IngestMetrics, Method, Rejection};
use crate::telemetry::traces::{CallTrace, PublishTrace, Traces};

/// The service's state: handles of the rooms below.
#[derive(Debug, Clone)]
pub struct BrokerService {
    /// Where publishes go.
    pub publisher: Publisher,
    /// Where subscriptions come from.
    pub delivery: Delivery,
    /// Where fetches go.
    pub fetch: Fetch,
    /// Whether calls are taken.
    pub lifecycle: Lifecycle,
    /// The streams of publishes.
    pub streams: PublishStreams,
    /// `limits.body_bytes`.
    pub body_bytes_max: usize,
    /// Counts what is refused.
    pub metrics: IngestMetrics,
    /// Counts what other nodes have passed on wrongly.
    pub forwarded: ForwardMetrics,
    /// Decides which calls are traced.
    pub traces: Traces,
    /// The way to the other nodes of a cluster; None if this one is alone and owns everything.
    pub forward: Option<Forward>,
}

/// How many streams of publishes there may be, and how much each may have in flight. A clone shares the permits.
#[derive(Debug, Clone)]
pub struct PublishStreams {
    permits: Arc<Semaphore>,
    /// For those that other nodes have passed on: each has let in as many as it takes from clients.
    forwarded: Arc<Semaphore>,
    max: usize,
    /// `limits.stream_in_flight_bytes`.
    pub in_flight_bytes_max: usize,
}

impl PublishStreams {
    /// At most `max` streams of `in_flight_bytes_max` bytes each, and as many again from each of the `other_nodes`.
    pub fn new(max: usize, in_flight_bytes_max: usize, other_nodes: usize) -> Self {
        let permits = |streams: usize| Arc::new(Semaphore::new(streams.min(Semaphore::MAX_PERMITS)));
        let forwarded = permits(max.saturating_mul(other_nodes));
        Self { permits: permits(max), forwarded, max, in_flight_bytes_max }
    }

    /// A place for one more stream.
    fn permit(&self, forwarded: bool) -> Result<OwnedSemaphorePermit, Status> {
        let permits = Arc::clone(if forwarded { &self.forwarded } else { &self.permits });
        permits.try_acquire_owned().map_err(|_none| errors::too_many_publish_streams(self.max))
    }
}

impl BrokerService {
    /// UNAVAILABLE unless calls are taken.
    pub(super) fn check_serving(&self) -> Result<(), Status> {
        match self.lifecycle.phase() {
            Phase::Serving => Ok(()),
            phase => Err(errors::not_serving(phase.name())),
        }
    }

    /// Publishes on a subject of this node.
    async fn try_publish(&self, request: Request<PublishRequest>) -> Result<MessageId, Refused> {
        let metadata = FromMetadata::of(request.metadata())?;
        let trace = request.extensions().get::<CallTrace>().cloned();
        let mut publish = to_publish(request.into_inner(), metadata, self.body_bytes_max)?;
        if let Some(trace) = trace {
            publish = traced(publish, &trace, trace.publish());
        }
        let published = self.publisher.publish(publish).await;
        published.map_err(|error| (rejection(&error), errors::publish(&error)))
    }
}

/// A publish of a call that is traced. Its record must say so, for what becomes of it later: with the publisher's own words, or
/// with ours if it has none.
pub(super) fn traced(publish: Publish, call: &CallTrace, trace: Box<PublishTrace>) -> Publish {
    call.about(&publish.subject, Some(publish.body.len()));
    let traceparent = publish.traceparent.or_else(|| call.traceparent());
    Publish { traceparent, trace: Some(trace), ..publish }
}

/// Under which reason a failed publish is counted.
pub(super) fn rejection(error: &PublishError) -> Rejection {
    match error {
        PublishError::Admission(_) | PublishError::QueueFull { .. } => Rejection::QueueFull,
        PublishError::NoRoom(_) => Rejection::LogFull,
        PublishError::IdsExhausted(IdsExhausted::Subject) => Rejection::IdsExhausted,
        PublishError::IdsExhausted(IdsExhausted::Table { .. }) => Rejection::SubjectsFull,
        PublishError::KeyTaken { .. } => Rejection::KeyTaken,
        PublishError::Moving => Rejection::Moving,
        PublishError::LogFailed | PublishError::ShuttingDown => Rejection::Unavailable,
    }
}

/// Under which reason a publish is counted that its owner did not answer.
pub(super) fn unanswered(error: &ForwardError) -> Rejection {
    match error {
        ForwardError::Unavailable { .. } => Rejection::Unavailable,
        ForwardError::Busy { .. } => Rejection::QueueFull,
    }
}

impl BrokerService {
    /// Publishes, here or at the owner, and counts what is refused here. `framed` is the request as it came.
    ///
    /// # Errors
    /// The status of the contract.
    pub(super) async fn answer_publish(
        &self,
        request: Request<PublishRequest>,
        framed: impl FnOnce(&PublishRequest) -> Bytes,
    ) -> Result<Answer<PublishResponse>, Status> {
        let refused = |(rejection, status)| {
            self.metrics.rejected(rejection);
            status
        };
        self.check_serving().map_err(|status| refused((Rejection::Unavailable, status)))?;
        let headers = request.metadata().as_ref();
        let elsewhere = self.elsewhere(&request.get_ref().subject, headers);
        let elsewhere = elsewhere.map_err(|status| refused((Rejection::NotOwner, status)))?;
        let Some(elsewhere) = elsewhere else {
            let id = self.try_publish(request).await.map_err(refused)?;
            return Ok(Answer::Here(PublishResponse { id: id.to_wire() }));
        };
        let deadline = self.deadline(headers);
        let (metadata, extensions, request) = request.into_parts();
        let trace = extensions.get::<CallTrace>().cloned();
        owners::about(trace.as_ref(), &request.subject, Some(request.body.len()));
        let sent = AsSent { headers: metadata.into_headers(), deadline, trace };
        let said = elsewhere.answer(Method::Publish, sent, framed(&request)).await;
        let said = said.unwrap_or_else(|error| {
            self.metrics.rejected(unanswered(&error));
            Err(elsewhere.unanswered(&error))
        });
        said.map(Answer::Elsewhere)
    }

    /// Fetches, here or from the owner. `framed` is the request as it came.
    ///
    /// # Errors
    /// The status of the contract.
    pub(super) async fn answer_fetch(
        &self,
        request: Request<FetchRequest>,
        framed: impl FnOnce(&FetchRequest) -> Bytes,
    ) -> Result<Answer<EncodedMessage>, Status> {
        self.check_serving()?;
        let headers = request.metadata().as_ref();
        let trace = request.extensions().get::<CallTrace>().cloned();
        if let Some(elsewhere) = self.elsewhere(&request.get_ref().subject, headers)? {
            let deadline = self.deadline(headers);
            let (metadata, _, request) = request.into_parts();
            owners::about(trace.as_ref(), &request.subject, None);
            let sent = AsSent { headers: metadata.into_headers(), deadline, trace };
            return match elsewhere.answer(Method::Fetch, sent, framed(&request)).await {
                Ok(said) => said.map(Answer::Elsewhere),
                Err(error) => {
                    let known = self.known_here(&error, request).await;
                    known.unwrap_or_else(|| Err(elsewhere.unanswered(&error))).map(Answer::Here)
                }
            };
        }
        self.fetch_here(request.into_inner(), trace).await.map(Answer::Here)
    }

    /// What a store that all nodes share is certain of, of a message whose owner does not answer.
    async fn known_here(&self, error: &ForwardError, request: FetchRequest) -> Option<Result<EncodedMessage, Status>> {
        if !matches!(error, ForwardError::Unavailable { .. }) {
            return None;
        }
        let (subject, id) = (Subject::new(request.subject).ok()?, MessageId::from_wire(request.id)?);
        let known = self.fetch.of_another(&subject, id).await?;
        Some(known.map_err(|error| errors::fetch(&error)))
    }

    async fn fetch_here(&self, request: FetchRequest, trace: Option<CallTrace>) -> Result<EncodedMessage, Status> {
        let FetchRequest { subject, id } = request;
        let subject = Subject::new(subject).map_err(errors::invalid_subject)?;
        let id = MessageId::from_wire(id).ok_or_else(errors::never_published)?;
        if let Some(trace) = trace {
            trace.about(&subject, None);
            trace.id(id);
        }
        self.fetch.fetch(&subject, id).await.map_err(|error| errors::fetch(&error))
    }
}

/// The answer to a unary call.
#[derive(Debug)]
pub(super) enum Answer<M> {
    /// This node's.
    Here(M),
    /// The owner's, as it came: with its prefix.
    Elsewhere(Bytes),
}

impl<M: Message + Default> Answer<M> {
    /// As tonic wants it.
    fn decoded(self) -> Result<M, Status> {
        match self {
            Self::Here(message) => Ok(message),
            Self::Elsewhere(framed) => M::decode(framed.get(PREFIX_BYTES..).unwrap_or_default())
                .map_err(|error| errors::unavailable("OWNER_UNREADABLE", error.to_string())),
        }
    }
}

/// As tonic calls it. Publish and Fetch come here only when their request is compressed (see [`super::unary`]).
#[tonic::async_trait]
impl Broker for BrokerService {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        self.answer_publish(request, forward::framed).await?.decoded().map(Response::new)
    }

    type PublishStreamStream = PublishAnswers;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<PublishAnswers>, Status> {
        self.check_serving()?;
        let marker = self.marker(request.metadata().as_ref())?;
        let permit = self.streams.permit(marker.is_some())?;
        let metadata = FromMetadata::of_stream(request.metadata())?;
        let (headers, _, requests) = request.into_parts();
        let begun = Begun { marker, metadata, headers: headers.into_headers(), requests, permit };
        Ok(Response::new(PublishAnswers::new(self.clone(), begun)))
    }

    type SubscribeStream = ResponseStream;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<ResponseStream>, Status> {
        self.check_serving()?;
        let trace = request.extensions().get::<CallTrace>().cloned();
        let (metadata, _, request) = request.into_parts();
        let headers = metadata.into_headers();
        let elsewhere = self.elsewhere(&request.subject, &headers)?;
        let framed = elsewhere.is_some().then(|| forward::framed(&request));
        let SubscribeRequest { subject, after_id } = request;
        let subject = Subject::new(subject).map_err(errors::invalid_subject)?;
        if let Some(trace) = &trace {
            trace.about(&subject, None);
        }
        let after = after_id.map(|after| u32::try_from(after).map_err(|_| errors::negative_after_id(after)));
        let after = after.transpose()?;
        if let (Some(elsewhere), Some(framed), Some(forward)) = (elsewhere, framed, &self.forward) {
            let sent = AsSent { deadline: self.deadline(&headers), headers, trace };
            let subscription = elsewhere.subscribe(forward, sent, (subject, after), framed).await?;
            return Ok(Response::new(ResponseStream::Elsewhere(Box::new(subscription))));
        }
        let passed_on = self.passed_on(&headers);
        let start = match (passed_on.and_then(|node| node.owed_after), after) {
            (Some(settled), _) => Start::Owed(settled),
            (None, Some(after)) => Start::After(after),
            (None, None) => Start::Now,
        };
        let subscription = self.delivery.subscribe(&subject, start).map_err(errors::subscribe)?;
        if self.elsewhere(subject.as_str(), &headers)?.is_some() {
            // Its slot has moved since it was asked for: nobody would end this one.
            return Err(errors::moving());
        }
        let subscribed_at = subscription.subscribed_at();
        let mut response = Response::new(ResponseStream::Here(subscription));
        if passed_on.is_some() {
            response.metadata_mut().insert(SUBSCRIBED_AT, subscribed_at.into());
        }
        Ok(response)
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<EncodedMessage>, Status> {
        self.answer_fetch(request, forward::framed).await?.decoded().map(Response::new)
    }
}

/// A subscription whose end is a status.
#[derive(Debug)]
pub enum ResponseStream {
    /// Of a subject of this node.
    Here(Subscription),
    /// Of another node's.
    Elsewhere(Box<ForwardedSubscription>),
}

impl Stream for ResponseStream {
    type Item = Result<EncodedMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            Self::Here(messages) => Pin::new(messages)
                .poll_next(context)
                .map(|item| item.map(|message| message.map_err(errors::stream_end))),
            Self::Elsewhere(messages) => {
                let item = ready!(Pin::new(&mut **messages).poll_next(context));
                Poll::Ready(item.map(|message| message.map_err(|end| errors::forwarded_end(end, messages.owner()))))
            }
        }
    }
}
