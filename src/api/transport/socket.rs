//! The socket of a connection, written to once a turn.
//!
//! h2 flushes after every DATA frame of 256 bytes or more, which is a system call, and over the loopback a packet,
//! for each message of each subscriber. So what h2 writes and flushes is gathered here, and the task that runs the
//! connection sends it when all its streams had their turn. Copying 16 KiB takes a microsecond, a send several.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes that are gathered before they are sent within a turn: what a connection whose peer does not read holds here,
/// beside the buffers of the kernel.
const GATHERED_BYTES: usize = 64 * 1024;

/// Bytes that are read at once of what nobody wants any more.
const DISCARDED_BYTES: usize = 4 * 1024;

thread_local! {
    // Almost every turn ends with everything sent, so one buffer a thread serves all connections; only a
    // connection that could not send everything keeps one of its own.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The socket and what waits to be sent.
#[derive(Debug)]
struct Socket<T> {
    stream: T,
    gathered: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
    /// Why sending failed; told to whoever uses the socket next.
    failed: Option<io::ErrorKind>,
    /// How long the peer may take nothing of what waits.
    stalled_max: Duration,
    /// Runs while it takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether it stays open after the last byte until the peer has closed its side.
    lingers: bool,
    /// Whether the peer was told that nothing more comes.
    told: bool,
}

/// The connection's half: reads at once, gathers writes.
#[derive(Debug)]
pub(super) struct Gathering<T>(Arc<Mutex<Socket<T>>>);

/// The half of the task that runs the connection: sends. The two are used by one task, so the lock is never waited for.
#[derive(Debug)]
pub(super) struct Sending<T>(Arc<Mutex<Socket<T>>>);

/// Both halves of a socket, which fails when its peer takes nothing for `stalled_max`: the pings of HTTP/2 wait behind
/// what it does not read, so they alone would not find it out.
pub(super) fn split<T>(stream: T, stalled_max: Duration) -> (Gathering<T>, Sending<T>) {
    let socket = Socket {
        stream,
        gathered: Vec::new(),
        sent: 0,
        failed: None,
        stalled_max,
        stalled: None,
        lingers: false,
        told: false,
    };
    let socket = Arc::new(Mutex::new(socket));
    (Gathering(Arc::clone(&socket)), Sending(socket))
}

impl<T: AsyncWrite + Unpin> Sending<T> {
    /// Sends what was gathered; pending while the peer has no room. A failure reaches the connection at its next
    /// use, so it is woken for that.
    pub fn poll_send(&self, context: &mut Context<'_>) {
        let mut socket = self.0.lock();
        if let Poll::Ready(Err(error)) = socket.poll_send(context) {
            socket.failed = Some(error.kind());
            context.waker().wake_by_ref();
        }
    }

    /// From now on the end of the connection is not the end of the socket: it is open until its peer has closed it. Closed with
    /// something unread, the system resets it, and a peer that was still sending may lose the answers that it has not read.
    /// Whoever asks for it must bound how long that takes.
    pub fn linger(&self) {
        self.0.lock().lingers = true;
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Socket<T> {
    /// Ready when the peer has closed its side, or is gone. What it still sends is of a connection that has ended.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut unread = [0; DISCARDED_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut unread);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> Socket<T> {
    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let Poll::Ready(sent) = Pin::new(&mut self.stream).poll_write(context, &self.gathered[self.sent..])? else {
                return self.poll_stalled(context);
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.stalled = None;
            self.sent += sent;
        }
        self.sent = 0;
        if self.gathered.capacity() > 0 {
            self.gathered.clear();
            SPARE.set(std::mem::take(&mut self.gathered));
        }
        Poll::Ready(Ok(()))
    }

    /// Ready, with the failure, when the peer has taken nothing for too long.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (stalled, stalled_max) = (&mut self.stalled, self.stalled_max);
        let sleep = stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stalled_max)));
        sleep.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Bytes that may be written: some at once, or when the peer has taken something.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.gathered.len() - self.sent >= GATHERED_BYTES {
            let sent = self.poll_send(context)?;
            if sent.is_pending() && self.gathered.len() - self.sent >= GATHERED_BYTES {
                return Poll::Pending;
            }
        }
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.take();
        } else if self.sent > 0 {
            self.gathered.drain(..self.sent);
            self.sent = 0;
        }
        Poll::Ready(Ok(GATHERED_BYTES - self.gathered.len()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathering<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut socket = self.0.lock();
        socket.check()?;
        Pin::new(&mut socket.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathering<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = self.0.lock();
        let taken = ready!(socket.poll_room(context))?.min(bytes.len());
        socket.gathered.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut socket = self.0.lock();
        let room = ready!(socket.poll_room(context))?;
        let mut left = room;
        for slice in slices {
            let taken = left.min(slice.len());
            socket.gathered.extend_from_slice(&slice[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(room - left))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: the task sends at the end of its turn.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = self.0.lock();
        socket.check()?;
        ready!(socket.poll_send(context))?;
        if !socket.told {
            ready!(Pin::new(&mut socket.stream).poll_shutdown(context))?;
            socket.told = true;
        }
        if socket.lingers {
            ready!(socket.poll_closed(context));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn send(sending: &Sending<DuplexStream>) {
        poll_fn(|context| {
            sending.poll_send(context);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_written_and_flushed_goes_out_at_the_end_of_the_turn_and_in_order() {
        let (ours, mut peer) = duplex(1024);
        let (mut gathering, sending) = split(ours, PATIENCE);
        gathering.write_all(b"one ").await.expect("gathered");
        gathering.flush().await.expect("nothing to wait for");
        gathering.write_all(b"two").await.expect("gathered");
        let mut read = [0; 7];
        assert!(peer.read_exact(&mut read).now_or_never().is_none(), "nothing is sent within the turn");
        send(&sending).await;
        peer.read_exact(&mut read).await.expect("sent");
        assert_eq!(&read, b"one two");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_stops_the_writes_at_the_bound_and_loses_nothing() {
        let (ours, mut peer) = duplex(1000);
        let (mut gathering, sending) = split(ours, PATIENCE);
        let mut written = 0_usize;
        // Numbered, so that a repeat or a gap would show.
        while gathering.write_all(&[(written / 100) as u8; 100]).now_or_never().is_some() {
            written += 100;
            send(&sending).await;
        }
        // The last one was taken in part.
        let held = GATHERED_BYTES + 1000;
        assert_eq!(written, held - held % 100);
        let mut read = Vec::new();
        while read.len() < held {
            peer.read_buf(&mut read).await.expect("open");
            send(&sending).await;
        }
        assert!(read.iter().enumerate().all(|(at, byte)| *byte == (at / 100) as u8));
        gathering.write_all(b"goes on").now_or_never().expect("there is room again").expect("gathered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_for_too_long_is_given_up_and_one_that_takes_little_is_not() {
        let (ours, mut peer) = duplex(1000);
        let (mut gathering, sending) = split(ours, PATIENCE);
        gathering.write_all(&[1; 5_000]).await.expect("gathered");
        for _ in 0..3 {
            send(&sending).await;
            tokio::time::advance(PATIENCE * 2 / 3).await;
            peer.read_exact(&mut [0; 1000]).await.expect("sent");
            send(&sending).await;
        }
        gathering.flush().await.expect("it goes on");
        gathering.write_all(&[1; 5_000]).await.expect("gathered");
        send(&sending).await;
        tokio::time::advance(PATIENCE * 2).await;
        send(&sending).await;
        assert_eq!(gathering.flush().await.expect_err("told").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_failed_send_reaches_the_connection_and_a_shutdown_sends_what_is_left() {
        let (ours, peer) = duplex(1000);
        let (mut gathering, sending) = split(ours, PATIENCE);
        drop(peer);
        gathering.write_all(b"x").await.expect("gathered");
        send(&sending).await;
        assert_eq!(gathering.flush().await.expect_err("told").kind(), io::ErrorKind::BrokenPipe);
        assert!(gathering.write_all(b"y").await.is_err());
        assert!(gathering.read_u8().await.is_err());

        let (ours, mut peer) = duplex(1000);
        let (mut gathering, _sending) = split(ours, PATIENCE);
        gathering.write_all(b"goodbye").await.expect("gathered");
        gathering.shutdown().await.expect("sent");
        let mut read = String::new();
        peer.read_to_string(&mut read).await.expect("ended");
        assert_eq!(read, "goodbye");
    }

    #[tokio::test]
    async fn a_socket_that_lingers_is_open_until_its_peer_has_closed_it() {
        let (ours, mut peer) = duplex(1000);
        let (mut gathering, sending) = split(ours, PATIENCE);
        sending.linger();
        gathering.write_all(b"goodbye").await.expect("gathered");
        assert!(gathering.shutdown().now_or_never().is_none(), "the peer has not read it yet");
        // More than there is room for, so that it is read.
        for _ in 0..10 {
            peer.write_all(&[1; 1000]).await.expect("still open");
            assert!(gathering.shutdown().now_or_never().is_none(), "the peer goes on sending");
        }
        let mut read = String::new();
        peer.read_to_string(&mut read).await.expect("ended");
        assert_eq!(read, "goodbye");
        drop(peer);
        gathering.shutdown().await.expect("closed");
    }
}
