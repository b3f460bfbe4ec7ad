//! Acks that wait for their frame to be durable.

use tokio::sync::oneshot;

use super::PublishError;
use crate::event::{Durable, MessageId, Sequence};

/// Where the answer of one publish goes.
pub type Reply = oneshot::Sender<Result<MessageId, PublishError>>;

/// The acks of one frame, in log order. Nothing but a durable position at or beyond the frame's last
/// record turns them into answers; dropped, each publisher learns that the outcome is unknown.
#[derive(Debug)]
pub struct UnreleasedAcks {
    last: Sequence,
    acks: Vec<(Reply, MessageId)>,
}

impl UnreleasedAcks {
    /// No acks yet, with room for `capacity`.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { last: Sequence::ZERO, acks: Vec::with_capacity(capacity) }
    }

    /// Adds the ack of the record `sequence`; sequences must rise.
    pub fn push(&mut self, sequence: Sequence, id: MessageId, reply: Reply) {
        assert!(sequence > self.last, "acks are kept in log order");
        self.last = sequence;
        self.acks.push((reply, id));
    }

    /// Answers every publisher of the frame. A publisher that has gone is no error.
    ///
    /// # Panics
    /// If `durable` does not cover the frame: answering would break the one promise the broker makes.
    pub fn release(self, durable: Durable) {
        assert!(self.last <= durable.sequence(), "an ack was about to overtake fdatasync");
        for (reply, id) in self.acks {
            drop(reply.send(Ok(id)));
        }
    }

    /// Answers every publisher with an error.
    pub fn refuse(self, error: &PublishError) {
        for (reply, _) in self.acks {
            drop(reply.send(Err(error.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(
        sequences: std::ops::RangeInclusive<u64>,
    ) -> (UnreleasedAcks, Vec<oneshot::Receiver<Result<MessageId, PublishError>>>) {
        let mut acks = UnreleasedAcks::with_capacity(8);
        let receivers = sequences
            .map(|sequence| {
                let (reply, receiver) = oneshot::channel();
                acks.push(Sequence::new(sequence), MessageId::new(sequence as u32).expect("an id"), reply);
                receiver
            })
            .collect();
        (acks, receivers)
    }

    #[test]
    fn are_released_by_a_durable_position_that_covers_them() {
        let (acks, receivers) = acks(3..=5);
        acks.release(Durable(Sequence::new(5)));
        for (mut receiver, id) in receivers.into_iter().zip(3..) {
            assert_eq!(receiver.try_recv().expect("answered").expect("an ack").get(), id);
        }
    }

    #[test]
    fn never_overtake_fdatasync() {
        let (acks, _receivers) = acks(3..=5);
        let early = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| acks.release(Durable(Sequence::new(4)))));
        assert!(early.is_err());
    }

    #[test]
    fn dropped_acks_answer_nobody_with_success() {
        let (acks, receivers) = acks(1..=2);
        drop(acks);
        assert!(receivers.into_iter().all(|mut receiver| receiver.try_recv().is_err()));
    }
}
