//! Accepting connections: a bound on how many, and a time in which each must begin to speak HTTP/2.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::threads::Seat;
use crate::telemetry::metrics::{ApiMetrics, Refusal};

/// The length of HTTP/2's connection preface (RFC 9113, 3.4): who has sent it speaks HTTP/2.
const PREFACE_BYTES: usize = 24;

/// How long accepting pauses after an error such as "too many open files", which passes when a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are accepted.
#[derive(Debug)]
pub struct Connections {
    /// The bound socket.
    pub listener: TcpListener,
    /// Connections at once; further ones are closed.
    pub connections_max: usize,
    /// A connection that has not sent its preface by then is closed.
    pub handshake_timeout: Duration,
    /// Connections now, and those refused.
    pub metrics: ApiMetrics,
}

struct Accepting {
    connections: Connections,
    permits: Arc<Semaphore>,
    failing: bool,
}

impl Connections {
    /// The connections as they come. Never ends: an error to accept is waited out.
    pub fn accept(self) -> impl Stream<Item = Accepted> {
        let permits = Arc::new(Semaphore::new(self.connections_max.min(Semaphore::MAX_PERMITS)));
        stream::unfold(Accepting { connections: self, permits, failing: false }, |mut accepting| async move {
            let connection = accepting.next().await;
            Some((connection, accepting))
        })
    }
}

impl Accepting {
    async fn next(&mut self) -> Accepted {
        loop {
            match self.connections.listener.accept().await {
                Ok((stream, _peer)) => {
                    self.failing = false;
                    let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                        // Closed, so that the client learns it now; in the backlog it would wait for ever.
                        self.connections.metrics.refused(Refusal::Limit);
                        continue;
                    };
                    if let Err(error) = stream.set_nodelay(true) {
                        // The peer is gone already; reading will say so.
                        tracing::debug!(%error, "set TCP_NODELAY");
                    }
                    return Accepted::new(stream, permit, &self.connections);
                }
                Err(error) => {
                    if !self.failing {
                        tracing::warn!(%error, "accept a connection; trying again until it works");
                    }
                    self.failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// A TCP connection that has no thread yet.
#[derive(Debug)]
pub struct Accepted {
    stream: TcpStream,
    handshake_timeout: Duration,
    counted: Counted,
}

/// A connection that counts.
#[derive(Debug)]
struct Counted {
    metrics: ApiMetrics,
    _permit: OwnedSemaphorePermit,
}

/// A TCP connection that must begin in time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Until the preface was read: bytes so far, and until when.
    handshake: Option<(usize, Pin<Box<Sleep>>)>,
    counted: Counted,
    _seat: Seat,
}

impl Accepted {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, connections: &Connections) -> Self {
        connections.metrics.connections.inc();
        let counted = Counted { metrics: connections.metrics.clone(), _permit: permit };
        Self { stream, handshake_timeout: connections.handshake_timeout, counted }
    }

    /// Moves the connection to a thread.
    ///
    /// # Errors
    /// What the system says when it does not watch the socket there; the connection is closed.
    pub(super) fn take(self, seat: Seat) -> io::Result<Connection> {
        let Self { stream, handshake_timeout, counted } = self;
        let stream = stream.into_std()?;
        let _there = seat.handle.enter();
        let stream = TcpStream::from_std(stream)?;
        let deadline = Box::pin(tokio::time::sleep(handshake_timeout));
        Ok(Connection { stream, handshake: Some((0, deadline)), counted, _seat: seat })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if let Some((bytes, deadline)) = &mut this.handshake {
            *bytes += buffer.filled().len() - before;
            if *bytes >= PREFACE_BYTES {
                this.handshake = None;
            } else if read.is_pending() && deadline.as_mut().poll(context).is_ready() {
                this.counted.metrics.refused(Refusal::Handshake);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface in time")));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
