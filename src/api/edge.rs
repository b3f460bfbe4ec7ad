//! The outermost layer of all services: counts calls, bounds what unfinished ones hold, and gives mistakes that the
//! transport finds the contract's codes.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::errors;
use super::framing::Framing;
use super::meter::{Held, Meter};
use crate::telemetry;
use crate::telemetry::metrics::{ApiMetrics, Method};
use crate::telemetry::traces::{CallTrace, Traces};

/// The stream of one node to another whose messages are counted one by one.
const HAND_OVER: &str = "/walcast.nodes.v1.Nodes/HandOver";

/// What the edge of all calls shares.
#[derive(Debug)]
pub struct EdgeConfig {
    /// Counts the calls.
    pub metrics: ApiMetrics,
    /// Decides which of them are traced.
    pub traces: Traces,
    /// `limits.body_bytes`, named in the answer to a message beyond the transport's limit.
    pub body_bytes_max: usize,
    /// Requests that are not whole yet.
    pub requests: Meter,
    /// Answers that wait for their readers.
    pub answers: Meter,
    /// Ends the streams of health and reflection, which know of no shutdown.
    pub stop: CancellationToken,
}

/// Wraps all services.
#[derive(Debug, Clone)]
pub struct Edge<S> {
    inner: S,
    /// Shared, because every call clones this, and the metrics are some sixty handles.
    config: Arc<EdgeConfig>,
}

impl<S> Edge<S> {
    /// Around `inner`.
    pub fn new(inner: S, config: EdgeConfig) -> Self {
        Self { inner, config: Arc::new(config) }
    }
}

impl<S, B> Service<Request<B>> for Edge<S>
where
    S: Service<Request<Incoming<B>>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = method(request.uri().path());
        let trace = self.config.traces.call(method, request.headers());
        let is_stream = method == Method::PublishStream || request.uri().path() == HAND_OVER;
        let framing = is_stream.then(Framing::default);
        let mut request = request.map(|body| Incoming { body, held: Held::none(&self.config.requests), framing });
        if let Some(trace) = &trace {
            request.extensions_mut().insert(trace.clone());
        }
        let call = Call { method, config: Arc::clone(&self.config), started: telemetry::now(), counted: false, trace };
        Answer { answer: self.inner.call(request), call: Some(call) }
    }
}

/// The body of a request, counted until it is dropped: when its message is whole. Of a stream of messages the one that is not
/// whole is counted.
#[derive(Debug)]
pub struct Incoming<B> {
    body: B,
    held: Held,
    /// Where the messages of a stream end.
    framing: Option<Framing>,
}

impl<B> Incoming<B> {
    /// Counts what was read; false if there is no room for it.
    fn hold(&mut self, data: &Bytes) -> bool {
        match &mut self.framing {
            None => self.held.try_add(data.len()),
            // Who asks for more has taken every message that is whole.
            Some(framing) => self.held.try_set(framing.unfinished_after(data)),
        }
    }
}

impl<B> http_body::Body for Incoming<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !self.hold(data)
        {
            return Poll::Ready(Some(Err(errors::too_many_request_bytes().into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The method that a path names.
pub(super) fn method(path: &str) -> Method {
    match path {
        "/broker.Broker/Publish" => Method::Publish,
        "/broker.Broker/PublishStream" => Method::PublishStream,
        "/broker.Broker/Subscribe" => Method::Subscribe,
        "/broker.Broker/Fetch" => Method::Fetch,
        _ => Method::Other,
    }
}

/// A call in progress.
#[derive(Debug)]
pub struct Answer<F> {
    answer: F,
    /// Until the answer.
    call: Option<Call>,
}

/// What is counted of a call, once: with its status, or as cancelled when it is dropped without one.
#[derive(Debug)]
struct Call {
    method: Method,
    config: Arc<EdgeConfig>,
    started: Instant,
    counted: bool,
    trace: Option<CallTrace>,
}

impl Call {
    fn ended(&mut self, code: Code) {
        self.counted = true;
        if let Some(trace) = &self.trace {
            trace.end(code);
        }
        self.config.metrics.observe(self.method, code, telemetry::since(self.started));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.counted {
            self.ended(Code::Cancelled);
        }
    }
}

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let entered = self.call.as_ref().and_then(|call| call.trace.as_ref()).map(CallTrace::enter);
        let answer = Pin::new(&mut self.answer).poll(context);
        drop(entered);
        let mut response = match ready!(answer) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let Some(mut call) = self.call.take() else { return Poll::Ready(Ok(response)) };
        // Not before: many calls begin together, and this one's bytes are counted right after.
        if call.method == Method::Fetch && call.config.answers.is_full() {
            response = errors::too_many_answer_bytes().into_http();
        }
        // An error of a unary call, or before a stream begins, is in the headers.
        if let Some(status) = Status::from_header_map(response.headers()) {
            let status = contractual(status, call.config.body_bytes_max);
            call.ended(status.code());
            return Poll::Ready(Ok(status.into_http()));
        }
        let stop = match call.method {
            Method::Publish => {
                call.ended(Code::Ok);
                return Poll::Ready(Ok(response));
            }
            // Delivery and the streams of publishes end themselves, in order.
            Method::Fetch | Method::Subscribe | Method::PublishStream => None,
            Method::Other => Some(Box::pin(call.config.stop.clone().cancelled_owned())),
        };
        Poll::Ready(Ok(response.map(|body| Body::new(Outgoing { body, call, stop }))))
    }
}

/// The body of an answer: its bytes are counted while anybody holds them, and the call when it ends.
#[derive(Debug)]
struct Outgoing {
    body: Body,
    call: Call,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.call.counted {
            return Poll::Ready(None);
        }
        let entered = self.call.trace.as_ref().map(CallTrace::enter);
        let polled = Pin::new(&mut self.body).poll_frame(context);
        drop(entered);
        if let Poll::Ready(frame) = polled {
            let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
            if let Some(trailers) = frame.trailers_ref() {
                self.call.ended(Status::from_header_map(trailers).map_or(Code::Ok, |status| status.code()));
            }
            let answers = &self.call.config.answers;
            return Poll::Ready(Some(Ok(frame.map_data(|data| answers.hold(data)))));
        }
        // What it still has to say comes first.
        let stopped = self.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(context).is_ready());
        if !stopped {
            return Poll::Pending;
        }
        let (status, mut trailers) = (errors::shutting_down(), HeaderMap::new());
        self.call.ended(status.code());
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.call.counted
    }
}

/// The transport answers INTERNAL to what it cannot read and OUT_OF_RANGE to a message beyond its limit.
/// The broker itself answers neither, nor UNKNOWN, so the code alone tells where a status comes from.
pub(super) fn contractual(status: Status, body_bytes_max: usize) -> Status {
    match status.code() {
        Code::Internal | Code::Unknown => errors::malformed(status.message()),
        Code::OutOfRange => errors::body_too_large(body_bytes_max),
        // What the broker itself says has its reason already.
        _ if !status.details().is_empty() => status,
        Code::Unimplemented => errors::unimplemented(status.message()),
        Code::Cancelled => errors::cancelled(status.message()),
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use parking_lot::Mutex;

    use super::*;
    use crate::telemetry::Metrics;
    use crate::telemetry::traces::{current_trace_id, tests::traces};

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// A room and the body of its answer; both note the trace that they are asked in.
    #[derive(Clone, Default)]
    struct Room(Arc<Mutex<Vec<Option<String>>>>);

    impl Room {
        fn note(&self) {
            self.0.lock().push(current_trace_id().map(|id| id.to_string()));
        }
    }

    impl Service<Request<Incoming<Body>>> for Room {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Incoming<Body>>) -> Self::Future {
            let room = self.clone();
            Box::pin(async move {
                room.note();
                Ok(Response::new(Body::new(room)))
            })
        }
    }

    impl http_body::Body for Room {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.note();
            Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new()))))
        }
    }

    #[tokio::test]
    async fn log_lines_of_a_traced_call_are_in_its_trace_and_no_others() {
        let (traces, _out, _) = traces(0.0, 10);
        let room = Room::default();
        let config = EdgeConfig {
            metrics: Metrics::new("test").api,
            traces,
            body_bytes_max: 1,
            requests: Meter::new(1),
            answers: Meter::new(1),
            stop: CancellationToken::new(),
        };
        let mut edge = Edge::new(room.clone(), config);
        for traceparent in [Some(SAMPLED), None] {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = "/broker.Broker/Subscribe".parse().expect("a path");
            if let Some(traceparent) = traceparent {
                request.headers_mut().insert("traceparent", traceparent.parse().expect("a header"));
            }
            let Ok(answer) = edge.call(request).await;
            let mut body = answer.into_body();
            let frame = poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context)).await;
            frame.expect("trailers").expect("no error");
            room.note();
        }
        let id = || Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
        assert_eq!(*room.0.lock(), [id(), id(), None, None, None, None]);
    }

    #[test]
    fn a_clients_mistake_is_never_internal_or_unknown() {
        assert_eq!(contractual(Status::internal("x"), 1).code(), Code::InvalidArgument);
        assert_eq!(contractual(Status::unknown("x"), 1).code(), Code::InvalidArgument);
        assert_eq!(contractual(Status::out_of_range("x"), 1).code(), Code::ResourceExhausted);
        for code in [Code::Unavailable, Code::Cancelled, Code::Unimplemented, Code::InvalidArgument] {
            assert_eq!(contractual(Status::new(code, "x"), 1).code(), code);
        }
    }
}
