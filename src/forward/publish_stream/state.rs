//! What the two ends of an [`super::Upstream`] share: the stream of its client, and the task that reads the owner's answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::BytesMut;
use parking_lot::Mutex;
use prost::Message;
use tokio::task::AbortHandle;

use super::{Outcome, Sent, StreamEnd};
use crate::forward::framing::put_framed;
use crate::forward::owner::InFlight;

/// Room that is made at once for messages to an owner: some tens of small ones.
const OUTBOUND_BYTES: usize = 8 * 1024;

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub state: Mutex<State>,
}

/// Its bounds are those of the client's stream, which sends no more than it may have unanswered, and those of the owner.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The stream that is open, with the bytes of what it has not answered.
    pub call: Option<InFlight>,
    /// How many streams have ended.
    pub generation: u64,
    /// Messages that are not sent yet, each with its prefix.
    pub outbound: BytesMut,
    /// Messages without an answer, each with its bytes.
    unanswered: VecDeque<(Sent, usize)>,
    pub answers: VecDeque<(Sent, Outcome)>,
    /// Nothing more will be sent.
    pub finished: bool,
    /// Nobody wants answers.
    pub released: bool,
    /// Waits for `outbound`.
    pub sending: Option<Waker>,
    /// Waits for `answers`.
    pub answered: Option<Waker>,
    pub reading: Option<AbortHandle>,
}

impl State {
    /// Adds a message, if there is room for it on the way to the owner.
    pub fn put(&mut self, message: &impl Message, bytes: usize, sent: Sent) -> bool {
        let Some(call) = &mut self.call else { return false };
        if !call.try_grow(bytes) {
            return false;
        }
        if self.outbound.capacity() - self.outbound.len() < bytes {
            self.outbound.reserve(bytes.max(OUTBOUND_BYTES));
        }
        put_framed(&mut self.outbound, message, bytes);
        self.unanswered.push_back((sent, bytes));
        self.wake_sending();
        true
    }

    /// Takes answers down; false if there are more than messages.
    pub fn take(&mut self, outcomes: impl IntoIterator<Item = Outcome>) -> bool {
        for outcome in outcomes {
            let Some((sent, bytes)) = self.unanswered.pop_front() else { return false };
            if let Some(call) = &mut self.call {
                call.shrink(bytes);
            }
            self.answers.push_back((sent, outcome));
        }
        self.wake_answered();
        true
    }

    /// The stream has ended: what has no answer gets this one.
    pub fn end(&mut self, end: StreamEnd) {
        let end = Arc::new(end);
        let unanswered = self.unanswered.drain(..);
        self.answers.extend(unanswered.map(|(sent, _)| (sent, Outcome::Ended(Arc::clone(&end)))));
        self.reading = None;
        self.close();
        self.wake_answered();
    }

    pub fn finish(&mut self) {
        self.finished = true;
        self.wake_sending();
    }

    /// Nobody wants answers any more. A stream that owes some is reset; another one may end by itself.
    pub fn release(&mut self) {
        self.released = true;
        if self.finished && self.unanswered.is_empty() {
            return;
        }
        if let Some(reading) = self.reading.take() {
            reading.abort();
        }
        self.close();
    }

    /// Gives back what the stream held; the rest of its request is not sent.
    fn close(&mut self) {
        self.call = None;
        self.generation += 1;
        self.outbound = BytesMut::new();
        self.wake_sending();
    }

    fn wake_sending(&mut self) {
        if let Some(waker) = self.sending.take() {
            waker.wake();
        }
    }

    fn wake_answered(&mut self) {
        if let Some(waker) = self.answered.take() {
            waker.wake();
        }
    }
}
