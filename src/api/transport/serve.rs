//! Serving connections until told to stop.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tower::Service;

use super::connections::{Accepted, Connection};
use super::socket::{self, Gathering};
use super::streams::{Drain, Streams, WithStreams};
use super::threads::Threads;

/// What the peer's HPACK table may hold, as RFC 7541 has it from the start.
const HEADER_TABLE_BYTES: u32 = 4096;

/// Limits of HTTP/2 on one connection, none of them left to a library.
#[derive(Debug, Clone)]
pub struct Http2 {
    /// Streams at a time.
    pub streams_max: u32,
    /// Flow-control window of the connection in bytes.
    pub connection_window_bytes: u32,
    /// Flow-control window of a stream in bytes.
    pub stream_window_bytes: u32,
    /// Largest header list in bytes.
    pub header_list_bytes: u32,
    /// Largest frame in bytes.
    pub frame_bytes: u32,
    /// Bytes of one stream that wait to be written.
    pub send_buffer_bytes: usize,
    /// Streams that were reset before they were accepted.
    pub pending_accept_reset_streams: usize,
    /// Streams that were reset for the peer's mistakes.
    pub local_error_reset_streams: usize,
    /// How often a silent connection is pinged.
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
}

impl Http2 {
    fn builder(&self, streams: Streams) -> http2::Builder<Streams> {
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams_max)
            .initial_connection_window_size(self.connection_window_bytes)
            .initial_stream_window_size(self.stream_window_bytes)
            // A window that grows by itself would not be a bound.
            .adaptive_window(false)
            .max_header_list_size(self.header_list_bytes)
            .header_table_size(HEADER_TABLE_BYTES)
            .max_frame_size(self.frame_bytes)
            .max_send_buf_size(self.send_buffer_bytes)
            .max_pending_accept_reset_streams(self.pending_accept_reset_streams)
            .max_local_error_reset_streams(self.local_error_reset_streams)
            .keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            // gRPC asks for none, and it costs each answer 37 bytes.
            .auto_date_header(false);
        builder
    }
}

/// How long connections may take to end once all their calls are answered and their streams ended: to read what was sent
/// and close. One that does not even answer a ping must not use up the grace of the whole stop.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Serves `service` on every connection until `stop`; then accepts no further one, lets the calls there are end, and
/// returns when all connections have, after [`CLOSE_MAX`] at most.
pub async fn serve<S>(
    http2: &Http2,
    threads: &Threads,
    incoming: impl Stream<Item = Accepted>,
    service: S,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let draining = CancellationToken::new();
    let mut open = JoinSet::new();
    {
        // Dropped before the drain, so that who comes late is refused instead of waiting.
        let (mut incoming, mut stop) = (pin!(incoming), pin!(stop.cancelled()));
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(ended) = open.join_next(), if !open.is_empty() => report(ended),
                Some(accepted) = incoming.next() => {
                    let seat = threads.seat();
                    let handle = seat.handle.clone();
                    match accepted.take(seat) {
                        Ok(connection) => {
                            let drain = draining.clone().cancelled_owned();
                            open.spawn_on(serve_connection(http2, connection, service.clone(), drain), &handle);
                        }
                        Err(error) => tracing::warn!(%error, "a connection is closed: it cannot be served"),
                    }
                }
            }
        }
    }
    draining.cancel();
    let all_ended = async {
        while let Some(ended) = open.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(CLOSE_MAX, all_ended).await.is_err() {
        tracing::info!(connections = open.len(), "connections that do not end are closed");
        open.shutdown().await;
    }
}

/// A connection that breaks is its peer's business; a panic in one of its calls is ours.
fn report(ended: Result<Result<(), hyper::Error>, JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
        Err(error) => tracing::error!(%error, "the task of a connection ended"),
    }
}

fn serve_connection<S>(
    http2: &Http2,
    connection: Connection,
    service: S,
    drain: WaitForCancellationFutureOwned,
) -> impl Future<Output = Result<(), hyper::Error>> + Send + use<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (gathering, sending) = socket::split(connection, http2.keepalive_interval + http2.keepalive_timeout);
    let streams = Streams::default();
    let serving = http2.builder(streams.clone()).serve_connection(TokioIo::new(gathering), Handler(service));
    WithStreams::new(serving, sending, streams, drain)
}

impl<S> Drain for http2::Connection<TokioIo<Gathering<Connection>>, Handler<S>, Streams>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// The service as hyper calls it.
#[derive(Debug)]
struct Handler<S>(S);

impl<S> hyper::service::Service<Request<Incoming>> for Handler<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // The routes are always ready, and a clone is one more reference to them.
        self.0.clone().call(request)
    }
}
