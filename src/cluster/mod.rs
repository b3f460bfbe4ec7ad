//! Which node of a cluster owns which subjects.
//!
//! Owns the slots and their hash ([`slot_of`]), the versioned [`Layout`] that gives each slot to a node, the copy of it in the
//! data directory, and the rules by which a node starts with a layout or refuses ([`Claim`]). The rules and the file are
//! described in docs/cluster.md.
//!
//! Must never: talk to another node, or give a slot to a node because of what it hears. Only a layout does.

mod claim;
mod kept;
mod layout;
mod ownership;
mod slots;

pub use claim::{Claim, ClaimError};
pub use kept::KeptError;
pub use layout::{Layout, LayoutError, Node};
pub use ownership::{NotOwner, Ownership};
pub use slots::{SLOTS, Slot, slot_of};
