//! Why slots do not move.

use crate::cluster::{KeptError, SlotSet};
use crate::ingest::{HandedOverError, PublishError, TakeOverError};
use crate::projector::StoreError;
use crate::wal::ReadError;

/// Why slots were not given. But for [`GiveError::Kept`] this node is their owner as before.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// Another move is under way.
    #[error("slots {slots} are moving to {to} now; wait for that move")]
    Busy {
        /// Which.
        slots: Box<SlotSet>,
        /// Where to.
        to: String,
    },
    /// No slots.
    #[error("no slots to move")]
    NoSlots,
    /// Slots of another node.
    #[error("slots {slots} are not of this node")]
    NotOwned {
        /// Which.
        slots: Box<SlotSet>,
    },
    /// A node that is none, or this one.
    #[error("{node:?} is not another node of the layout; add it to cluster.nodes of all nodes first")]
    NoSuchNode {
        /// Its name.
        node: String,
    },
    /// Messages that the store did not take.
    #[error(
        "the store did not take {letters} messages of these slots, which only this node has; take them with `walcast store retry`, or drop them, first"
    )]
    DeadLetters {
        /// How many subjects have some.
        letters: usize,
    },
    /// The other node did not answer, or not in time.
    #[error("node {node}: {reason}")]
    Unavailable {
        /// Its name.
        node: String,
        /// What happened.
        reason: String,
    },
    /// The other node refused.
    #[error("node {node} does not take the slots: {reason}")]
    Refused {
        /// Its name.
        node: String,
        /// What it said.
        reason: String,
    },
    /// The log cannot be read.
    #[error("read the log: {0}")]
    Read(#[from] ReadError),
    /// The log was trimmed faster than it was read.
    #[error("the log was trimmed while it was copied, {attempts} times; move fewer slots at once")]
    Trimmed {
        /// How often it was tried.
        attempts: u32,
    },
    /// It is not known yet what the log has.
    #[error("the log is being indexed after a start; try again in a while")]
    NotIndexed,
    /// The store cannot be read.
    #[error("read the store: {0}")]
    Store(#[from] StoreError),
    /// What there is cannot be read, or made a record of.
    #[error("copy the messages of the slots: {0}")]
    Copy(String),
    /// Nothing more is committed here.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The layout cannot be written: whose the slots are stands on the disk, and the next start reads it. The node ends.
    #[error(transparent)]
    Kept(#[from] KeptError),
}

/// Why a step of another node's was refused.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The caller does not own them, as far as is known here.
    #[error("slots {slots} are not of node {node} in layout {version}")]
    NotOwner {
        /// Which.
        slots: Box<SlotSet>,
        /// Who hands them over.
        node: String,
        /// The layout here.
        version: String,
    },
    /// Another move to this node is under way.
    #[error("slots {slots} are being handed over to this node already")]
    Busy {
        /// Which.
        slots: Box<SlotSet>,
    },
    /// Steps in another order than there is.
    #[error("{0}")]
    Order(&'static str),
    /// Stores of two kinds.
    #[error("this node has store.kind = {ours}, and node {node} has {theirs}: what it keeps would be out of reach")]
    Store {
        /// Who hands over.
        node: String,
        /// The kind here.
        ours: &'static str,
        /// Its kind.
        theirs: String,
    },
    /// Text that names no slots.
    #[error(transparent)]
    Slots(#[from] crate::cluster::SlotSetError),
    /// Records that may not come.
    #[error(transparent)]
    Records(#[from] HandedOverError),
    /// They are not taken, or cannot be written now.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// It cannot be noted on the disk.
    #[error(transparent)]
    Kept(#[from] KeptError),
}
