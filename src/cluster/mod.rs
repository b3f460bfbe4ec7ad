//! Which node of a cluster owns which subjects.
//!
//! Owns the slots and their hash ([`slot_of`]), the versioned [`Layout`] that gives each slot to a node, the copy of it in the
//! data directory, the rules by which a node starts with a layout or refuses ([`Claim`]), and how slots change hands
//! ([`Ownership`]). The rules and the file are described in docs/cluster.md.
//!
//! Must never: talk to another node; give a slot away that is not this node's, or take one whose data was not handed over.

mod claim;
mod kept;
mod layout;
mod moves;
mod ownership;
mod slot_set;
mod slots;

pub use claim::{Claim, ClaimError};
pub use kept::KeptError;
pub use layout::{Layout, LayoutError, LayoutVersion, Node};
pub use moves::{LearnError, Moved, NodeUnknown};
pub use ownership::{Change, ChangeError, NotOwner, Ownership};
pub use slot_set::{SlotSet, SlotSetError};
pub use slots::{SLOTS, Slot, slot_of};
