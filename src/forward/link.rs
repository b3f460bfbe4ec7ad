//! One connection to another node.
//!
//! Every caller that finds none waits for the same attempt and gets its end: a queue of attempts, as pools of connections
//! have it, would let the hundredth caller of a node that does not answer wait a hundred times as long as the first.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tonic::body::Body;

use crate::telemetry::metrics::IntGauge;

/// What one stream may receive before it is read, and what a slow reader of one costs.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// No bound of its own: each stream has one, and a bound of all would let slow readers of some streams hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Bytes of one stream that wait for the socket.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Largest frame, as the server has it.
const FRAME_BYTES: u32 = 16 * 1024;

/// Largest header list of an answer: statuses with details.
const HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Streams that may begin before the owner said how many it takes.
const INITIAL_STREAMS_MAX: usize = 1_024;

/// Streams that were reset here and are remembered for a while: calls whose callers gave up.
const RESET_STREAMS_MAX: usize = 1_024;

type Sender = SendRequest<Body>;

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ConnectError {
    /// The system says why.
    #[error("cannot connect: {0}")]
    Connect(Arc<std::io::Error>),
    /// Nobody answered in time.
    #[error("cannot connect: no answer within {0:?}")]
    TimedOut(Duration),
    /// It speaks no HTTP/2.
    #[error("cannot speak HTTP/2: {0}")]
    Handshake(Arc<hyper::Error>),
}

type Attempt = Shared<BoxFuture<'static, Result<Sender, ConnectError>>>;

/// A connection, made when it is asked for.
#[derive(Debug)]
pub(super) struct Link {
    target: Target,
    attempt: Mutex<Option<Attempt>>,
}

/// Where a link leads.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// `HOST:PORT`. Names are looked up with each attempt: pods change their addresses.
    pub address: Arc<str>,
    /// How long an attempt may take.
    pub connect_timeout: Duration,
    /// How often a connection with calls is pinged.
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
    /// Counts the connections.
    pub connections: IntGauge,
}

/// A connection that is counted while it is open.
struct Counted(IntGauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Link {
    pub fn new(target: Target) -> Self {
        Self { target, attempt: Mutex::new(None) }
    }

    /// The connection that is open, or the one attempt to make one.
    async fn sender(&self) -> Result<Sender, ConnectError> {
        let attempt = {
            let mut attempt = self.attempt.lock();
            let usable = |attempt: &Attempt| match attempt.peek() {
                None => true,
                Some(Ok(sender)) => !sender.is_closed(),
                Some(Err(_)) => false,
            };
            match &*attempt {
                Some(found) if usable(found) => found.clone(),
                _ => attempt.insert(connect(self.target.clone()).boxed().shared()).clone(),
            }
        };
        attempt.await
    }

    /// Sends a request over the connection.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let mut sender = self.sender().await.map_err(SendError::Connect)?;
        sender.send_request(request).await.map_err(SendError::Lost)
    }
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// It was never sent.
    #[error(transparent)]
    Connect(ConnectError),
    /// The connection ended.
    #[error("the connection was lost: {0}")]
    Lost(hyper::Error),
}

impl SendError {
    /// Whether the owner never saw the request.
    pub fn unsent(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Lost(error) => error.is_canceled(),
        }
    }
}

async fn connect(target: Target) -> Result<Sender, ConnectError> {
    let stream = tokio::time::timeout(target.connect_timeout, TcpStream::connect(&*target.address)).await;
    let stream = stream.map_err(|_elapsed| ConnectError::TimedOut(target.connect_timeout))?;
    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    let stream = stream.map_err(|error| ConnectError::Connect(Arc::new(error)))?;
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .adaptive_window(false)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_max_send_streams(INITIAL_STREAMS_MAX)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .keep_alive_interval(target.keepalive_interval)
        .keep_alive_timeout(target.keepalive_timeout)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(|error| ConnectError::Handshake(Arc::new(error)))?;
    target.connections.inc();
    let counted = Counted(target.connections);
    #[expect(clippy::disallowed_methods, reason = "it ends with its last sender; the thread of connections owns it")]
    let running = tokio::spawn(async move {
        let _counted = counted;
        // Who waits for an answer is told the same.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to another node ended");
        }
    });
    drop(running);
    Ok(sender)
}
