//! What happens to a frame once it is durable: it becomes visible, then it is answered, then it is delivered.
//!
//! Under load the releaser does it, beside the committer, so that waking the publishers of one frame does not
//! delay the fdatasync of the next. When nothing else waits there is no next one, and the committer answers by
//! itself: a publisher that is alone is spared the wake-up of one more thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use flume::{Receiver, Sender};

use super::ack::UnreleasedAcks;
use super::{Admission, Publish, SubjectKey, SubjectTable};
use crate::event::record;
use crate::event::{Durable, EncodedMessage, MessageId, Sequence, Subject, UnixMicros};
use crate::telemetry::traces::{PublishTrace, SpanPlace};
use crate::wal::{FramePlace, Place};

/// A frame whose fdatasync has returned.
#[derive(Debug)]
pub(super) struct Committed {
    pub durable: Durable,
    pub frame: FramePlace,
    /// None if the acks are of records of earlier frames.
    pub messages: Vec<CommittedMessage>,
    /// Whether the messages were published here, so that subscribers wait for them.
    pub live: bool,
    /// The frame's one record, if it holds what was taken over from another node: where in the frame, in bytes.
    pub taken_over: Option<(Sequence, u32)>,
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
    /// Where it belongs, if it is traced.
    pub trace: Option<Box<SpanPlace>>,
}

/// The messages of one frame, in log order.
#[derive(Debug)]
pub struct DurableBatch {
    /// Covers every message of the batch.
    pub durable: Durable,
    /// When they were published.
    pub published_at: UnixMicros,
    /// At least one.
    pub messages: Vec<DurableMessage>,
}

/// Where durable messages go, in log order.
#[async_trait]
pub trait DurableSink: Send + Sync + 'static {
    /// Before the acks of a frame of one record that holds what was taken over from another node, beside messages.
    fn taken_over(&self, sequence: Sequence, place: Place);

    /// Before the acks: makes the messages visible to Fetch, so that publishers can read their own writes.
    fn before_acks(&self, batch: &DurableBatch);

    /// Whether [`Self::after_acks`] has anything to do for a frame. Asked when it is acknowledged: a no is final for it.
    fn is_awaited(&self) -> bool;

    /// After the acks: delivers to subscribers. May wait for the fan-out, never for a subscriber.
    async fn after_acks(&self, batch: DurableBatch);
}

/// Frames that were committed and whose acks wait for the releaser. It only hands them on, so a few are
/// plenty; when it is behind, the committer waits rather than piling up bodies.
const FRAMES_MAX: usize = 16;

/// What the committer hands to the releaser.
#[derive(Debug)]
enum Handed {
    /// Nobody has been answered.
    Committed(Committed),
    /// All are answered; subscribers wait for it.
    Acknowledged(DurableBatch),
}

/// Makes a frame visible and answers its publishers.
#[derive(Debug)]
struct Acknowledge<S> {
    subjects: Arc<SubjectTable>,
    admission: Admission,
    sink: Arc<S>,
    /// Frames that were handed over and are not answered yet.
    unanswered: AtomicUsize,
}

impl<S: DurableSink> Acknowledge<S> {
    /// Gives what subscribers wait for.
    fn frame(&self, Committed { durable, frame, messages, live, taken_over, acks }: Committed) -> Option<DurableBatch> {
        if let Some((sequence, offset)) = taken_over {
            // Nobody reads it at its place, so that its checksum is asked of nobody.
            self.sink.taken_over(sequence, frame.of(offset, 0));
            self.subjects.set_marked_through(durable);
        }
        let Some(published_at) = messages.first().map(|message| message.published_at) else {
            // Repeated publishes: their records have been through here before.
            acks.release(durable);
            return None;
        };
        let returned = messages.iter().map(|message| message.charge as usize).sum();
        let mut traced = Vec::new();
        let messages = messages.into_iter().map(|message| message.encode(frame, &mut traced));
        let messages: Vec<DurableMessage> = messages.collect();
        let batch = DurableBatch { durable, published_at, messages };
        self.sink.before_acks(&batch);
        // Only now is an id known as published: whoever sees it finds the message.
        for message in &batch.messages {
            self.subjects.mark_durable(message.key, message.id);
        }
        self.subjects.set_marked_through(durable);
        self.admission.give_back(returned);
        if !traced.is_empty() {
            let now = Instant::now();
            traced.iter_mut().for_each(|trace| trace.answered(now));
        }
        acks.release(durable);
        // Dropped, they are told: nobody waits for that.
        drop(traced);
        // Asked last, as the trait has it.
        (live && self.sink.is_awaited()).then_some(batch)
    }
}

/// The committer's end.
#[derive(Debug)]
pub(super) struct Release<S> {
    acknowledge: Arc<Acknowledge<S>>,
    frames: Sender<Handed>,
}

impl<S: DurableSink> Release<S> {
    /// Both ends.
    pub fn new(subjects: Arc<SubjectTable>, admission: Admission, sink: Arc<S>) -> (Self, Releaser<S>) {
        let (frames, handed) = flume::bounded(FRAMES_MAX);
        let acknowledge = Arc::new(Acknowledge { subjects, admission, sink, unanswered: AtomicUsize::new(0) });
        (Self { acknowledge: Arc::clone(&acknowledge), frames }, Releaser { acknowledge, handed })
    }

    /// Hands a frame to the releaser.
    pub fn hand_over(&self, committed: Committed) {
        self.acknowledge.unanswered.fetch_add(1, Ordering::Relaxed);
        self.send(Handed::Committed(committed));
    }

    /// Answers the publishers of a frame on this thread, unless an earlier frame is not answered yet.
    pub fn at_once(&self, committed: Committed) {
        // Answers are given in log order. Acquire: what the releaser did for earlier frames comes before this.
        if self.acknowledge.unanswered.load(Ordering::Acquire) > 0 {
            return self.hand_over(committed);
        }
        if let Some(batch) = self.acknowledge.frame(committed) {
            self.send(Handed::Acknowledged(batch));
        }
    }

    fn send(&self, handed: Handed) {
        // The releaser ends after this thread only; if it is gone, so is the process.
        drop(self.frames.send(handed));
    }
}

/// The releaser's state.
#[derive(Debug)]
pub struct Releaser<S> {
    acknowledge: Arc<Acknowledge<S>>,
    handed: Receiver<Handed>,
}

impl<S: DurableSink> Releaser<S> {
    /// Runs until the committer has ended and everything it committed was handed on.
    pub async fn run(self) {
        let Self { acknowledge, handed } = self;
        while let Ok(handed) = handed.recv_async().await {
            let batch = match handed {
                Handed::Acknowledged(batch) => Some(batch),
                Handed::Committed(committed) => {
                    let batch = acknowledge.frame(committed);
                    acknowledge.unanswered.fetch_sub(1, Ordering::Release);
                    batch
                }
            };
            if let Some(batch) = batch {
                acknowledge.sink.after_acks(batch).await;
            }
        }
    }
}

impl CommittedMessage {
    /// Also takes the record's checksum for the index: a microsecond here is none of the next fdatasync's.
    fn encode(mut self, frame: FramePlace, traced: &mut Vec<PublishTrace>) -> DurableMessage {
        let trace = self.publish.trace.take().map(|trace| {
            let stored = trace.stored();
            traced.push(*trace);
            stored
        });
        let record = self.publish.record(self.id, self.published_at);
        let place = frame.of(self.offset, record::crc(&record));
        let encoded = EncodedMessage::new(&record);
        let Publish { subject, expiration, .. } = self.publish;
        let expires_at = (!expiration.is_fire_and_forget()).then(|| expiration.expires_at(self.published_at));
        let Self { sequence, key, id, .. } = self;
        DurableMessage { sequence, subject, key, id, place, expires_at, encoded, trace }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::ingest::ack::Outcome;

    /// Takes nothing.
    #[derive(Debug)]
    struct Nobody;

    #[async_trait]
    impl DurableSink for Nobody {
        fn taken_over(&self, _sequence: Sequence, _place: Place) {}

        fn before_acks(&self, _batch: &DurableBatch) {}

        fn is_awaited(&self) -> bool {
            false
        }

        async fn after_acks(&self, _batch: DurableBatch) {
            unreachable!("nobody waits");
        }
    }

    type Answer = oneshot::Receiver<Result<MessageId, crate::ingest::PublishError>>;

    fn frame(sequence: u64) -> (Committed, Answer) {
        let (reply, answer) = oneshot::channel();
        let mut acks = UnreleasedAcks::with_capacity(1);
        acks.push(Sequence::new(sequence), Outcome::Published(MessageId::new(1).expect("an id")), reply);
        let durable = Durable(Sequence::new(sequence));
        let frame = FramePlace { segment: Sequence::new(1), offset: 4096 };
        (Committed { durable, frame, messages: Vec::new(), live: true, taken_over: None, acks }, answer)
    }

    #[test]
    fn a_frame_is_answered_at_once_unless_an_earlier_one_is_not_answered_yet() {
        let admission = Admission::new(1_000, std::time::Duration::ZERO);
        let (release, releaser) = Release::new(Arc::new(SubjectTable::new(10)), admission, Arc::new(Nobody));
        let (first, mut first_answer) = frame(1);
        release.at_once(first);
        assert!(first_answer.try_recv().is_ok(), "nothing is before it");

        let ((second, mut second_answer), (third, mut third_answer)) = (frame(2), frame(3));
        release.hand_over(second);
        release.at_once(third);
        assert!(second_answer.try_recv().is_err() && third_answer.try_recv().is_err(), "the releaser has not run");
        let mut running = Box::pin(releaser.run());
        assert!(running.as_mut().now_or_never().is_none());
        assert!(second_answer.try_recv().is_ok() && third_answer.try_recv().is_ok());

        let (fourth, mut fourth_answer) = frame(4);
        release.at_once(fourth);
        assert!(fourth_answer.try_recv().is_ok(), "the releaser has caught up");
        drop(release);
        assert!(running.now_or_never().is_some(), "it ends with the committer");
    }
}
