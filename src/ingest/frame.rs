//! From what was queued to the records of one frame and the acks that wait for it.

use super::ack::{Outcome, UnreleasedAcks};
use super::batch::{Batched, Outcomes, QueuedBatch};
use super::publisher::{Queued, QueuedOne};
use super::release::CommittedMessage;
use super::repeats::Repeats;
use super::take_over::Closed;
use super::{Admission, PublishError, SubjectTable};
use crate::event::record::{self, RecordError};
use crate::event::{Sequence, UnixMicros};
use crate::wal::{Batch, PushError};

/// A frame that is being filled; there is room for it in the log.
pub(super) struct Frame<'a> {
    pub batch: &'a mut Batch,
    pub subjects: &'a SubjectTable,
    pub admission: &'a Admission,
    /// Subjects that get no ids.
    pub closed: Option<&'a Closed>,
    /// None if nothing that was queued has a key.
    pub repeats: Option<Repeats<'a>>,
    /// Of its first record.
    pub first: Sequence,
    pub published_at: UnixMicros,
    pub messages: Vec<CommittedMessage>,
    pub acks: UnreleasedAcks,
    /// Whether one of the messages is traced.
    pub traced: bool,
}

/// What became of a publish.
enum Added {
    New(Sequence, Outcome),
    /// A record of this frame or of an earlier one is what it repeats.
    Repeats(Sequence, Outcome),
    Refused(PublishError),
}

impl Frame<'_> {
    /// Gives ids to what is new of `queued`, and adds its records and acks. What repeats an earlier record gets no id.
    pub fn add(&mut self, queued: Queued) -> Result<(), PushError<RecordError>> {
        match queued {
            Queued::One(QueuedOne { publish, print, charge, reply, .. }) => {
                match self.add_one(Batched { publish, print, charge })? {
                    Added::New(sequence, outcome) => self.acks.push(sequence, outcome, reply),
                    Added::Repeats(sequence, outcome) => self.acks.push_repeated(sequence, outcome, reply),
                    Added::Refused(error) => drop(reply.send(Err(error))),
                }
            }
            Queued::Batch(QueuedBatch { batch, reply, .. }) => {
                let mut outcomes = Outcomes::with_capacity(batch.len());
                let mut last = None;
                for batched in batch.publishes {
                    outcomes.push(match self.add_one(batched)? {
                        Added::New(sequence, outcome) | Added::Repeats(sequence, outcome) => {
                            last = last.max(Some(sequence));
                            outcome.into()
                        }
                        Added::Refused(error) => Err(error),
                    });
                }
                self.acks.push_batch(last, outcomes, reply);
            }
        }
        Ok(())
    }

    fn add_one(&mut self, batched: Batched) -> Result<Added, PushError<RecordError>> {
        let Batched { mut publish, print, charge } = batched;
        if let Some((sequence, outcome)) = self.repeats.as_ref().and_then(|repeats| repeats.look_up(print.as_ref())) {
            self.admission.give_back(charge as usize);
            if let Some(trace) = &mut publish.trace {
                trace.repeats();
            }
            return Ok(Added::Repeats(sequence, outcome));
        }
        if self.closed.is_some_and(|closed| closed.has(publish.subject.as_str())) {
            self.admission.give_back(charge as usize);
            return Ok(Added::Refused(PublishError::Moving));
        }
        let (key, id) = match self.subjects.issue(&publish.subject) {
            Ok(issued) => issued,
            Err(exhausted) => {
                self.admission.give_back(charge as usize);
                return Ok(Added::Refused(exhausted.into()));
            }
        };
        let (sequence, published_at) = (self.first.plus(self.messages.len() as u64), self.published_at);
        let record = publish.record(id, published_at);
        let offset = self.batch.push(|buffer| record::encode(&record, buffer))?;
        if let (Some(repeats), Some(print)) = (&mut self.repeats, print) {
            repeats.remember(print, sequence, id);
        }
        self.traced |= publish.trace.is_some();
        self.messages.push(CommittedMessage { publish, key, id, sequence, published_at, offset, charge });
        Ok(Added::New(sequence, Outcome::Published(id)))
    }
}

/// Refuses what was queued, but for what repeats a durable record: the answers to that.
pub(super) fn refuse_new(
    queued: Vec<Queued>,
    repeats: Option<&Repeats<'_>>,
    admission: &Admission,
    error: &PublishError,
) -> UnreleasedAcks {
    let mut acks = UnreleasedAcks::with_capacity(0);
    for queued in queued {
        match queued {
            Queued::One(QueuedOne { print, charge, reply, .. }) => {
                admission.give_back(charge as usize);
                match repeats.and_then(|repeats| repeats.look_up(print.as_ref())) {
                    Some((sequence, outcome)) => acks.push_repeated(sequence, outcome, reply),
                    None => drop(reply.send(Err(error.clone()))),
                }
            }
            Queued::Batch(QueuedBatch { batch, reply, .. }) => {
                admission.give_back(batch.charge() as usize);
                let Some(repeats) = repeats.filter(|_| batch.has_key()) else {
                    reply.send(Err(error.clone()));
                    continue;
                };
                let mut outcomes = Outcomes::with_capacity(batch.len());
                let mut last = None;
                for Batched { print, .. } in &batch.publishes {
                    let known = repeats.look_up(print.as_ref());
                    last = last.max(known.map(|(sequence, _)| sequence));
                    outcomes.push(known.map_or_else(|| Err(error.clone()), |(_, outcome)| outcome.into()));
                }
                acks.push_batch(last, outcomes, reply);
            }
        }
    }
    acks
}
