//! Slots that have moved: who gave them to whom, and which of two accounts is the newer one.
//!
//! Only the owner of a slot gives it away, and counts up the slot's number with it. So of two layouts the one with the higher number
//! knows more of the slot, whatever else they know, and nobody has to be asked who was first.

use super::layout::Layout;
use crate::event::{Slot, SlotSet};

/// Slots that have moved together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Which.
    pub slots: SlotSet,
    /// Who owns them since: the name of a node.
    pub to: String,
    /// How often each of them has moved, at least 1.
    pub number: u32,
}

/// A slot has moved to a node that the layout does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slots {} have moved to node {}, which is not in cluster.nodes; add it there with its address", .0.slots, .0.to)]
pub struct NodeUnknown(pub Box<Moved>);

/// Why what another node knows cannot be learnt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LearnError {
    /// A node that the settings do not have.
    #[error(transparent)]
    NodeUnknown(#[from] NodeUnknown),
    /// The same number, and two owners: only one of them was given the slot by who owned it.
    #[error(
        "slot {slot} has two owners after {number} moves: {ours} here, {theirs} there; one of the two nodes has the data directory of another cluster, or a copy"
    )]
    TwoOwners {
        /// The slot.
        slot: Slot,
        /// How often it has moved.
        number: u32,
        /// Its owner here.
        ours: String,
        /// Its owner there.
        theirs: String,
    },
}

impl Layout {
    /// What has moved since the settings, in order of the slots.
    pub fn moved(&self) -> Vec<Moved> {
        self.moved_of(&Slot::all().collect())
    }

    /// What of these slots has.
    pub fn moved_of(&self, slots: &SlotSet) -> Vec<Moved> {
        let mut all: Vec<Moved> = Vec::new();
        for slot in slots.iter().filter(|slot| self.moves[slot.index()] > 0) {
            let (to, number) = (&self.owner(slot).name, self.moves[slot.index()]);
            match all.iter_mut().find(|moved| moved.to == *to && moved.number == number) {
                Some(moved) => moved.slots.insert(slot),
                None => all.push(Moved { slots: SlotSet::from_iter([slot]), to: to.clone(), number }),
            }
        }
        all
    }

    /// This layout once its owners have given these slots to the node at this place.
    #[must_use]
    pub fn after_move(&self, slots: &SlotSet, to: usize) -> Self {
        let mut after = self.clone();
        for slot in slots.iter() {
            after.owners[slot.index()] = to;
            after.moves[slot.index()] += 1;
        }
        after
    }

    /// This layout with what another one knows better, slot by slot, and why the rest of it cannot be learnt: one slot that contradicts
    /// what is known here keeps nobody from hearing of the others.
    pub fn learnt(&self, theirs: &[Moved]) -> (Self, Option<LearnError>) {
        let (mut learnt, mut refused) = (self.clone(), None);
        for moved in theirs {
            let Some(to) = self.find(&moved.to) else {
                refused.get_or_insert_with(|| NodeUnknown(Box::new(moved.clone())).into());
                continue;
            };
            for slot in moved.slots.iter() {
                let (number, at) = (self.moves[slot.index()], slot.index());
                if moved.number > number {
                    (learnt.owners[at], learnt.moves[at]) = (to, moved.number);
                } else if moved.number == number && self.owners[at] != to {
                    let (ours, theirs) = (self.owner(slot).name.clone(), moved.to.clone());
                    refused.get_or_insert(LearnError::TwoOwners { slot, number, ours, theirs });
                }
            }
        }
        (learnt, refused)
    }

    /// This layout with these slots as another one has them.
    #[must_use]
    pub(super) fn with_slots_of(mut self, other: &Self, slots: &SlotSet) -> Self {
        for slot in slots.iter() {
            let at = slot.index();
            (self.owners[at], self.moves[at]) = (other.owners[at], other.moves[at]);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let nodes = ["a", "b", "c"].map(|name| (name.to_owned(), format!("{name}:1")));
        let slots = [("a", "0-511"), ("b", "512-1023"), ("c", "")];
        let slots = slots.map(|(name, slots)| (name.to_owned(), slots.to_owned()));
        Layout::new(1, &nodes.into(), &slots.into()).expect("a layout")
    }

    fn set(text: &str) -> SlotSet {
        text.parse().expect("slots")
    }

    #[test]
    fn moves_of_two_owners_come_together_in_any_order() {
        let of_a = layout().after_move(&set("0-99"), 2);
        let of_b = layout().after_move(&set("600-609"), 2);
        let (both, none) = of_a.learnt(&of_b.moved());
        assert_eq!(none, None, "no contradiction");
        assert_eq!(both.all_slots(), "a=100-511,b=512-599+610-1023,c=0-99+600-609");
        assert_eq!((both.clone(), None), of_b.learnt(&of_a.moved()));
        assert_eq!(both.learnt(&of_a.moved()), (both.clone(), None), "nothing new");
        assert_eq!((both.version().to_string(), both.digest()), ("1.110".to_owned(), layout().digest()));
        assert_eq!(layout().with_moves(&both.moved()), Ok(both.clone()));
        let moved = |slots: &str, number| Moved { slots: set(slots), to: "c".to_owned(), number };
        assert_eq!(both.moved_of(&set("90-199+605")), [moved("90-99+605", 1)]);
        assert_eq!(both.after_move(&set("95-99"), 2).moved_of(&set("90-99")), [moved("90-94", 1), moved("95-99", 2)]);
        // Back to where they came from, and on.
        let back = both.after_move(&set("0-49"), 0);
        assert_eq!(both.learnt(&back.moved()), (back.clone(), None), "newer");
        assert_eq!(back.learnt(&both.moved()), (back, None), "older");
    }

    #[test]
    fn two_owners_of_one_number_and_strangers_are_refused_and_the_rest_is_learnt() {
        let (to_b, to_c) = (layout().after_move(&set("7"), 1), layout().after_move(&set("7-9"), 2));
        let (learnt, error) = to_b.learnt(&to_c.moved());
        let error = error.expect("two owners");
        assert!(error.to_string().contains("slot 7 has two owners after 1 moves: b here, c there"), "{error}");
        assert_eq!(learnt.all_slots(), "a=0-6+10-511,b=7+512-1023,c=8-9");
        let stranger = Moved { slots: set("7"), to: "d".to_owned(), number: 9 };
        let (learnt, error) =
            to_b.learnt(&[std::slice::from_ref(&stranger), &to_c.after_move(&set("7"), 0).moved()[..]].concat());
        assert_eq!(error, Some(LearnError::NodeUnknown(NodeUnknown(Box::new(stranger)))));
        assert_eq!(learnt.all_slots(), "a=0-7+10-511,b=512-1023,c=8-9");
    }
}
