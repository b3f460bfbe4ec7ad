//! Which node of a cluster owns which subjects.
//!
//! Owns the versioned [`Layout`] that gives each slot to a node, the copy of it in the
//! data directory, the rules by which a node starts with a layout or refuses ([`Claim`]), and how slots change hands
//! ([`Ownership`]). The rules and the file are described in docs/cluster.md.
//!
//! Must never: talk to another node; give a slot away that is not this node's, or take one whose data was not handed over.

mod claim;
mod kept;
mod layout;
mod moves;
mod ownership;

pub use crate::event::{SLOTS, Slot, SlotSet, SlotSetError, slot_of};
pub use claim::{Claim, ClaimError};
pub use kept::KeptError;
pub use layout::{Layout, LayoutError, LayoutVersion, Node};
pub use moves::{LearnError, Moved, NodeUnknown};
pub use ownership::{Change, ChangeError, NotOwner, Ownership};
