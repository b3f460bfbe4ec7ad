//! A call with one request and one answer, passed on.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::{Code, Status};

use super::ForwardError;
use super::owner::{InFlight, Owner};
use crate::telemetry::metrics::Method;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// A call that is to be passed on.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The caller's metadata: all of it goes on.
    pub headers: HeaderMap,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// The request as it came: its message with the prefix of five bytes.
    pub framed: Bytes,
}

/// What the owner said: the framed message of its answer, or its status.
pub type Reply = Result<Bytes, Status>;

impl Owner {
    /// Passes a call on and waits for its answer.
    ///
    /// # Errors
    /// [`ForwardError`] if there is none.
    pub async fn call(&self, call: Call) -> Result<Reply, ForwardError> {
        let Call { method, headers, deadline, framed } = call;
        let mut entered = self.enter(method, framed.len())?;
        let began = Instant::now();
        let request = request(headers, deadline, Whole::of(framed));
        let response = self.send(method, request).await?;
        let reply = self.read(method, response, &mut entered).await?;
        self.answered(method);
        self.took(began.elapsed());
        Ok(reply)
    }

    /// Reads the answer to its end.
    async fn read(
        &self,
        method: Method,
        response: Response<Incoming>,
        entered: &mut InFlight,
    ) -> Result<Reply, ForwardError> {
        let (head, mut body) = response.into_parts();
        // A status without a message is in the head.
        if let Some(status) = Status::from_header_map(&head.headers) {
            return Ok(Err(status));
        }
        if head.status != http::StatusCode::OK {
            return Ok(Err(Status::unavailable(format!("node {} answers with HTTP {}", self.name(), head.status))));
        }
        let mut message = Message::default();
        let mut end = None;
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|error| self.lost_within(method, &error))?;
            match frame.into_data() {
                Ok(data) => {
                    entered.grow(data.len())?;
                    message.add(data);
                    if message.len() > self.answer_bytes_max() {
                        return Ok(Err(Status::internal(format!("the answer of node {} is too long", self.name()))));
                    }
                }
                Err(frame) => {
                    end = frame.trailers_ref().and_then(Status::from_header_map);
                    break;
                }
            }
        }
        match end {
            Some(status) if status.code() == Code::Ok => Ok(Ok(message.whole())),
            Some(status) => Ok(Err(status)),
            None => Ok(Err(Status::unavailable(format!("the answer of node {} has no status", self.name())))),
        }
    }
}

/// A request to an owner with the caller's metadata.
pub(super) fn request<B>(mut headers: HeaderMap, deadline: Option<Instant>, body: B) -> Request<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // What is between two neighbours only, and what was undone here.
    for name in [&HOST, &GRPC_ENCODING, &GRPC_ACCEPT_ENCODING] {
        headers.remove(name);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    match deadline {
        Some(deadline) => headers.insert(GRPC_TIMEOUT, timeout(deadline.saturating_duration_since(Instant::now()))),
        None => headers.remove(GRPC_TIMEOUT),
    };
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = http::Method::POST;
    *request.headers_mut() = headers;
    request
}

/// What is left of the caller's time, as `grpc-timeout` has it: eight digits at most.
fn timeout(left: Duration) -> HeaderValue {
    let micros = left.as_micros();
    let text =
        if micros < 100_000_000 { format!("{micros}u") } else { format!("{}m", left.as_millis().min(99_999_999)) };
    HeaderValue::from_str(&text).expect("digits and a letter")
}

/// The body of a request that is there already.
#[derive(Debug)]
pub(super) struct Whole(Option<Bytes>);

impl Whole {
    pub fn of(framed: Bytes) -> Self {
        Self(Some(framed))
    }
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// What of an answer has been read; nearly always one frame has all of it.
#[derive(Debug, Default)]
struct Message {
    first: Bytes,
    rest: BytesMut,
}

impl Message {
    fn add(&mut self, data: Bytes) {
        if self.first.is_empty() {
            self.first = data;
        } else {
            self.rest.extend_from_slice(&data);
        }
    }

    fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    fn whole(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.len());
        whole.extend_from_slice(&self.first);
        whole.extend_from_slice(&self.rest);
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_eight_digits_at_most() {
        let of = |left| timeout(left).to_str().expect("ASCII").to_owned();
        assert_eq!(of(Duration::ZERO), "0u");
        assert_eq!(of(Duration::from_millis(250)), "250000u");
        assert_eq!(of(Duration::from_secs(100)), "100000m");
        assert_eq!(of(Duration::from_secs(1_000_000)), "99999999m");
    }

    #[test]
    fn metadata_go_on_and_what_is_between_neighbours_does_not() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("idempotency-key", "k"), ("x-tenant", "t"), ("grpc-timeout", "9S"), ("host", "h")] {
            headers.insert(name, value.parse().expect("a value"));
        }
        let sent = request(headers, None, Whole(None));
        let names: Vec<_> = sent.headers().keys().map(HeaderName::as_str).collect();
        assert!(names.contains(&"idempotency-key") && names.contains(&"x-tenant"), "{names:?}");
        assert!(!names.contains(&"grpc-timeout") && !names.contains(&"host"), "{names:?}");
    }

    #[test]
    fn an_answer_in_parts_is_put_together() {
        let mut message = Message::default();
        for part in ["ab", "c", "", "def"] {
            message.add(Bytes::from(part));
        }
        assert_eq!(message.whole(), "abcdef");
    }
}
