//! One connection with all its streams, as one future.
//!
//! hyper hands every stream to an executor. The usual one makes a task of each: a message for 64 subscribers on
//! eight connections wakes 64 tasks, and the connections' own tasks run, and write, between them. Here the streams
//! stay with their connection: what is ready is polled, then the connection writes all of it at once. Figures:
//! `docs/decisions/0005-one-task-a-connection.md`.
//!
//! The price is that one connection never uses more than one core. HTTP/2 itself already runs in one task a
//! connection, and a call costs the broker little beside it: everything that blocks has threads of its own.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, Stream};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::task::coop::unconstrained;

use super::socket::Sending;

/// Polls of streams in one turn of the task, at some microseconds each.
const POLLS_A_TURN: usize = 512;
/// What a turn may take, and is over before another stream is polled: large bodies take much longer than small ones, and
/// the other connections of the same core wait meanwhile.
const TURN_MAX: Duration = Duration::from_millis(1);

type Work = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// What came to its end.
enum Ended {
    Stream,
    /// The wait for the word to drain.
    Wait,
}

/// The executor that hyper gives the streams of one connection to. A clone is the same.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Begun>);

#[derive(Default)]
struct Begun {
    streams: Mutex<Vec<Work>>,
    /// How often streams were polled.
    polls: AtomicUsize,
    /// When this turn is over.
    turn_ends: Mutex<Option<Instant>>,
}

impl Begun {
    fn turn_is_over(&self) -> bool {
        self.turn_ends.lock().is_some_and(|ends| Instant::now() >= ends)
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let begun = Arc::clone(&self.0);
        self.0.streams.lock().push(Box::pin(async move {
            // The turn is bounded by its own count. tokio's budget of a task, shared by all streams and the socket, would
            // be used up by 128 answers: the rest would be polled in vain, and nothing be sent.
            let mut stream = pin!(unconstrained(stream));
            poll_fn(|context| {
                if begun.turn_is_over() {
                    // Two that do so end the turn.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                begun.polls.fetch_add(1, Ordering::Relaxed);
                stream.as_mut().poll(context)
            })
            .await;
            Ended::Stream
        }));
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// A connection that can be asked to take no further streams.
pub(super) trait Drain: Future {
    /// Lets the streams that there are end, and the connection then.
    fn drain(self: Pin<&mut Self>);
}

/// A connection together with its streams. Ends with the connection; streams that are left then are dropped, which
/// is how a call learns that its caller has gone.
pub(super) struct WithStreams<C, T> {
    connection: Pin<Box<C>>,
    socket: Sending<T>,
    begun: Streams,
    /// The wait for the drain is one of them, so that it is polled when it is over and not with every message.
    running: FuturesUnordered<Work>,
    /// Whether the turn before left the writing to this one.
    put_off: bool,
}

impl<C: Drain, T: AsyncWrite + Unpin> WithStreams<C, T> {
    /// `socket` and `begun` are the sending half and the executor of what `connection` was made with; when `drain` is
    /// done it is drained, and lingers once it has ended: whoever drains must bound how long that takes.
    pub fn new(
        connection: C,
        socket: Sending<T>,
        begun: Streams,
        drain: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let wait: Work = Box::pin(async move {
            drain.await;
            Ended::Wait
        });
        Self {
            connection: Box::pin(connection),
            socket,
            begun,
            running: FuturesUnordered::from_iter([wait]),
            put_off: false,
        }
    }

    fn polls(&self) -> usize {
        self.begun.0.polls.load(Ordering::Relaxed)
    }

    /// Polls what is ready of the streams, new ones too. Whether there was any.
    fn poll_streams(&mut self, context: &mut Context<'_>) -> bool {
        let begun = std::mem::take(&mut *self.begun.0.streams.lock());
        self.running.extend(begun);
        *self.begun.0.turn_ends.lock() = Some(Instant::now() + TURN_MAX);
        let first = self.polls();
        let mut before = first;
        while before - first < POLLS_A_TURN {
            match Pin::new(&mut self.running).poll_next(context) {
                Poll::Ready(Some(Ended::Stream)) => {}
                Poll::Ready(Some(Ended::Wait)) => {
                    self.connection.as_mut().drain();
                    self.socket.linger();
                    // A drain does not wake the connection, which has to say it to the peer.
                    context.waker().wake_by_ref();
                }
                Poll::Ready(None) => return before > first,
                // Also after two streams that woke themselves, as those do that send: more may be ready.
                Poll::Pending if self.polls() == before => return before > first,
                Poll::Pending => {}
            }
            before = self.polls();
        }
        // There may be more: after the others had their turn.
        context.waker().wake_by_ref();
        true
    }
}

impl<C, T> Drop for WithStreams<C, T> {
    /// A stream holds the executor, and until it runs the executor holds the stream: without this, what began in the
    /// turn in which its connection ended would stay for ever.
    fn drop(&mut self) {
        drop(std::mem::take(&mut *self.begun.0.streams.lock()));
    }
}

impl<C: Drain, T: AsyncWrite + Unpin> Future for WithStreams<C, T> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        let ran = this.poll_streams(context);
        // Who wakes one stream of a connection is about to wake others: one turn of everybody else later they are
        // ready too, and leave in the same write.
        if ran && !this.put_off {
            this.put_off = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.put_off = false;
        let ended = this.connection.as_mut().poll(context);
        // Also what a connection wrote as its last.
        this.socket.poll_send(context);
        if ended.is_pending() {
            this.poll_streams(context);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use hyper::rt::Executor as _;
    use tokio::io::DuplexStream;
    use tokio::sync::oneshot;

    use super::*;
    use crate::api::transport::socket;

    /// Ends when it is told to, or once it is drained.
    struct Fake {
        end: oneshot::Receiver<()>,
        drained: bool,
        /// Begins a stream, which holds this, in the turn in which it ends.
        last: Option<(Streams, oneshot::Sender<()>)>,
    }

    impl Future for Fake {
        type Output = &'static str;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<&'static str> {
            if self.drained {
                return Poll::Ready("drained");
            }
            if let Some((streams, held)) = self.last.take() {
                streams.execute(async move {
                    std::future::pending::<()>().await;
                    drop(held);
                });
                return Poll::Ready("ended at once");
            }
            Pin::new(&mut self.end).poll(context).map(|_| "ended")
        }
    }

    impl Drain for Fake {
        fn drain(mut self: Pin<&mut Self>) {
            self.drained = true;
        }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Rig {
        all: WithStreams<Fake, DuplexStream>,
        streams: Streams,
        end: oneshot::Sender<()>,
        drain: oneshot::Sender<()>,
    }

    fn rig() -> Rig {
        let (end, ended) = oneshot::channel();
        let (drain, drained) = oneshot::channel();
        let (_, sending) = socket::split(tokio::io::duplex(64).0, PATIENCE);
        let streams = Streams::default();
        let fake = Fake { end: ended, drained: false, last: None };
        let all = WithStreams::new(fake, sending, streams.clone(), drained.map(drop));
        Rig { all, streams, end, drain }
    }

    #[tokio::test]
    async fn streams_run_in_the_task_of_their_connection_however_many_end_at_once() {
        let Rig { all, streams, end, drain: _drain } = rig();
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 * POLLS_A_TURN {
            let done = Arc::clone(&done);
            streams.execute(async move {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        #[expect(clippy::disallowed_methods, reason = "the test joins it")]
        let running = tokio::spawn(all);
        while done.load(Ordering::Relaxed) < 10 * POLLS_A_TURN {
            tokio::task::yield_now().await;
        }
        end.send(()).expect("it is running");
        assert_eq!(running.await.expect("no panic"), "ended");
    }

    #[tokio::test]
    async fn a_stream_that_its_connection_leaves_is_dropped() {
        let Rig { all, streams, end, drain: _drain } = rig();
        let (held, mut released) = oneshot::channel::<()>();
        streams.execute(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        let mut all = Box::pin(all);
        assert!(all.as_mut().now_or_never().is_none());
        assert!(released.try_recv().is_err());
        end.send(()).expect("it is running");
        assert_eq!(all.await, "ended");
        assert!(released.await.is_err(), "its sender is gone");
    }

    #[tokio::test]
    async fn a_stream_that_begins_in_the_last_turn_of_its_connection_is_dropped() {
        let (held, released) = oneshot::channel();
        let (_end, ended) = oneshot::channel();
        let streams = Streams::default();
        let fake = Fake { end: ended, drained: false, last: Some((streams.clone(), held)) };
        let (_, sending) = socket::split(tokio::io::duplex(64).0, PATIENCE);
        let all = WithStreams::new(fake, sending, streams, std::future::pending());
        assert_eq!(Box::pin(all).await, "ended at once");
        assert!(released.now_or_never().is_some_and(|released| released.is_err()), "its sender is gone");
    }

    #[tokio::test]
    async fn many_answers_at_once_cost_each_stream_a_poll_and_not_more() {
        let Rig { all, streams, end, drain: _drain } = rig();
        let (answers, streams_done): (Vec<_>, Vec<_>) = (0..10_000).map(|_| oneshot::channel::<()>()).unzip();
        for done in streams_done {
            streams.execute(done.map(drop));
        }
        let mut all = Box::pin(all);
        while streams.0.polls.load(Ordering::Relaxed) < 10_000 {
            assert!(all.as_mut().now_or_never().is_none());
        }
        answers.into_iter().for_each(|answer| answer.send(()).expect("it waits"));
        #[expect(clippy::disallowed_methods, reason = "the test joins it")]
        let running = tokio::spawn(all);
        while streams.0.polls.load(Ordering::Relaxed) < 20_000 {
            tokio::task::yield_now().await;
        }
        end.send(()).expect("it is running");
        assert_eq!(running.await.expect("no panic"), "ended");
        assert_eq!(streams.0.polls.load(Ordering::Relaxed), 20_000);
    }

    #[tokio::test]
    async fn the_word_to_drain_reaches_the_connection() {
        let Rig { all, streams: _streams, end: _end, drain } = rig();
        let mut all = Box::pin(all);
        assert!(all.as_mut().now_or_never().is_none());
        drain.send(()).expect("it is waited for");
        assert_eq!(all.await, "drained");
    }
}
