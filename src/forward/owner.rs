//! One other node: its connections, what may be on its way to it, and whether it is taken for dead.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use recloser::{AsyncRecloser, Error as BreakerError, Recloser};
use tonic::body::Body;

use super::link::{Link, SendError, Target};
use super::marker::MARKER;
use super::{Config, ForwardError};
use crate::cluster::Node;
use crate::telemetry::metrics::{ForwardMetrics, Forwarded, Method};

/// Calls whose ends decide whether an owner is taken for dead: half of them must have failed.
const BREAKER_CALLS: usize = 8;

/// Calls that try an owner that was taken for dead; one answer is enough.
const BREAKER_TRIALS: usize = 2;

const BREAKER_FAILED: f32 = 0.5;

/// How long an owner that was taken for dead is not asked: a restart of a node takes about as long.
const BREAKER_OPEN: Duration = Duration::from_millis(500);

/// The methods that are passed on, in the order of [`Method`].
const METHODS: [&str; 4] =
    ["/broker.Broker/Publish", "/broker.Broker/PublishStream", "/broker.Broker/Subscribe", "/broker.Broker/Fetch"];

/// Another node; a clone is the same.
#[derive(Clone)]
pub struct Owner(Arc<Inner>);

struct Inner {
    config: Config,
    name: String,
    address: String,
    /// Of each method, with the address in `:authority`.
    uris: [Uri; METHODS.len()],
    marker: Arc<ArcSwap<HeaderValue>>,
    /// One for each thread of connections, so that a call and its answer stay on theirs.
    links: Box<[Link]>,
    breaker: AsyncRecloser,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    /// Its last call failed for want of an answer.
    lost: AtomicBool,
    metrics: ForwardMetrics,
}

/// How an owner was found last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerHealth {
    /// Its last call was answered, or none was made yet.
    Reachable,
    /// Its last call was not.
    Unreachable,
}

impl fmt::Debug for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Owner").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Owner {
    pub(super) fn new(config: Config, node: &Node, marker: Arc<ArcSwap<HeaderValue>>, metrics: ForwardMetrics) -> Self {
        let target = Target {
            address: node.address.as_str().into(),
            connect_timeout: config.owner_timeout,
            // Half of the time until it is asked whether it is there, half for its answer.
            keepalive_interval: config.owner_timeout / 2,
            keepalive_timeout: config.owner_timeout / 2,
            connections: metrics.connections.clone(),
        };
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let breaker = Recloser::custom()
            .closed_len(BREAKER_CALLS)
            .half_open_len(BREAKER_TRIALS)
            .error_rate(BREAKER_FAILED)
            .open_wait(BREAKER_OPEN)
            .build();
        Self(Arc::new(Inner {
            config,
            name: node.name.clone(),
            address: node.address.clone(),
            uris: METHODS.map(|path| uri(&node.address, path)),
            marker,
            links: (0..threads).map(|_| Link::new(target.clone())).collect(),
            breaker: breaker.into(),
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            metrics,
        }))
    }

    /// Its name in the layout.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How it was found last.
    pub fn health(&self) -> OwnerHealth {
        if self.0.lost.load(Ordering::Relaxed) { OwnerHealth::Unreachable } else { OwnerHealth::Reachable }
    }

    /// Bytes of requests and answers on their way to and from it.
    pub(super) fn bytes_in_flight(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// How long it may be silent.
    pub(super) fn timeout(&self) -> Duration {
        self.0.config.owner_timeout
    }

    pub(super) fn answer_bytes_max(&self) -> usize {
        self.0.config.answer_bytes_max
    }

    /// Takes a place among the calls to it, with so many bytes.
    ///
    /// # Errors
    /// [`ForwardError::Busy`].
    pub(super) fn enter(&self, method: Method, bytes: usize) -> Result<InFlight, ForwardError> {
        let inner = &self.0;
        let before = inner.calls.fetch_add(1, Ordering::Relaxed);
        inner.metrics.in_flight.inc();
        let mut entered = InFlight { owner: self.clone(), method, bytes: 0 };
        if before >= inner.config.calls_max {
            inner.metrics.ended(method, Forwarded::Busy);
            let what = format!("{before} calls for node {} are", inner.name);
            return Err(ForwardError::Busy { what, setting: "limits.forward_calls" });
        }
        entered.grow(bytes)?;
        Ok(entered)
    }

    /// Sends a request with the caller's headers, and returns the head of its answer.
    ///
    /// # Errors
    /// [`ForwardError::Unavailable`].
    pub(super) async fn send(
        &self,
        method: Method,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, ForwardError> {
        let inner = &self.0;
        request.headers_mut().insert(MARKER, HeaderValue::clone(&inner.marker.load()));
        *request.uri_mut() = inner.uris.get(method as usize).cloned().unwrap_or_default();
        let link = &inner.links[seat() % inner.links.len()];
        let sent = inner.breaker.call(link.send(request)).await;
        sent.map_err(|error| self.failed(method, error)).inspect(|_| self.reached())
    }

    pub(super) fn reached(&self) {
        if self.0.lost.load(Ordering::Relaxed) && self.0.lost.swap(false, Ordering::Relaxed) {
            self.0.metrics.unreachable.dec();
            tracing::info!(node = self.0.name, "another node of the cluster is reachable again");
        }
    }

    /// One line for a change, however many calls find it.
    pub(super) fn is_lost(&self, reason: &str) {
        if !self.0.lost.swap(true, Ordering::Relaxed) {
            self.0.metrics.unreachable.inc();
            tracing::warn!(
                node = self.0.name,
                address = self.0.address,
                reason,
                "another node of the cluster is unreachable: its subjects are unavailable here"
            );
        }
    }

    fn failed(&self, method: Method, error: BreakerError<SendError>) -> ForwardError {
        self.0.metrics.ended(method, Forwarded::Unavailable);
        let (reason, unsent) = match error {
            BreakerError::Rejected => ("it did not answer, and is asked again soon".to_owned(), true),
            BreakerError::Inner(error) => {
                let reason = error.to_string();
                self.is_lost(&reason);
                (reason, error.unsent())
            }
        };
        ForwardError::Unavailable { reason, unsent, retry_after: BREAKER_OPEN }
    }

    /// What it answers is not what a node answers.
    pub(super) fn unfit(&self, method: Method, what: &str) -> ForwardError {
        self.0.metrics.ended(method, Forwarded::Unavailable);
        ForwardError::Unavailable { reason: what.to_owned(), unsent: false, retry_after: BREAKER_OPEN }
    }

    /// It was lost after its answer had begun.
    pub(super) fn lost_within(&self, method: Method, error: &hyper::Error) -> ForwardError {
        self.0.metrics.ended(method, Forwarded::Unavailable);
        let reason = format!("the connection was lost: {error}");
        ForwardError::Unavailable { reason, unsent: false, retry_after: BREAKER_OPEN }
    }

    /// It answered, and said that it cannot do what it was asked now.
    pub(super) fn gone(&self, reason: String, unsent: bool) -> ForwardError {
        ForwardError::Unavailable { reason, unsent, retry_after: BREAKER_OPEN }
    }

    /// A message of a stream found no room on its way for too long.
    pub(super) fn full(&self, method: Method) -> ForwardError {
        self.0.metrics.ended(method, Forwarded::Busy);
        let what = format!("{} bytes for node {} are", self.0.bytes.load(Ordering::Relaxed), self.0.name);
        ForwardError::Busy { what, setting: "limits.forward_bytes" }
    }

    pub(super) fn answered(&self, method: Method) {
        self.0.metrics.ended(method, Forwarded::Answered);
    }

    pub(super) fn took(&self, elapsed: Duration) {
        self.0.metrics.took(elapsed);
    }
}

/// A call on its way to an owner, with the bytes that are held for it. Its place is free when this is dropped.
#[derive(Debug)]
pub struct InFlight {
    owner: Owner,
    method: Method,
    bytes: usize,
}

impl InFlight {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// [`ForwardError::Busy`].
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), ForwardError> {
        let inner = &self.owner.0;
        let before = inner.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        // One call is always let through, however large.
        if before > 0 && before + bytes > inner.config.bytes_max {
            inner.metrics.ended(self.method, Forwarded::Busy);
            let what = format!("{before} bytes for node {} are", inner.name);
            return Err(ForwardError::Busy { what, setting: "limits.forward_bytes" });
        }
        Ok(())
    }

    /// Takes so many bytes more for a message of a stream; false if it must wait for others to be answered. Streams leave half
    /// of the bytes to calls, which are refused where a stream can wait.
    pub(super) fn try_grow(&mut self, bytes: usize) -> bool {
        let inner = &self.owner.0;
        let before = inner.bytes.fetch_add(bytes, Ordering::Relaxed);
        // One message is always let through, however large.
        if before > 0 && before + bytes > inner.config.bytes_max / 2 {
            inner.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Gives back so many of its bytes.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.owner.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let inner = &self.owner.0;
        inner.calls.fetch_sub(1, Ordering::Relaxed);
        inner.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        inner.metrics.in_flight.dec();
    }
}

fn uri(address: &str, path: &str) -> Uri {
    let uri = Uri::builder().scheme("http").authority(address).path_and_query(path).build();
    uri.expect("the layout has proven the address, and the path is a constant")
}

/// A number of this thread, the same for as long as it lives.
fn seat() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SEAT: Cell<Option<usize>> = const { Cell::new(None) };
    }
    SEAT.get().unwrap_or_else(|| {
        let seat = NEXT.fetch_add(1, Ordering::Relaxed);
        SEAT.set(Some(seat));
        seat
    })
}
