//! What this node owns, asked for each call.

use std::sync::Arc;

use super::layout::{Layout, Node};
use super::slots::{Slot, slot_of};

/// A layout as one of its nodes sees it. A clone shares it.
#[derive(Debug, Clone)]
pub struct Ownership {
    layout: Arc<Layout>,
    own: usize,
}

/// A subject of another node.
#[derive(Debug, Clone, Copy)]
pub struct NotOwner<'a> {
    /// Its slot.
    pub slot: Slot,
    /// The owner's place in [`Layout::nodes`].
    pub at: usize,
    /// Who owns it.
    pub owner: &'a Node,
    /// Version of the layout that says so.
    pub version: u64,
}

impl Ownership {
    pub(super) fn new(layout: Layout, own: usize) -> Self {
        Self { layout: Arc::new(layout), own }
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// This node.
    pub fn node(&self) -> &Node {
        &self.layout.nodes()[self.own]
    }

    /// Its slots, as `cluster.slots` has them.
    pub fn slots(&self) -> String {
        self.layout.slots(self.own)
    }

    /// Whether the slot is this node's.
    pub fn owns(&self, slot: Slot) -> bool {
        self.layout.owner_at(slot) == self.own
    }

    /// Checks that the subject is this node's.
    ///
    /// # Errors
    /// [`NotOwner`] says whose it is.
    pub fn check(&self, subject: &str) -> Result<(), NotOwner<'_>> {
        let slot = slot_of(subject.as_bytes());
        if self.owns(slot) {
            return Ok(());
        }
        let at = self.layout.owner_at(slot);
        Err(NotOwner { slot, at, owner: &self.layout.nodes()[at], version: self.layout.version() })
    }
}
