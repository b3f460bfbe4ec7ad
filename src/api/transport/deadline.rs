//! The caller's deadline: the header `grpc-timeout` of the gRPC protocol over HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::Sleep;
use tonic::body::Body;
use tower::Service;

use crate::api::errors;

const HEADER: &str = "grpc-timeout";

/// The most digits that the protocol allows.
const DIGITS_MAX: usize = 8;

/// Answers DEADLINE_EXCEEDED in place of a service that has not answered in the caller's time. What the service was
/// doing is dropped then.
#[derive(Debug, Clone)]
pub struct Deadline<S>(pub S);

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = InTime<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> InTime<S::Future> {
        match timeout(request.headers()) {
            None => InTime { answer: Some(self.0.call(request)), sleep: None },
            // Nothing is begun for a caller that has given up already.
            Some(Duration::ZERO) => InTime { answer: None, sleep: None },
            Some(within) => {
                let sleep = Some(Box::pin(tokio::time::sleep(within)));
                InTime { answer: Some(self.0.call(request)), sleep }
            }
        }
    }
}

/// An answer, or DEADLINE_EXCEEDED.
#[derive(Debug)]
pub struct InTime<F> {
    answer: Option<F>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<F> Future for InTime<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if let Some(answer) = &mut this.answer {
            if let Poll::Ready(answered) = Pin::new(answer).poll(context) {
                return Poll::Ready(answered);
            }
            let passed = this.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(context).is_ready());
            if !passed {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(errors::deadline_exceeded().into_http()))
    }
}

/// The caller's timeout. None if there is none; one that does not parse is none, as the protocol's other servers have it.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        // At most 10^8 of a unit: far from any overflow.
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    /// Answers after a minute.
    #[derive(Debug, Clone)]
    struct Slow;

    impl Service<Request<()>> for Slow {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _request: Request<()>) -> Self::Future {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(Response::new(Body::empty()))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_slower_than_its_caller_waits_is_dropped() {
        for (timeout, code) in
            [("30S", Some(Code::DeadlineExceeded)), ("0S", Some(Code::DeadlineExceeded)), ("2M", None)]
        {
            let request = Request::builder().header(HEADER, timeout).body(()).expect("a request");
            let Ok(answer) = Deadline(Slow).call(request).await;
            let status = Status::from_header_map(answer.headers());
            assert_eq!(status.map(|status| status.code()), code, "{timeout}");
        }
    }

    fn parsed(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, text.parse().expect("a header value"));
        timeout(&headers)
    }

    #[test]
    fn reads_what_the_protocol_allows_and_nothing_else() {
        assert_eq!(parsed("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parsed("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parsed("0S"), Some(Duration::ZERO));
        assert_eq!(parsed("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parsed("1u"), Some(Duration::from_micros(1)));
        assert_eq!(parsed("00000001n"), Some(Duration::from_nanos(1)));
        for text in ["", "S", "5", "5s", "-1S", "+1S", "1.5S", "123456789S", "5 S", "S5"] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
