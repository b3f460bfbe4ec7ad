//! From history to the live messages: what a subscriber that is behind does next.
//!
//! # Why nothing is missed and nothing comes twice
//!
//! The ids of a subject are dense and rise in the order of the log, and so does what the fan-out pushes into the subject's
//! ring. `settled` is the one number that counts: every id up to it was handed out, or is not for this subscriber. It only
//! rises, and an id is handed out only if it is above `settled`. So nothing comes twice, and something can be missed only where
//! `settled` passes an id without handing it out. It does so in one case: history says that an id which was published
//! before the subscription cannot be had any more. An id that was published later and cannot be had ends the stream
//! ([`Step::Gone`]).
//!
//! It remains to show that the place in the ring fits `settled` when the subscriber goes live. [`Step::Hold`] does two things in
//! this order: the ring keeps what is pushed from now on; then the last durable id is read, `target`. A message above
//! `target` was not known as durable at that moment, and is pushed only afterwards: so it is in the ring, or comes there.
//! History is then read until `settled` is `target`. At [`Step::Join`], under the ring's lock, either nothing that was kept was
//! evicted, and then the ring has everything above `settled`, and skips what is not above it; or the ring has
//! overflowed, and then nothing of it is used and the same begins again from `settled`.
//!
//! It ends because each turn reads what was published during the turn before. Who reads more slowly than that is never done,
//! and holds no memory but its chunk: far from the end nothing is kept in the ring ([`NEAR_IDS`]).

use crate::event::{EncodedMessage, MessageId};

use super::history::Chunk;

/// How near to the end a subscriber lets the ring keep messages for it: one chunk of history. Further away it would
/// only make the ring overflow, with memory that others share.
pub(super) const NEAR_IDS: u32 = 1_024;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Read history, and tell with [`HandOver::take`].
    Read(Range),
    /// Let the ring keep what comes, then read the last durable id, and tell with [`HandOver::held`].
    Hold,
    /// Go live at the held place if it is not lost; else let go of it and tell with [`HandOver::overflowed`].
    Join,
    /// A message that was published after the subscription is nowhere any more.
    Gone {
        /// The first id after it that can be had, or the next that will be published.
        first_available: u32,
    },
}

/// Ids of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// Ids above this one.
    pub after: u32,
    /// Up to this one.
    pub through: u32,
    /// Published after the subscription: each of them is owed, expired or not.
    pub owed: bool,
}

/// History contradicts itself: a chunk is not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contradiction;

/// Where a subscriber stands that is not live.
#[derive(Debug, Clone)]
pub(super) struct HandOver {
    settled: u32,
    /// History is read up to here.
    read: u32,
    /// And is to be read up to here.
    target: u32,
    /// Ids above this one are owed.
    owed_after: u32,
    holding: bool,
    /// The first id that can be had after one that is owed and gone.
    available: Option<u32>,
}

impl HandOver {
    /// Of a subscriber that asks for what is above `after`; `last` is the last durable id.
    pub fn resume(after: u32, last: u32) -> Self {
        Self { settled: after, read: after, target: last, owed_after: last, holding: false, available: None }
    }

    /// Of a live one that has lost its place in the ring: it is owed everything above `settled`.
    pub fn fall_back(settled: u32, last: u32) -> Self {
        Self { owed_after: settled, ..Self::resume(settled, last.max(settled)) }
    }

    /// Every id up to this one was handed out, or is not for this subscriber.
    pub fn settled(&self) -> u32 {
        self.settled
    }

    /// What comes next.
    pub fn step(&self) -> Step {
        let done = self.read == self.target;
        match self.available {
            Some(first_available) => Step::Gone { first_available },
            // Everything that is durable was looked for.
            None if self.is_missing() && done => Step::Gone { first_available: self.target.saturating_add(1) },
            None if done && self.holding => Step::Join,
            None if done => Step::Hold,
            None => Step::Read(self.range()),
        }
    }

    fn range(&self) -> Range {
        let owed = self.read >= self.owed_after;
        let through = if owed { self.target } else { self.target.min(self.owed_after) };
        Range { after: self.read, through, owed }
    }

    /// Whether something that is owed was not found, so that it is only asked what comes after it.
    fn is_missing(&self) -> bool {
        self.settled < self.read
    }

    /// Takes what was read of the range that [`Self::step`] asked for, and hands out what is to be delivered.
    ///
    /// # Errors
    /// [`Contradiction`] if it is not of that range, or says nothing.
    pub fn take(&mut self, chunk: Chunk, mut deliver: impl FnMut(EncodedMessage)) -> Result<(), Contradiction> {
        let Range { after, through, owed } = self.range();
        let mut last = after;
        for (id, _) in &chunk.messages {
            if id.get() <= last || id.get() > chunk.through {
                return Err(Contradiction);
            }
            last = id.get();
        }
        if chunk.through <= after || chunk.through > through {
            return Err(Contradiction);
        }
        for (id, message) in chunk.messages {
            let id: MessageId = id;
            if owed && id.get() != self.settled + 1 {
                self.available = Some(id.get());
                self.read = chunk.through;
                return Ok(());
            }
            self.settled = id.get();
            deliver(message);
        }
        self.read = chunk.through;
        if !owed {
            self.settled = chunk.through;
        }
        Ok(())
    }

    /// The ring keeps what comes, and then the last durable id was `last`. Says whether it is to go on keeping: not if
    /// there is much to read before.
    pub fn held(&mut self, last: u32) -> bool {
        self.target = self.target.max(last);
        self.holding = self.target - self.read <= NEAR_IDS;
        self.holding
    }

    /// The held place was lost; the last durable id is `last`.
    pub fn overflowed(&mut self, last: u32) {
        self.holding = false;
        self.target = self.target.max(last);
    }
}
