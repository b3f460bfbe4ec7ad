//! One subscriber's stream: from its own stream at the owner, or from the feed of its subject.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::feed::{Found, Seat};
use super::upstream::{Opened, Upstream};
use super::{Counted, End};
use crate::delivery::Taken;
use crate::event::{EncodedMessage, MessageId, Subject};
use crate::forward::{ForwardError, Owner};

/// Messages and bytes that are taken from the ring at once, as delivery does.
const CHUNK_MESSAGES: usize = 64;
const CHUNK_BYTES: usize = 32 * 1024;

/// How near to a feed a subscriber lets its ring keep messages for it, as delivery does.
const NEAR_IDS: u32 = 1_024;

/// Every message of another node's subject from a point on, in id order, each once.
pub struct ForwardedSubscription {
    counted: Counted,
    owner: Owner,
    subject: Subject,
    /// Ids up to here were handed out, or are not for this subscriber.
    settled: u32,
    /// The last id that the owner had when it was asked last. Above it every id is owed.
    known: u32,
    mode: Mode,
    /// Taken, and not yet asked for.
    chunk: VecDeque<EncodedMessage>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

enum Mode {
    /// From a stream of its own.
    Own(Own),
    /// From the feed of the subject.
    Shared(Seat),
    /// A stream of its own is asked for.
    Opening(BoxFuture<'static, Result<Opened, ForwardError>>),
    Ended,
}

struct Own {
    upstream: Box<Upstream>,
    held: Option<Held>,
}

/// A seat at a feed that is ahead.
struct Held {
    seat: Seat,
    through: u32,
}

impl fmt::Debug for ForwardedSubscription {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ForwardedSubscription").field("settled", &self.settled).finish_non_exhaustive()
    }
}

type Item = Result<EncodedMessage, End>;

impl ForwardedSubscription {
    pub(super) fn new(
        counted: Counted,
        owner: Owner,
        subject: Subject,
        upstream: Upstream,
        settled: u32,
        known: u32,
    ) -> Self {
        let closing = Box::pin(counted.0.closing.clone().cancelled_owned());
        let mode = Mode::Own(Own { upstream: Box::new(upstream), held: None });
        let mut subscription = Self { counted, owner, subject, settled, known, mode, chunk: VecDeque::new(), closing };
        subscription.go_over();
        subscription
    }

    /// Name of the node that owns the subject.
    pub fn owner(&self) -> &str {
        self.owner.name()
    }

    /// Goes over to the feed of the subject, or becomes it, if that fits what was settled.
    fn go_over(&mut self) {
        let Mode::Own(own) = &mut self.mode else { return };
        if own.held.is_none() {
            match self.counted.0.find(&self.subject, self.settled, NEAR_IDS) {
                Found::Seat { seat, through } => own.held = Some(Held { seat, through }),
                Found::Nothing if self.settled >= self.known => return self.become_feed(),
                Found::Far | Found::Nothing => return,
            }
        }
        let Some(held) = own.held.take_if(|held| self.settled >= held.through) else { return };
        // A place that was lost meanwhile is given back; the next message finds another one.
        if held.seat.go_live(self.settled) {
            self.mode = Mode::Shared(held.seat);
        }
    }

    fn become_feed(&mut self) {
        let Mode::Own(own) = std::mem::replace(&mut self.mode, Mode::Ended) else { return };
        self.mode = match self.counted.0.promote(&self.subject, self.settled, own.upstream) {
            Ok(seat) => Mode::Shared(seat),
            // Another one was faster; the next message finds its feed.
            Err(upstream) => Mode::Own(Own { upstream, held: None }),
        };
    }

    /// Takes a message of its own stream.
    fn take(&mut self, id: MessageId, message: EncodedMessage) -> Result<(), End> {
        let id = id.get();
        if id <= self.settled || (self.settled >= self.known && id != self.settled + 1) {
            return Err(End::Contradiction(format!("the owner sent message {id} after {}", self.settled)));
        }
        self.settled = id;
        self.chunk.push_back(message);
        self.go_over();
        Ok(())
    }

    fn poll_own(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Mode::Own(own) = &mut self.mode else { return Poll::Ready(Ok(())) };
        match Pin::new(&mut *own.upstream).poll_next(context) {
            Poll::Ready(Some(Ok((id, message)))) => Poll::Ready(self.take(id, message)),
            Poll::Ready(Some(Err(end))) => Poll::Ready(Err(end)),
            Poll::Ready(None) => Poll::Ready(Err(End::Lost("the stream of the subject ended".to_owned()))),
            Poll::Pending => self.poll_closing(context),
        }
    }

    fn poll_shared(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Mode::Shared(seat) = &mut self.mode else { return Poll::Ready(Ok(())) };
        match seat.take(CHUNK_MESSAGES, CHUNK_BYTES, context.waker(), &mut self.chunk) {
            Taken::Some => Poll::Ready(Ok(())),
            Taken::Lagged(settled) => {
                self.settled = settled;
                self.counted.0.metrics.fallbacks.inc();
                let (owner, subject) = (self.owner.clone(), self.subject.clone());
                self.mode = Mode::Opening(async move { Upstream::again(&owner, &subject, settled).await }.boxed());
                Poll::Ready(Ok(()))
            }
            Taken::Missing { settled, found } => {
                Poll::Ready(Err(End::Contradiction(format!("message {found} was to be delivered after {settled}"))))
            }
            // Asked after the waker was left: an end that is not seen here wakes it.
            Taken::Nothing => match seat.end().cloned() {
                Some(end) => Poll::Ready(Err(end)),
                None => self.poll_closing(context),
            },
        }
    }

    fn poll_opening(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Mode::Opening(opening) = &mut self.mode else { return Poll::Ready(Ok(())) };
        let Poll::Ready(opened) = opening.poll_unpin(context) else { return self.poll_closing(context) };
        let (upstream, known) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return Poll::Ready(Err(End::Owner(status))),
            Err(error) => return Poll::Ready(Err(End::Lost(error.to_string()))),
        };
        // Everything above `settled` is owed, so its ids are dense.
        self.known = self.settled.min(known);
        self.mode = Mode::Own(Own { upstream: Box::new(upstream), held: None });
        Poll::Ready(Ok(()))
    }

    fn poll_closing(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.closing.as_mut().poll(context).map(|()| Err(End::ShuttingDown))
    }
}

impl Stream for ForwardedSubscription {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = &mut *self;
        loop {
            if let Some(message) = this.chunk.pop_front() {
                this.counted.0.metrics.deliveries.inc();
                return Poll::Ready(Some(Ok(message)));
            }
            let progress = match this.mode {
                Mode::Own(_) => this.poll_own(context),
                Mode::Shared(_) => this.poll_shared(context),
                Mode::Opening(_) => this.poll_opening(context),
                Mode::Ended => return Poll::Ready(None),
            };
            if let Err(end) = ready!(progress) {
                if let End::Contradiction(error) = &end {
                    tracing::error!(error, node = this.owner.name(), "a subscription at another node cannot go on");
                }
                this.mode = Mode::Ended;
                return Poll::Ready(Some(Err(end)));
            }
        }
    }
}
