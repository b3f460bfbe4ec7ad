//! Acks that wait for their frame to be durable.

use tokio::sync::oneshot;

use super::PublishError;
use super::batch::{BatchReply, Outcomes};
use super::take_over::TakenOverReply;
use crate::event::{Durable, MessageId, Sequence};

/// Where the answer of one publish goes.
pub type Reply = oneshot::Sender<Result<MessageId, PublishError>>;

/// What a publisher learns once the record is durable that its publish became, or that it repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its message has this id.
    Published(MessageId),
    /// Its key stands for the message with this id, whose body is another one.
    KeyTaken(MessageId),
}

impl From<Outcome> for Result<MessageId, PublishError> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Published(id) => Ok(id),
            Outcome::KeyTaken(id) => Err(PublishError::KeyTaken { id }),
        }
    }
}

/// The acks of one frame, in log order. Nothing but a durable position at or beyond the frame's last
/// record turns them into answers; dropped, each publisher learns that the outcome is unknown.
#[derive(Debug)]
pub struct UnreleasedAcks {
    last: Sequence,
    acks: Vec<(Reply, Outcome)>,
    taken_over: Option<TakenOverReply>,
    batches: Vec<(BatchReply, Outcomes)>,
}

impl UnreleasedAcks {
    /// No acks yet, with room for `capacity`.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { last: Sequence::ZERO, acks: Vec::with_capacity(capacity), taken_over: None, batches: Vec::new() }
    }

    /// Adds the ack of the record `sequence`; sequences must rise.
    pub fn push(&mut self, sequence: Sequence, outcome: Outcome, reply: Reply) {
        assert!(sequence > self.last, "acks are kept in log order");
        self.last = sequence;
        self.acks.push((reply, outcome));
    }

    /// Adds the answer to a publish that repeats the record `sequence`, which is of this frame or of an earlier one.
    pub fn push_repeated(&mut self, sequence: Sequence, outcome: Outcome, reply: Reply) {
        self.last = self.last.max(sequence);
        self.acks.push((reply, outcome));
    }

    /// Of what was handed over, up to the record `last`.
    pub fn of_taken_over(last: Sequence, reply: TakenOverReply) -> Self {
        Self { last, taken_over: Some(reply), ..Self::with_capacity(0) }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.batches.is_empty() && self.taken_over.is_none()
    }

    /// Adds the acks of a batch; `last` is the last record that it became or repeats. Without a record nothing waits for the
    /// disk, and the batch is answered now: with errors only.
    pub fn push_batch(&mut self, last: Option<Sequence>, outcomes: Outcomes, reply: BatchReply) {
        let Some(last) = last else {
            assert!(outcomes.all_refused(), "an ack without a record");
            reply.send(Ok(outcomes));
            return;
        };
        self.last = self.last.max(last);
        self.batches.push((reply, outcomes));
    }

    /// Answers every publisher of the frame. A publisher that has gone is no error.
    ///
    /// # Panics
    /// If `durable` does not cover the frame: answering would break the one promise the broker makes.
    pub fn release(self, durable: Durable) {
        assert!(self.last <= durable.sequence(), "an ack was about to overtake fdatasync");
        for (reply, outcome) in self.acks {
            drop(reply.send(outcome.into()));
        }
        for (reply, outcomes) in self.batches {
            reply.send(Ok(outcomes));
        }
        if let Some(reply) = self.taken_over {
            drop(reply.send(Ok(())));
        }
    }

    /// Answers every publisher with an error.
    pub fn refuse(self, error: &PublishError) {
        for (reply, _) in self.acks {
            drop(reply.send(Err(error.clone())));
        }
        for (reply, _) in self.batches {
            reply.send(Err(error.clone()));
        }
        if let Some(reply) = self.taken_over {
            drop(reply.send(Err(error.clone().into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::BatchAnswer;
    use super::*;

    fn acks(
        sequences: std::ops::RangeInclusive<u64>,
    ) -> (UnreleasedAcks, Vec<oneshot::Receiver<Result<MessageId, PublishError>>>) {
        let mut acks = UnreleasedAcks::with_capacity(8);
        let receivers = sequences
            .map(|sequence| {
                let (reply, receiver) = oneshot::channel();
                let id = MessageId::new(sequence as u32).expect("an id");
                acks.push(Sequence::new(sequence), Outcome::Published(id), reply);
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

    fn batch(last: Option<u64>, outcomes: Vec<Result<MessageId, PublishError>>) -> (UnreleasedAcks, BatchAnswer) {
        let (reply, receiver) = BatchReply::for_test();
        let mut all = Outcomes::with_capacity(outcomes.len());
        outcomes.into_iter().for_each(|outcome| all.push(outcome));
        let mut acks = UnreleasedAcks::with_capacity(0);
        acks.push_batch(last.map(Sequence::new), all, reply);
        (acks, receiver)
    }

    #[test]
    fn a_batch_is_answered_by_a_durable_position_that_covers_its_last_record() {
        let ids: Vec<_> = (1..=3).map(|id| Ok(MessageId::new(id).expect("an id"))).collect();
        let (acks, mut receiver) = batch(Some(7), ids.clone());
        assert!(receiver.try_recv().is_err(), "not yet");
        acks.release(Durable(Sequence::new(7)));
        let outcomes = receiver.try_recv().expect("answered").expect("acks");
        assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), ids);

        let (acks, _receiver) = batch(Some(7), ids);
        let early = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| acks.release(Durable(Sequence::new(6)))));
        assert!(early.is_err());
    }

    #[test]
    fn a_batch_without_a_record_is_refused_at_once_and_never_acknowledged() {
        let refused = PublishError::IdsExhausted(crate::ingest::IdsExhausted::Subject);
        let (_acks, mut receiver) = batch(None, vec![Err(refused.clone())]);
        let outcomes = receiver.try_recv().expect("answered").expect("refusals");
        assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [Err(refused)]);
        let id = MessageId::new(1).expect("an id");
        assert!(std::panic::catch_unwind(|| batch(None, vec![Ok(id)])).is_err());
    }

    #[test]
    fn a_repeated_publish_waits_for_the_first() {
        let id = MessageId::new(7).expect("an id");
        let (mut both, _receivers) = acks(3..=5);
        let mut learnt = [(5, Outcome::Published(id)), (3, Outcome::KeyTaken(id))].map(|(sequence, outcome)| {
            let (reply, receiver) = oneshot::channel();
            both.push_repeated(Sequence::new(sequence), outcome, reply);
            receiver
        });
        both.release(Durable(Sequence::new(5)));
        assert_eq!(learnt[0].try_recv().expect("answered"), Ok(id));
        assert_eq!(learnt[1].try_recv().expect("answered"), Err(PublishError::KeyTaken { id }));

        let mut repeated = UnreleasedAcks::with_capacity(1);
        let (reply, mut receiver) = oneshot::channel();
        repeated.push_repeated(Sequence::new(9), Outcome::Published(id), reply);
        let release = || repeated.release(Durable(Sequence::new(8)));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(release)).is_err());
        assert!(receiver.try_recv().is_err(), "nothing was promised");
    }

    #[test]
    fn dropped_acks_answer_nobody_with_success() {
        let (acks, receivers) = acks(1..=2);
        drop(acks);
        assert!(receivers.into_iter().all(|mut receiver| receiver.try_recv().is_err()));
    }
}
