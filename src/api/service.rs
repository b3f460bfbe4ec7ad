//! The `broker.Broker` service: validates, hands on, translates errors.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::errors;
use super::lifecycle::{Lifecycle, Phase};
use super::publish::{FromMetadata, Refused, to_publish};
use super::publish_stream::PublishAnswers;
use crate::cluster::Ownership;
use crate::delivery::{Delivery, Start, Subscription};
use crate::event::{EncodedMessage, MessageId, Subject};
use crate::fetch::Fetch;
use crate::ingest::{IdsExhausted, Publish, PublishError, Publisher};
use crate::proto::server::broker_server::Broker;
use crate::proto::server::{FetchRequest, PublishRequest, PublishResponse, SubscribeRequest};
use crate::telemetry::metrics::{IngestMetrics, Rejection};
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
    /// Decides which calls are traced.
    pub traces: Traces,
    /// What of a cluster this node owns; None if it is alone and owns everything.
    pub ownership: Option<Ownership>,
}

/// How many streams of publishes there may be, and how much each may have in flight. A clone shares the permits.
#[derive(Debug, Clone)]
pub struct PublishStreams {
    permits: Arc<Semaphore>,
    max: usize,
    /// `limits.stream_in_flight_bytes`.
    pub in_flight_bytes_max: usize,
}

impl PublishStreams {
    /// At most `max` streams of `in_flight_bytes_max` bytes each.
    pub fn new(max: usize, in_flight_bytes_max: usize) -> Self {
        let permits = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self { permits, max, in_flight_bytes_max }
    }
}

impl BrokerService {
    fn check_serving(&self) -> Result<(), Status> {
        match self.lifecycle.phase() {
            Phase::Serving => Ok(()),
            phase => Err(errors::not_serving(phase.name())),
        }
    }

    /// Checks that the subject is this node's to number, log and answer for.
    pub(super) fn check_owned(&self, subject: &Subject) -> Result<(), Status> {
        match &self.ownership {
            None => Ok(()),
            Some(ownership) => ownership.check(subject.as_str()).map_err(|other| errors::not_owner(&other)),
        }
    }

    async fn try_publish(&self, request: Request<PublishRequest>) -> Result<MessageId, Refused> {
        self.check_serving().map_err(|status| (Rejection::Unavailable, status))?;
        let metadata = FromMetadata::of(request.metadata())?;
        let trace = request.extensions().get::<CallTrace>().cloned();
        let mut publish = to_publish(request.into_inner(), metadata, self.body_bytes_max)?;
        self.check_owned(&publish.subject).map_err(|status| (Rejection::NotOwner, status))?;
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
        PublishError::LogFailed | PublishError::ShuttingDown => Rejection::Unavailable,
    }
}

impl BrokerService {
    /// Publishes, and counts what is refused.
    ///
    /// # Errors
    /// The status of the contract.
    pub(super) async fn answer_publish(&self, request: Request<PublishRequest>) -> Result<PublishResponse, Status> {
        match self.try_publish(request).await {
            Ok(id) => Ok(PublishResponse { id: id.to_wire() }),
            Err((rejection, status)) => {
                self.metrics.rejected(rejection);
                Err(status)
            }
        }
    }

    /// Fetches.
    ///
    /// # Errors
    /// The status of the contract.
    pub(super) async fn answer_fetch(
        &self,
        request: FetchRequest,
        trace: Option<CallTrace>,
    ) -> Result<EncodedMessage, Status> {
        self.check_serving()?;
        let FetchRequest { subject, id } = request;
        let subject = Subject::new(subject).map_err(errors::invalid_subject)?;
        self.check_owned(&subject)?;
        let id = MessageId::from_wire(id).ok_or_else(errors::never_published)?;
        if let Some(trace) = trace {
            trace.about(&subject, None);
            trace.id(id);
        }
        self.fetch.fetch(&subject, id).await.map_err(|error| errors::fetch(&error))
    }
}

/// As tonic calls it. Publish and Fetch come here only when their request is compressed (see [`super::unary`]).
#[tonic::async_trait]
impl Broker for BrokerService {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        self.answer_publish(request).await.map(Response::new)
    }

    type PublishStreamStream = PublishAnswers;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<PublishAnswers>, Status> {
        self.check_serving()?;
        let permit = Arc::clone(&self.streams.permits).try_acquire_owned();
        let permit = permit.map_err(|_none| errors::too_many_publish_streams(self.streams.max))?;
        let metadata = FromMetadata::of_stream(request.metadata())?;
        Ok(Response::new(PublishAnswers::new(self.clone(), metadata, request.into_inner(), permit)))
    }

    type SubscribeStream = ResponseStream;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<ResponseStream>, Status> {
        self.check_serving()?;
        let trace = request.extensions().get::<CallTrace>().cloned();
        let SubscribeRequest { subject, after_id } = request.into_inner();
        let subject = Subject::new(subject).map_err(errors::invalid_subject)?;
        self.check_owned(&subject)?;
        if let Some(trace) = trace {
            trace.about(&subject, None);
        }
        let start = match after_id {
            None => Start::Now,
            Some(after) => Start::After(u32::try_from(after).map_err(|_| errors::negative_after_id(after))?),
        };
        let subscription = self.delivery.subscribe(&subject, start).map_err(errors::subscribe)?;
        Ok(Response::new(ResponseStream(subscription)))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<EncodedMessage>, Status> {
        let trace = request.extensions().get::<CallTrace>().cloned();
        self.answer_fetch(request.into_inner(), trace).await.map(Response::new)
    }
}

/// A subscription whose end is a status.
#[derive(Debug)]
pub struct ResponseStream(Subscription);

impl Stream for ResponseStream {
    type Item = Result<EncodedMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map(|item| item.map(|message| message.map_err(errors::stream_end)))
    }
}
