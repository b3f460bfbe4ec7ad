//! Publish and Fetch, read and answered without the layers that only streams need.
//!
//! For a unary call tonic routes by a tree of boxed services, makes a stream of the request and one of the answer,
//! and gives each a buffer of 8 KiB: some twenty allocations. These two methods are nearly all calls that a broker
//! gets, and their request is one message, nearly always in one DATA frame. What is unusual (a compressed request)
//! goes the long way, and so do all other methods. Figures: `docs/performance.md`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tower::Service;

use super::framing::PREFIX_BYTES;
use super::service::Answer;
use super::{BrokerService, edge, errors};
use crate::forward::framed;
use crate::telemetry::metrics::Method;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Requests below this are copied out of what was read from the socket. A part of it keeps all of it in memory, which
/// is up to 16 KiB: four times the request at most, where it is not copied.
const COPIED_BELOW_BYTES: usize = 4 * 1024;

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS_OK: HeaderValue = HeaderValue::from_static("0");

/// Serves Publish and Fetch itself, and everything else with `others`.
#[derive(Debug, Clone)]
pub struct Unary<S> {
    /// What the calls are for.
    pub service: Arc<BrokerService>,
    /// The longest request in bytes.
    pub request_bytes_max: usize,
    /// All other methods.
    pub others: S,
}

impl<S, B> Service<Request<B>> for Unary<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.others.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.headers().contains_key(GRPC_ENCODING) {
            return Call::Other(self.others.call(request));
        }
        let (service, bytes_max) = (Arc::clone(&self.service), self.request_bytes_max);
        match edge::method(request.uri().path()) {
            Method::Publish => Call::Unary(Box::pin(async move {
                let (request, as_sent) = read_request(request, bytes_max).await?;
                Ok(match service.answer_publish(request, |_| as_sent).await? {
                    Answer::Here(answer) => framed(&answer),
                    Answer::Elsewhere(framed) => framed,
                })
            })),
            Method::Fetch => Call::Unary(Box::pin(async move {
                let (request, as_sent) = read_request(request, bytes_max).await?;
                Ok(match service.answer_fetch(request, |_| as_sent).await? {
                    Answer::Here(message) => framed(&message),
                    Answer::Elsewhere(framed) => framed,
                })
            })),
            _ => Call::Other(self.others.call(request)),
        }
    }
}

/// A call until its answer.
pub enum Call<F> {
    /// One of ours: the framed message of the answer.
    Unary(Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>),
    /// One of the others.
    Other(F),
}

impl<F> std::fmt::Debug for Call<F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Unary(_) => "Unary",
            Self::Other(_) => "Other",
        })
    }
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Other(call) => Pin::new(call).poll(context),
            Self::Unary(call) => call.as_mut().poll(context).map(|answer| {
                Ok(match answer {
                    Ok(message) => answered(message),
                    Err(status) => status.into_http(),
                })
            }),
        }
    }
}

/// Reads a request: the message, and the bytes that it came in.
async fn read_request<B, M>(request: Request<B>, bytes_max: usize) -> Result<(tonic::Request<M>, Bytes), Status>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
    M: Message + Default,
{
    let (parts, body) = request.into_parts();
    let framed = read(body, bytes_max).await?;
    let message = M::decode(framed.slice(PREFIX_BYTES..)).map_err(|error| errors::malformed_message(&error))?;
    let metadata = MetadataMap::from_headers(parts.headers);
    Ok((tonic::Request::from_parts(metadata, parts.extensions, message), framed))
}

/// Reads the one message of a request, with its prefix.
async fn read<B>(mut body: B, bytes_max: usize) -> Result<Bytes, Status>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut message = Unfinished::default();
    while !body.is_end_stream() {
        let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await else { break };
        // Trailers of a request mean nothing to these methods.
        if let Ok(data) = frame.map_err(|error| Status::from_error(error.into()))?.into_data() {
            message.add(data, bytes_max)?;
        }
    }
    message.finish()
}

/// What of a request has been read.
#[derive(Debug, Default)]
enum Unfinished {
    #[default]
    Nothing,
    /// It came in one frame, as most do.
    One(Bytes),
    Several(BytesMut),
}

impl Unfinished {
    fn add(&mut self, data: Bytes, bytes_max: usize) -> Result<(), Status> {
        *self = match std::mem::take(self) {
            Self::Nothing => Self::One(data),
            Self::One(first) => {
                let mut all = BytesMut::with_capacity(first.len() + data.len());
                all.extend_from_slice(&first);
                all.extend_from_slice(&data);
                Self::Several(all)
            }
            Self::Several(mut all) => {
                all.extend_from_slice(&data);
                Self::Several(all)
            }
        };
        let announced = self.announced(bytes_max)?;
        if let Self::One(first) = self
            && first.len() < COPIED_BELOW_BYTES
            && announced.is_none_or(|length| first.len() < PREFIX_BYTES + length)
        {
            // The rest may be long in coming.
            *self = Self::Several(BytesMut::from(&first[..]));
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::One(first) => first,
            Self::Several(all) => all,
        }
    }

    /// The length of the message in bytes, once its prefix is there.
    fn announced(&self, bytes_max: usize) -> Result<Option<usize>, Status> {
        let Some((prefix, rest)) = self.bytes().split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(errors::malformed(&format!(
                "the message's compressed flag is {compressed}, and no grpc-encoding was named"
            )));
        }
        // A u32 always fits on the systems that this runs on.
        let length = u32::from_be_bytes(length) as usize;
        if length > bytes_max {
            return Err(Status::out_of_range(format!("the message has {length} bytes; at most {bytes_max} are read")));
        }
        if rest.len() > length {
            return Err(errors::malformed("the request has bytes behind its one message"));
        }
        Ok(Some(length))
    }

    fn finish(self) -> Result<Bytes, Status> {
        let announced = self.announced(usize::MAX)?;
        let message = match self {
            Self::Nothing => Bytes::new(),
            Self::One(first) if first.len() < COPIED_BELOW_BYTES => Bytes::copy_from_slice(&first),
            Self::One(first) => first,
            Self::Several(all) => all.freeze(),
        };
        match announced {
            Some(length) if message.len() == PREFIX_BYTES + length => Ok(message),
            _ => Err(errors::malformed("the request ends before its message does")),
        }
    }
}

fn answered(message: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(OneMessage { message: Some(message), ended: false }));
    response.headers_mut().insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
    response
}

/// The body of an answer: one message, then OK.
#[derive(Debug)]
struct OneMessage {
    message: Option<Bytes>,
    ended: bool,
}

impl HttpBody for OneMessage {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(Status::GRPC_STATUS, STATUS_OK);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tonic::Code;

    use super::*;

    /// A body in these parts.
    struct Parts(VecDeque<Bytes>);

    impl HttpBody for Parts {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    const BYTES_MAX: usize = 10_000;

    async fn read_in_parts(bytes: &[u8], part_bytes: usize) -> Result<Bytes, Code> {
        let parts = bytes.chunks(part_bytes.max(1)).map(Bytes::copy_from_slice).collect();
        read(Parts(parts), BYTES_MAX).await.map_err(|status| status.code())
    }

    fn message(bytes: usize) -> (Vec<u8>, Vec<u8>) {
        let message: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        let prefix = [&[0][..], &u32::try_from(bytes).expect("short").to_be_bytes()].concat();
        let framed = [&prefix[..], &message].concat();
        (message, framed)
    }

    #[tokio::test]
    async fn a_message_is_read_however_it_is_cut() {
        for bytes in [0, 1, 4, 300, COPIED_BELOW_BYTES, BYTES_MAX] {
            let (message, framed) = message(bytes);
            for part in [1, 2, 5, 6, 7, 255, 4096, usize::MAX] {
                let read = read_in_parts(&framed, part.min(framed.len())).await.expect("a message");
                assert_eq!(read[PREFIX_BYTES..], message, "{bytes} in parts of {part}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_exactly_one_message_is_refused() {
        let (_, whole) = message(300);
        for part in [1, 7, 400] {
            for cut in [0, 1, 4, 5, 299, 304] {
                assert_eq!(read_in_parts(&whole[..cut], part).await, Err(Code::InvalidArgument), "cut at {cut}");
            }
            let twice = [&whole[..], &whole[..]].concat();
            assert_eq!(read_in_parts(&twice, part).await, Err(Code::InvalidArgument));
            let mut compressed = whole.clone();
            compressed[0] = 1;
            assert_eq!(read_in_parts(&compressed, part).await, Err(Code::InvalidArgument));
            // The edge makes RESOURCE_EXHAUSTED of it, before the bytes have come.
            let (_, large) = message(BYTES_MAX + 1);
            assert_eq!(read_in_parts(&large[..PREFIX_BYTES], part).await, Err(Code::OutOfRange));
        }
    }

    #[tokio::test]
    async fn an_answer_is_its_message_and_then_ok() {
        let (message, framed) = message(300);
        let mut body = answered(Bytes::from(framed)).into_body();
        let mut next = async || std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let data = next().await.expect("a frame").expect("no error").into_data().expect("data");
        assert_eq!(data[PREFIX_BYTES..], message);
        let trailers = next().await.expect("a frame").expect("no error").into_trailers().expect("trailers");
        assert_eq!(trailers.get(Status::GRPC_STATUS), Some(&STATUS_OK));
        assert!(next().await.is_none());
    }
}
