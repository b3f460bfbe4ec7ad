//! The releaser: what happens to a frame once it is durable.
//!
//! It runs beside the committer, so that waking the publishers of one frame does not delay the fdatasync
//! of the next.

use std::sync::Arc;

use async_trait::async_trait;
use flume::Receiver;

use super::ack::UnreleasedAcks;
use super::{Admission, Publish, SubjectKey, SubjectTable};
use crate::event::record;
use crate::event::{Durable, EncodedMessage, MessageId, Sequence, Subject, UnixMicros};
use crate::wal::{FramePlace, Place};

/// A frame whose fdatasync has returned.
#[derive(Debug)]
pub(super) struct Committed {
    pub durable: Durable,
    pub frame: FramePlace,
    /// None if the acks are of records of earlier frames.
    pub messages: Vec<CommittedMessage>,
    pub acks: UnreleasedAcks,
}

/// One of its messages.
#[derive(Debug)]
pub(super) struct CommittedMessage {
    pub publish: Publish,
    pub key: SubjectKey,
    pub id: MessageId,
    pub sequence: Sequence,
    pub published_at: UnixMicros,
    /// Where in the frame, in bytes.
    pub offset: u32,
    pub charge: u32,
}

/// A durable message, encoded for everyone who gets it.
#[derive(Debug, Clone)]
pub struct DurableMessage {
    /// Its place in the log.
    pub sequence: Sequence,
    /// Its subject.
    pub subject: Subject,
    /// The subject's place in the [`SubjectTable`].
    pub key: SubjectKey,
    /// Its id.
    pub id: MessageId,
    /// Where the log has it.
    pub place: Place,
    /// When Fetch stops finding it; None for fire and forget.
    pub expires_at: Option<UnixMicros>,
    /// The response that carries it.
    pub encoded: EncodedMessage,
}

/// The messages of one frame, in log order.
#[derive(Debug)]
pub struct DurableBatch {
    /// Covers every message of the batch.
    pub durable: Durable,
    /// At least one.
    pub messages: Vec<DurableMessage>,
}

/// Where durable messages go, in log order.
#[async_trait]
pub trait DurableSink: Send + Sync + 'static {
    /// Before the acks: makes the messages visible to Fetch, so that publishers can read their own writes.
    fn before_acks(&self, batch: &DurableBatch);

    /// After the acks: delivers to subscribers. May wait for the fan-out, never for a subscriber.
    async fn after_acks(&self, batch: DurableBatch);
}

/// The releaser's state.
#[derive(Debug)]
pub struct Releaser {
    committed: Receiver<Committed>,
    subjects: Arc<SubjectTable>,
    admission: Admission,
}

impl Releaser {
    pub(super) fn new(committed: Receiver<Committed>, subjects: Arc<SubjectTable>, admission: Admission) -> Self {
        Self { committed, subjects, admission }
    }

    /// Runs until the committer has ended and everything it committed was handed on.
    pub async fn run(self, sink: Arc<impl DurableSink>) {
        while let Ok(Committed { durable, frame, messages, acks }) = self.committed.recv_async().await {
            if messages.is_empty() {
                // Repeated publishes: their records have been through here before.
                acks.release(durable);
                continue;
            }
            let returned = messages.iter().map(|message| message.charge as usize).sum();
            let messages: Vec<DurableMessage> = messages.into_iter().map(|message| message.encode(frame)).collect();
            let batch = DurableBatch { durable, messages };
            sink.before_acks(&batch);
            // Only now is an id known as published: whoever sees it finds the message.
            for message in &batch.messages {
                self.subjects.mark_durable(message.key, message.id);
            }
            self.subjects.set_marked_through(durable);
            self.admission.give_back(returned);
            acks.release(durable);
            sink.after_acks(batch).await;
        }
    }
}

impl CommittedMessage {
    /// Also takes the record's checksum for the index: a microsecond here is none of the next fdatasync's.
    fn encode(self, frame: FramePlace) -> DurableMessage {
        let record = self.publish.record(self.id, self.published_at);
        let place = frame.of(self.offset, record::crc(&record));
        let encoded = EncodedMessage::new(&record);
        let Publish { subject, expiration, .. } = self.publish;
        let expires_at = (!expiration.is_fire_and_forget()).then(|| expiration.expires_at(self.published_at));
        DurableMessage { sequence: self.sequence, subject, key: self.key, id: self.id, place, expires_at, encoded }
    }
}
