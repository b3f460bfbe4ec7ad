//! The committer's side of slots that move: records of another node as a frame of this log.

use super::PublishError;
use super::ack::UnreleasedAcks;
use super::committer::{Committer, CommitterError};
use super::idempotency::Entry;
use super::release::{Committed, CommittedMessage, DurableSink};
use super::take_over::{Content, HandedMessage, HandedOver, TakeOverError, TakingOver};
use crate::event::record::{KeyEntry, RecordError};
use crate::event::{Durable, MessageId, Sequence, Subject, clock};
use crate::wal::RoomError;

/// A frame of what was handed over, and what becomes known once it is durable.
#[derive(Default)]
struct Frame {
    messages: Vec<CommittedMessage>,
    /// Of the messages.
    keys: Vec<Entry>,
    marks: Vec<(Subject, MessageId)>,
    /// Of messages that are no longer in the other log.
    handed_keys: Vec<KeyEntry>,
    taken_over: Option<(Sequence, u32)>,
}

impl<S: DurableSink> Committer<S> {
    /// Makes one frame of what was handed over, and answers when it is durable and known. What this node has already is left out.
    pub(super) fn take_over(&mut self, taking_over: TakingOver) -> Result<(), CommitterError> {
        let TakingOver { handed_over: HandedOver { content, bytes }, reply } = taking_over;
        match self.writer.ensure_room(bytes) {
            Ok(()) => {}
            Err(RoomError::Failed(failed)) => {
                drop(reply.send(Err(PublishError::LogFailed.into())));
                return Err(CommitterError::Room(failed));
            }
            Err(passing) => {
                drop(reply.send(Err(PublishError::NoRoom(passing.to_string()).into())));
                return Ok(());
            }
        }
        // Before any id is taken: one without its record would be left out when it comes again.
        if let Err(full) = self.has_room_for(&content) {
            drop(reply.send(Err(full)));
            return Ok(());
        }
        let place = self.writer.next_frame();
        let frame = self.encode_taken_over(content)?;
        if self.batch.records() == 0 {
            drop(reply.send(Ok(())));
            return Ok(());
        }
        let durable = match self.writer.append(&self.batch) {
            Ok(durable) => durable,
            Err(failed) => {
                drop(reply.send(Err(PublishError::LogFailed.into())));
                return Err(CommitterError::Log(failed));
            }
        };
        let Frame { messages, keys, marks, handed_keys, taken_over } = frame;
        for (subject, id) in &marks {
            self.subjects.restore(subject.as_str(), *id)?;
        }
        self.know(&keys, &handed_keys, durable);
        self.metrics.wal.appended.set(durable.sequence().get().cast_signed());
        self.has_grown();
        self.durable.send_replace(durable);
        let acks = UnreleasedAcks::of_taken_over(durable.sequence(), reply);
        self.release.at_once(Committed { durable, frame: place, messages, live: false, taken_over, acks });
        Ok(())
    }

    /// Whether subjects and keys fit beside all that are known. Only the handed-over messages' own keys may make the oldest forgotten, as
    /// those of publishes do.
    fn has_room_for(&self, content: &Content) -> Result<(), TakeOverError> {
        match content {
            Content::Messages(messages) => {
                let subjects = messages.iter().map(|message| message.publish.subject.as_str());
                self.subjects.has_room_for(subjects).map_err(PublishError::from)?;
            }
            Content::Marks(_, marks) => {
                let subjects = marks.iter().map(|(subject, _)| subject.as_str());
                self.subjects.has_room_for(subjects).map_err(PublishError::from)?;
            }
            Content::Keys(_, keys) => self.keys.lock().has_room_for(keys, clock::now())?,
        }
        Ok(())
    }

    fn encode_taken_over(&mut self, content: Content) -> Result<Frame, CommitterError> {
        self.batch.clear();
        let (first, mut frame) = (self.writer.next_sequence(), Frame::default());
        let mut push = |bytes: &[u8]| {
            self.batch.push(|buffer| {
                buffer.extend_from_slice(bytes);
                Ok::<(), RecordError>(())
            })
        };
        let messages = match content {
            Content::Marks(bytes, marks) => {
                let taken_over = Some((first, push(&bytes)?));
                return Ok(Frame { marks, taken_over, ..frame });
            }
            Content::Keys(bytes, handed_keys) => {
                let taken_over = Some((first, push(&bytes)?));
                return Ok(Frame { handed_keys, taken_over, ..frame });
            }
            Content::Messages(messages) => messages,
        };
        for HandedMessage { publish, id, published_at, print, bytes } in messages {
            let Some(key) = self.subjects.take_over(&publish.subject, id)? else { continue };
            let (sequence, offset) = (first.plus(frame.messages.len() as u64), push(&bytes)?);
            frame.keys.extend(print.map(|print| Entry { print, sequence, at: published_at, id }));
            frame.messages.push(CommittedMessage { publish, key, id, sequence, published_at, offset, charge: 0 });
        }
        Ok(frame)
    }

    /// Keys of a frame that is durable.
    fn know(&mut self, keys: &[Entry], handed: &[KeyEntry], durable: Durable) {
        if keys.is_empty() && handed.is_empty() {
            return;
        }
        let (now, mut window) = (clock::now(), self.keys.lock());
        keys.iter().for_each(|key| window.remember_live(*key, now));
        window.replay_taken_over(durable.sequence(), handed.iter().copied(), now);
    }
}
