//! What delivery asks of whoever keeps the messages of a subject.
//!
//! Delivery has the newest messages in its rings and knows nothing of log, index or store: the room that reads them
//! implements [`History`], and `broker` connects the two.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::event::{EncodedMessage, MessageId, Subject};

/// Which messages of a subject are asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The subject.
    pub subject: Arc<Subject>,
    /// Ids above this one; 0 for the first.
    pub after: u32,
    /// Ids up to this one, which is durable, and above `after`.
    pub through: u32,
    /// Whether messages that have expired are asked for as well, where they still are: who was subscribed when they came
    /// is to get them.
    pub expired_too: bool,
    /// Messages at most; at least 1.
    pub messages_max: usize,
    /// No more messages once they have as many bytes.
    pub bytes_max: usize,
}

/// A run of a subject's messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// In the order of their ids, above [`Ask::after`].
    pub messages: Vec<(MessageId, EncodedMessage)>,
    /// What is not in `messages` up to this id, which is above [`Ask::after`] and not beyond [`Ask::through`], cannot be had.
    pub through: u32,
}

/// What the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromLog {
    /// It has what comes first.
    Chunk(Chunk),
    /// It has nothing up to [`Ask::through`] before this id: what there is of the ids before it is in the store.
    NothingBefore(u32),
}

/// Why history cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The messages may be in a part of the log that is not indexed yet.
    #[error("the log is being indexed and may have the messages")]
    NotIndexed,
    /// The log cannot be read, or contradicts itself.
    #[error("{0}")]
    Log(String),
    /// The store cannot answer.
    #[error("{0}")]
    Store(String),
    /// Too much was ordered by subscribers that have gone, and is not passed over yet.
    #[error("too many reads of history wait, of subscribers that have gone")]
    Busy,
}

/// The messages of every subject that are durable, as far as they can be had.
#[async_trait]
pub trait History: fmt::Debug + Send + Sync + 'static {
    /// The last durable id of the subject; 0 if nothing was published on it. Every message up to it can be read here, if it
    /// can be had at all, and one with a higher id is handed to the fan-out after this answer.
    fn last_id(&self, subject: &Subject) -> u32;

    /// Reads the log. Brings at least one message, or settles at least one id.
    ///
    /// # Errors
    /// [`HistoryError`].
    async fn read_log(&self, ask: &Ask) -> Result<FromLog, HistoryError>;

    /// Reads what is not in the log any more: ids below `before`, which is above [`Ask::after`]. Brings at least one message,
    /// or settles at least one id.
    ///
    /// # Errors
    /// [`HistoryError`], for a store that is away once waiting for it makes no sense any more.
    async fn read_store(&self, ask: &Ask, before: u32) -> Result<Chunk, HistoryError>;
}
