//! The contract of a history store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::members::Membership;
use crate::event::{Expiration, MessageId, Projected, Sequence, Subject, UnixMicros};

/// A message to be kept: never fire and forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its place in the log.
    pub sequence: Sequence,
    /// Its subject.
    pub subject: Subject,
    /// Its id on the subject; (subject, id) is the key of the row.
    pub id: MessageId,
    /// When it was published.
    pub published_at: UnixMicros,
    /// How long it is kept from then on; at least one second.
    pub expiration: Expiration,
    /// Its body, 0 to `limits.body_bytes` bytes, any values.
    pub body: Bytes,
}

/// A run of the log, to be applied as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreBatch {
    /// The position that the store must be at before this batch.
    pub previous: Projected,
    /// The position that the store is at afterwards: the last record read, whether or not it made a row.
    pub projected: Projected,
    /// In log order. Empty when everything in the run was fire and forget.
    pub rows: Vec<Row>,
    /// Each subject of the run once, fire and forget included.
    pub high_water_marks: Vec<HighWaterMark>,
}

/// How far a subject is in a run of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HighWaterMark {
    /// The subject.
    pub subject: Subject,
    /// Its last id in the run.
    pub id: MessageId,
    /// The place of that message: a part of the run that ends before it must not say so.
    pub sequence: Sequence,
}

impl From<(Subject, (MessageId, Sequence))> for HighWaterMark {
    fn from((subject, (id, sequence)): (Subject, (MessageId, Sequence))) -> Self {
        Self { subject, id, sequence }
    }
}

/// A message as a store gives it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// When it was published.
    pub published_at: UnixMicros,
    /// How long it is kept from then on.
    pub expiration: Expiration,
    /// Its body, byte for byte.
    pub body: Bytes,
}

/// What a store that several nodes share knows of a message of another node ([`Store::fetch_foreign`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// The message: the contract's answer.
    Found(StoredMessage),
    /// It was published and can not be fetched any more, because it has expired or was fire and forget: the contract's
    /// "expired".
    Gone,
    /// Nobody but the owner can tell: it may be published and not be projected yet, or never published, or be one that this store
    /// did not take.
    Unknown,
}

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// To write: makes what is missing, and takes the store for this process, so that an older one is fenced.
    Take,
    /// To look: changes nothing, and fences nobody. `apply`, `rewrite` and `expire` are not to be called. Where there is no
    /// store yet, its position is the default one.
    Look,
}

/// Why a store is not taken for a log that lacks what it has.
pub(super) fn beyond_the_log(projected: Projected, end: Projected) -> String {
    let (projected, end) = (projected.sequence(), end.sequence());
    format!(
        "it is at sequence {projected}, but the log ends at {end}: another process has written what is beyond, from the data directory \
         that this one is an older copy of; start that one, or restore the log and the store from the same moment"
    )
}

/// Why a store cannot answer now.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or answered with a passing failure. Trying again later makes sense.
    #[error("the {store} store is unavailable: {reason}")]
    Unavailable {
        /// Which kind of store.
        store: &'static str,
        /// What it said.
        reason: String,
    },
    /// What it holds contradicts itself, another log or this version. Trying again does not help.
    #[error("the {store} store holds something else than it must: {reason}")]
    Inconsistent {
        /// Which kind of store.
        store: &'static str,
        /// What was found, where.
        reason: String,
    },
    /// It does not let walcast in: a wrong password, no such database, no right to make tables. Somebody has to act. Only
    /// [`Store::prepare`] says so; later the same is [`Self::Unavailable`], because somebody may be acting.
    #[error("the {store} store does not let walcast in: {reason}")]
    Refused {
        /// Which kind of store.
        store: &'static str,
        /// What it said.
        reason: String,
    },
    /// Another process writes to it: a second broker, or a newer start of this one. This one has to stop.
    #[error("the {store} store belongs to another walcast now: {reason}")]
    Fenced {
        /// Which kind of store.
        store: &'static str,
        /// Who has it.
        reason: String,
    },
    /// It failed and cannot go on without being opened again. Trying again does not help.
    #[error("the {store} store failed: {reason}; remove the cause and start walcast again")]
    Failed {
        /// Which kind of store.
        store: &'static str,
        /// What it said.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same call can succeed later without anybody's doing.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Why a batch was not applied. Nothing of it is visible then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is not at [`StoreBatch::previous`]: someone else writes to it, or a batch was left out.
    #[error("the store is at sequence {found}, this batch continues from {expected}")]
    WrongPosition {
        /// Where the store is.
        found: Projected,
        /// [`StoreBatch::previous`].
        expected: Projected,
    },
    /// The store does not take one of the rows, for what is in it. Trying again does not help; halves of the batch tell
    /// which row it is.
    #[error("the store does not take a row of the batch: {reason}")]
    Rejected {
        /// What the store said.
        reason: String,
    },
}

impl ApplyError {
    /// Whether applying the same batch again can succeed without anybody's doing.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.retryable(),
            Self::WrongPosition { .. } | Self::Rejected { .. } => false,
        }
    }
}

/// A history store: a view of one log, as far as that log was projected.
///
/// What every implementation promises, and `conformance` checks:
///
/// - **Together.** [`Store::apply`] makes the rows, the high-water marks and the position of a batch
///   durable and visible at once, or nothing of it. When it returns `Ok`, they survive `kill -9` and a power cut. A database
///   without transactions may show rows before the position: then applying the batch again changes nothing of them.
/// - **In order.** A batch applies only at its [`StoreBatch::previous`]; anything else is
///   [`ApplyError::WrongPosition`] and changes nothing. So a batch sent twice is applied once.
/// - **Again.** [`Store::rewrite`] puts rows of the same log back, as often as it is called: what is there stays as it is,
///   and position and high-water marks do not move.
/// - **Byte for byte.** Bodies and subjects come back as they were given, whatever bytes they have.
/// - **Until it expires.** [`Store::fetch`] finds a row at every `now` before
///   `published_at + expiration` and at none from then on, whether or not it was removed already.
/// - **One log.** A store belongs to the log it was first opened for, and refuses another by name.
/// - **One writer.** Of two processes that have it open, the one that was started first gets [`StoreError::Fenced`] from
///   [`Store::apply`], or the second is not let in.
/// - **Cancel safe.** A future that is dropped has either applied its batch or not; a later `projected`
///   waits for it and tells which.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The kind's name as in `store.kind`.
    fn kind(&self) -> &'static str;

    /// Which database its rows are in, as text that is the same at all nodes which share it; None if they are this node's alone.
    fn database(&self) -> Option<String> {
        None
    }

    /// Whether rows can be fetched at all; false for `none`, whose messages live in the log only.
    fn keeps_history(&self) -> bool {
        true
    }

    /// Makes first contact before the broker serves: makes what is missing, and takes the store for this process, so that an
    /// older one is fenced. A remote store waits a bounded time for its server.
    ///
    /// # Errors
    /// [`StoreError`]; one that is not [`StoreError::retryable`] refuses the start. After one that is, the first call that
    /// reaches the store does the same.
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Asks it something small, across the network if that is where it is: for who watches a store that nobody else needs.
    ///
    /// # Errors
    /// [`StoreError`]; one that is not [`StoreError::retryable`] is an answer, and the next batch gets it, too.
    async fn ask(&self) -> Result<(), StoreError> {
        self.projected().await.map(drop)
    }

    /// The last position that was applied; [`Projected::default`] for a fresh store.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    async fn projected(&self) -> Result<Projected, StoreError>;

    /// Applies a batch and its position together. Shared, so that a store may hand it to another thread
    /// or task without copying the rows.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing of the batch is visible then, except after a lost answer of a remote store,
    /// where [`Store::projected`] tells.
    async fn apply(&self, batch: &Arc<StoreBatch>) -> Result<(), ApplyError>;

    /// Writes rows of the log again, wherever the store is: for a replay. Leaves position and high-water marks alone, and
    /// makes the rows durable before it returns. A store without history has nothing to do.
    ///
    /// # Errors
    /// [`ApplyError`], never for the position; any of the rows may be there then, and all can be written again.
    async fn rewrite(&self, rows: &Arc<Vec<Row>>) -> Result<(), ApplyError>;

    /// The row of (subject, id), unless it is absent or expired at `now`.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot tell.
    async fn fetch(
        &self,
        subject: &Subject,
        id: MessageId,
        now: UnixMicros,
    ) -> Result<Option<StoredMessage>, StoreError>;

    /// The same on the calling thread, for a store in this process: one who is on a thread that may block already asks here, and
    /// saves a trip to another one. None, at once, for a store across a network.
    fn fetch_here(
        &self,
        _subject: &Subject,
        _id: MessageId,
        _now: UnixMicros,
    ) -> Option<Result<Option<StoredMessage>, StoreError>> {
        None
    }

    /// The messages of `subject` with ids above `after` that are not expired at `now`, in the order of their ids: up to
    /// `messages_max`, and none more once their bodies have `bytes_max` bytes. Nothing is left out between two of them, so
    /// an empty answer means that there are no more.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot tell.
    async fn after(
        &self,
        subject: &Subject,
        after: u32,
        messages_max: usize,
        bytes_max: usize,
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError>;

    /// The last id that was projected of a subject; always None if the store keeps no history.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot tell.
    async fn high_water_mark(&self, subject: &Subject) -> Result<Option<MessageId>, StoreError>;

    /// What this store knows of the message `id` of a subject of **another node** of the cluster: for a Fetch while that node
    /// cannot be asked. Says [`Foreign::Found`] and [`Foreign::Gone`] only where the owner would say so, too; what a store is not
    /// certain of, and every store that no other node writes to, is [`Foreign::Unknown`].
    ///
    /// Asks the server once or twice, within the bound of a read.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    async fn fetch_foreign(&self, subject: &Subject, id: MessageId, now: UnixMicros) -> Result<Foreign, StoreError> {
        let _ = (subject, id, now);
        Ok(Foreign::Unknown)
    }

    /// Notes in a store that several nodes share that it lacks live messages of these subjects, the last of which expires at the
    /// time beside it: what is absent there until then may be a dead letter of this node, so that others do not call it
    /// [`Foreign::Gone`]. Called before the position passes them. Nothing to do for any other store.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written to.
    async fn note_lacking(&self, subjects: &[(Subject, UnixMicros)]) -> Result<(), StoreError> {
        let _ = subjects;
        Ok(())
    }

    /// Tells a store that several nodes share of a newer layout of this node, which runs: after slots have moved. The node that gives
    /// slots away does it first, because a slot has one log there. Nothing to do for any other store.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] if the layout gives this node slots that another one has there, and the node stays as it is there;
    /// [`StoreError::Unavailable`]: it may have been told or not, and can be told again.
    async fn follow_layout(&self, membership: Membership) -> Result<(), StoreError> {
        let _ = membership;
        Ok(())
    }

    /// Gives back space of what expired at or before `now`. Called about every ten seconds; does a bounded
    /// amount of work, may keep an expired row longer and never touches one that is live at `now`.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be used.
    async fn expire(&self, now: UnixMicros) -> Result<(), StoreError>;
}
