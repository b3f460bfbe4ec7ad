//! The outermost layer of the broker's service: counts calls, and gives mistakes that the transport finds
//! the contract's codes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use super::errors;
use crate::telemetry::metrics::{ApiMetrics, Method};

/// Wraps the generated server.
#[derive(Debug, Clone)]
pub struct Edge<S> {
    inner: S,
    /// Shared, because every call clones this, and the metrics are some sixty handles.
    metrics: Arc<ApiMetrics>,
    body_bytes_max: usize,
}

impl<S> Edge<S> {
    /// Around `inner`; `body_bytes_max` is named in the answer to a message beyond the transport's limit.
    pub fn new(inner: S, metrics: ApiMetrics, body_bytes_max: usize) -> Self {
        Self { inner, metrics: Arc::new(metrics), body_bytes_max }
    }
}

impl<S: NamedService> NamedService for Edge<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = method(request.uri().path());
        let answer = self.inner.call(request);
        let call = Call { method, metrics: Arc::clone(&self.metrics), started: Instant::now(), counted: false };
        Answer { answer, call: Some(call), body_bytes_max: self.body_bytes_max }
    }
}

/// The method of a path `/broker.Broker/NAME`.
fn method(path: &str) -> Method {
    match path.rsplit('/').next() {
        Some("Publish") => Method::Publish,
        Some("Subscribe") => Method::Subscribe,
        Some("Fetch") => Method::Fetch,
        _ => Method::Other,
    }
}

/// A call in progress.
#[derive(Debug)]
pub struct Answer<F> {
    answer: F,
    /// Until the answer.
    call: Option<Call>,
    body_bytes_max: usize,
}

/// What is counted of a call, once: with its status, or as cancelled when it is dropped without one.
#[derive(Debug)]
struct Call {
    method: Method,
    metrics: Arc<ApiMetrics>,
    started: Instant,
    counted: bool,
}

impl Call {
    fn ended(&mut self, code: Code) {
        self.counted = true;
        self.metrics.observe(self.method, code, self.started.elapsed());
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
        let response = match ready!(Pin::new(&mut self.answer).poll(context)) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let Some(mut call) = self.call.take() else { return Poll::Ready(Ok(response)) };
        // An error of a unary call, or before a stream begins, is in the headers.
        if let Some(status) = Status::from_header_map(response.headers()) {
            let status = contractual(status, self.body_bytes_max);
            call.ended(status.code());
            return Poll::Ready(Ok(status.into_http()));
        }
        if call.method == Method::Subscribe {
            // A stream ends with its trailers, and lives until then.
            return Poll::Ready(Ok(response.map(|body| Body::new(Counted { body, call }))));
        }
        call.ended(Code::Ok);
        Poll::Ready(Ok(response))
    }
}

/// The body of a stream, whose end is counted.
#[derive(Debug)]
struct Counted {
    body: Body,
    call: Call,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            let code = Status::from_header_map(trailers).map_or(Code::Ok, |status| status.code());
            self.call.ended(code);
        }
        Poll::Ready(frame)
    }
}

/// The transport answers INTERNAL to what it cannot read and OUT_OF_RANGE to a message beyond its limit.
/// The broker itself answers neither, nor UNKNOWN, so the code alone tells where a status comes from.
fn contractual(status: Status, body_bytes_max: usize) -> Status {
    match status.code() {
        Code::Internal | Code::Unknown => errors::malformed(status.message()),
        Code::OutOfRange => errors::body_too_large(body_bytes_max),
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
