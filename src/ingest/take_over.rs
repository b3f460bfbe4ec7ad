//! Slots that move: what another node hands over goes into the log with the ids that it has, and publishes on what this node does not
//! own, or is about to give away, are refused where ids are given out. Nobody else knows for certain what is still in the queue.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::idempotency::{Fingerprint, KeysFull};
use super::publisher::Command;
use super::{FRAME_RECORDS_MAX, Publish, PublishError, Publisher};
use crate::event::record::{self, KeyEntry, Logged, RecordError, TakenOver};
use crate::event::{Durable, IdempotencyKey, MessageId, Subject, Traceparent, UnixMicros};
use crate::wal::RECORD_PREFIX_BYTES;

/// Which subjects get no ids.
#[derive(Clone)]
pub struct Closed(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl Closed {
    /// Those for which `closed` says so; asked for each publish, on the committer's thread.
    pub fn new(closed: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(closed))
    }

    pub(super) fn has(&self, subject: &str) -> bool {
        (self.0)(subject)
    }
}

impl fmt::Debug for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Closed").finish_non_exhaustive()
    }
}

/// Why records of another node are not taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandedOverError {
    /// One does not decode.
    #[error("a record that was handed over: {0}")]
    Record(#[from] RecordError),
    /// One is of a subject that was not to come.
    #[error("a record that was handed over is of subject {subject:?}, whose slot does not move")]
    Foreign {
        /// Its subject.
        subject: String,
    },
    /// One is of nothing.
    #[error("a record that was handed over says that a message was lost; such a record is not to be sent")]
    Lost,
    /// Too much at once, or no record at all.
    #[error(
        "{records} records with {bytes} bytes were handed over at once; 1 to {FRAME_RECORDS_MAX} and {bytes_max} bytes fit"
    )]
    Size {
        /// Records.
        records: usize,
        /// Bytes that they take of a frame.
        bytes: usize,
        /// Bytes that a frame has.
        bytes_max: usize,
    },
    /// Messages and other records, in one.
    #[error("marks or keys were handed over together with other records; each is to come by itself")]
    Mixed,
}

/// A message of another node, and the bytes of its record.
#[derive(Debug)]
pub(super) struct HandedMessage {
    pub publish: Publish,
    pub id: MessageId,
    pub published_at: UnixMicros,
    /// Of its key, if it has one.
    pub print: Option<Fingerprint>,
    pub bytes: Bytes,
}

/// What goes into one frame.
#[derive(Debug)]
pub(super) enum Content {
    Messages(Vec<HandedMessage>),
    Marks(Bytes, Vec<(Subject, MessageId)>),
    Keys(Bytes, Vec<KeyEntry>),
}

/// Records of another node's log, or its marks or keys, for one frame of this one.
#[derive(Debug)]
pub struct HandedOver {
    pub(super) content: Content,
    pub(super) bytes: usize,
}

impl HandedOver {
    /// Of records as they stand in a log (docs/log-format.md): messages of subjects that `moves`, or one record of marks or keys. Hashes
    /// the bodies of messages with keys: for a thread that may take its time.
    ///
    /// # Errors
    /// [`HandedOverError`].
    pub fn new(records: Vec<Bytes>, bytes_max: usize, moves: impl Fn(&str) -> bool) -> Result<Self, HandedOverError> {
        let bytes = records.iter().map(|record| RECORD_PREFIX_BYTES + record.len()).sum();
        if records.is_empty() || records.len() > FRAME_RECORDS_MAX || bytes > bytes_max {
            return Err(HandedOverError::Size { records: records.len(), bytes, bytes_max });
        }
        let moves = |subject: &str| match moves(subject) {
            true => Ok(()),
            false => Err(HandedOverError::Foreign { subject: subject.to_owned() }),
        };
        if let [only] = &records[..]
            && let Logged::TakenOver(taken_over) = record::decode(only)?
        {
            let content = match taken_over {
                TakenOver::Marks(marks) => {
                    let marks: Vec<_> = marks.iter().collect();
                    marks.iter().try_for_each(|(subject, _)| moves(subject))?;
                    let owned = |(subject, id): (&str, _)| Ok((Subject::new(subject.to_owned()).map_err(invalid)?, id));
                    Content::Marks(only.clone(), marks.into_iter().map(owned).collect::<Result<_, HandedOverError>>()?)
                }
                TakenOver::Keys(keys) => Content::Keys(only.clone(), keys.iter().collect()),
            };
            return Ok(Self { content, bytes });
        }
        let messages = records.into_iter().map(|bytes| message(bytes, moves)).collect::<Result<_, _>>()?;
        Ok(Self { content: Content::Messages(messages), bytes })
    }
}

fn invalid(error: impl fmt::Display) -> HandedOverError {
    HandedOverError::Record(RecordError::Malformed { reason: error.to_string() })
}

fn message(
    bytes: Bytes,
    moves: impl Fn(&str) -> Result<(), HandedOverError>,
) -> Result<HandedMessage, HandedOverError> {
    let record = match record::decode(&bytes)? {
        Logged::Message(record) => record,
        Logged::TakenOver(_) => return Err(HandedOverError::Mixed),
        Logged::Lost => return Err(HandedOverError::Lost),
    };
    moves(record.subject)?;
    let publish = Publish {
        subject: Subject::new(record.subject.to_owned()).map_err(invalid)?,
        body: bytes.slice_ref(record.body),
        expiration: record.expiration,
        key: record.idempotency_key.map(IdempotencyKey::new).transpose().map_err(invalid)?,
        traceparent: record.traceparent.map(traceparent).transpose()?,
        trace: None,
    };
    let (id, published_at, print) = (record.id, record.published_at, Fingerprint::of(&record));
    Ok(HandedMessage { publish, id, published_at, print, bytes })
}

fn traceparent(text: &str) -> Result<Traceparent, HandedOverError> {
    Traceparent::parse(text.as_bytes()).ok_or_else(|| invalid("the traceparent is none"))
}

/// The word to close subjects, and where to say that it was heard.
#[derive(Debug)]
pub(super) struct Closing {
    pub closed: Option<Closed>,
    /// Gets the last record of before.
    pub heard: oneshot::Sender<Durable>,
}

/// What was handed over, and where its answer goes.
#[derive(Debug)]
pub(super) struct TakingOver {
    pub handed_over: HandedOver,
    pub reply: TakenOverReply,
}

/// Where the answer to what was handed over goes: that it is durable, and known.
pub(super) type TakenOverReply = oneshot::Sender<Result<(), TakeOverError>>;

/// Why nothing of what was handed over was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeOverError {
    /// As a publish is refused.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Keys for which others would be forgotten, whose retries would then be second messages.
    #[error(transparent)]
    Keys(#[from] KeysFull),
}

impl Publisher {
    /// From now on `closed` subjects get no ids; None: all do. Everything that got one is durable at the position that is returned,
    /// and what comes later is refused with [`PublishError::Moving`].
    ///
    /// # Errors
    /// [`PublishError::LogFailed`], [`PublishError::ShuttingDown`].
    pub async fn close(&self, closed: Option<Closed>) -> Result<Durable, PublishError> {
        let (heard, answer) = oneshot::channel();
        self.command(Command::Close(Closing { closed, heard })).await?;
        answer.await.map_err(|_dropped| self.gone())
    }

    /// Writes what another node hands over; returns when it is durable and its ids are known. What is known already is left out. One
    /// after the other: a part comes when the one before it has been answered.
    ///
    /// # Errors
    /// [`TakeOverError`]; but for [`PublishError::LogFailed`] nothing was taken.
    pub async fn take_over(&self, handed_over: HandedOver) -> Result<(), TakeOverError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::TakeOver(TakingOver { handed_over, reply })).await?;
        answer.await.unwrap_or_else(|_dropped| Err(self.gone().into()))
    }

    async fn command(&self, command: Command) -> Result<(), PublishError> {
        if self.has_ended() {
            return Err(self.gone());
        }
        let inner = self.inner();
        inner.queue.send_async(command).await.map_err(|_gone| self.gone())?;
        // As for publishes: one of the two sees the other.
        if self.committer_has_ended() {
            inner.unread.drain().for_each(drop);
        }
        Ok(())
    }
}
