//! What this node owns, asked for each call; it changes when slots move.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::kept::{self, Kept, KeptError};
use super::layout::{Layout, Node};
use super::moves::{LearnError, Moved};
use crate::event::{Slot, SlotSet, SlotSetError, slot_of};
use crate::wal::FileSystem;

/// The layout as one of its nodes sees it. A clone is the same. Every change is durable in the data directory before it is seen.
#[derive(Debug, Clone)]
pub struct Ownership(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: Arc<dyn FileSystem>,
    directory: PathBuf,
    /// This node, a place in the layout's nodes, which stay the same while it runs.
    own: usize,
    layout: ArcSwap<Layout>,
    /// What is on the disk. Held while it is written.
    kept: Mutex<Kept>,
}

/// A subject of another node.
#[derive(Debug, Clone)]
pub struct NotOwner {
    /// Its slot.
    pub slot: Slot,
    /// The owner's place in [`Layout::nodes`].
    pub at: usize,
    /// The layout that says so.
    pub layout: Arc<Layout>,
}

impl NotOwner {
    /// Who owns it.
    pub fn owner(&self) -> &Node {
        &self.layout.nodes()[self.at]
    }
}

/// Why the layout stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It contradicts what is known here.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// It names slots that are none.
    #[error(transparent)]
    Slots(#[from] SlotSetError),
    /// It cannot be written.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// Slots without their data.
    #[error(
        "slots {slots} have moved to this node, which was not given their data: its data directory is new, or was set back; restore it from its volume"
    )]
    NotReady {
        /// The slots.
        slots: SlotSet,
    },
}

/// What a newer layout changes for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Slots that it gets.
    pub gained: SlotSet,
    /// Slots that it has no longer.
    pub lost: SlotSet,
}

impl Ownership {
    pub(super) fn new(files: Arc<dyn FileSystem>, directory: PathBuf, kept: Kept, own: usize) -> Self {
        let layout = ArcSwap::from_pointee(kept.layout.clone());
        Self(Arc::new(Shared { files, directory, own, layout, kept: Mutex::new(kept) }))
    }

    /// The layout now.
    pub fn layout(&self) -> Arc<Layout> {
        self.0.layout.load_full()
    }

    /// This node's place in the layout's nodes.
    pub fn own(&self) -> usize {
        self.0.own
    }

    /// Name of this node.
    pub fn node(&self) -> String {
        self.0.layout.load().nodes()[self.0.own].name.clone()
    }

    /// Its slots.
    pub fn slots(&self) -> SlotSet {
        self.0.layout.load().slots(self.0.own)
    }

    /// Whether the slot is this node's.
    pub fn owns(&self, slot: Slot) -> bool {
        self.0.layout.load().owner_at(slot) == self.0.own
    }

    /// Checks that the subject is this node's.
    ///
    /// # Errors
    /// [`NotOwner`] says whose it is.
    pub fn check(&self, subject: &str) -> Result<(), NotOwner> {
        let slot = slot_of(subject.as_bytes());
        let layout = self.0.layout.load();
        let at = layout.owner_at(slot);
        if at == self.0.own {
            return Ok(());
        }
        Err(NotOwner { slot, at, layout: Arc::clone(&layout) })
    }

    /// Notes that records of these slots of another node may come into the log. A start accepts them from then on.
    ///
    /// # Errors
    /// [`KeptError`]; nothing has changed.
    pub fn expect_copies(&self, slots: &SlotSet) -> Result<(), KeptError> {
        self.change(|kept| {
            kept.copies = kept.copies.union(slots);
            // What was handed over before may lack what has come since.
            forget(&mut kept.ready, slots);
        })
    }

    /// Notes that these slots were handed over as a whole: everything of them is durable here. They become this node's when it
    /// learns that they have moved so.
    ///
    /// # Errors
    /// [`KeptError`]; nothing has changed.
    pub fn is_ready_for(&self, moved: &[Moved]) -> Result<(), KeptError> {
        self.change(|kept| {
            let slots = moved.iter().fold(SlotSet::default(), |slots, moved| slots.union(&moved.slots));
            forget(&mut kept.ready, &slots);
            kept.ready.extend_from_slice(moved);
        })
    }

    /// Gives slots of this node to the one at this place: from the moment that this is on the disk, that one is their owner, whether it
    /// knows or not.
    ///
    /// # Errors
    /// [`KeptError`]; it may be on the disk or not, so the node must end: its next start reads whose they are.
    pub fn give(&self, slots: &SlotSet, to: usize) -> Result<(), KeptError> {
        self.change(|kept| {
            kept.layout = kept.layout.after_move(slots, to);
            kept.copies = kept.copies.union(slots);
        })
    }

    /// What would change if this node knew what another one does; None if it knows no better, as far as that can be learnt.
    pub fn would_change(&self, theirs: &[Moved]) -> Option<Change> {
        let kept = self.0.kept.lock();
        let learnable = Learnable::of(&kept, theirs, self.0.own);
        (learnable.layout != kept.layout).then_some(learnable.change)
    }

    /// Takes over what another node knows better, and says why not all of it. A node that has lost slots of its own so, which it did
    /// not give away, was set back: the slots are the other's.
    ///
    /// # Errors
    /// [`KeptError`]; it may be on the disk or not, and can be learnt again.
    pub fn learn(&self, theirs: &[Moved]) -> Result<(Change, Option<ChangeError>), KeptError> {
        let mut kept = self.0.kept.lock();
        let Learnable { layout, change, refused } = Learnable::of(&kept, theirs, self.0.own);
        let mut next = kept.clone();
        next.layout = layout;
        forget(&mut next.ready, &change.gained);
        next.copies = next.copies.minus(&change.gained).union(&change.lost);
        self.put(&mut kept, next)?;
        Ok((change, refused))
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<(), KeptError> {
        let mut kept = self.0.kept.lock();
        let mut next = kept.clone();
        change(&mut next);
        self.put(&mut kept, next)
    }

    fn put(&self, kept: &mut Kept, next: Kept) -> Result<(), KeptError> {
        if *kept != next {
            kept::write(&*self.0.files, &self.0.directory, &next)?;
            *kept = next;
            self.0.layout.store(Arc::new(kept.layout.clone()));
        }
        Ok(())
    }
}

/// What of another node's knowledge can be learnt.
struct Learnable {
    /// The layout with it.
    layout: Layout,
    /// What this node gets and loses by it.
    change: Change,
    /// Why the rest cannot.
    refused: Option<ChangeError>,
}

impl Learnable {
    /// Only what was handed over to this node as a whole can it get. Slots that it cannot get stay as they are here; it hears of all
    /// others, above all of those that it has lost.
    fn of(kept: &Kept, theirs: &[Moved], own: usize) -> Self {
        let (learnt, refused) = kept.layout.learnt(theirs);
        let before = kept.layout.slots(own);
        let is_ready = |slot: &Slot| {
            let number = learnt.moves[slot.index()];
            kept.ready.iter().any(|ready| ready.number == number && ready.slots.contains(*slot))
        };
        let slots: SlotSet = learnt.slots(own).minus(&before).iter().filter(|slot| !is_ready(slot)).collect();
        let refused = match slots.is_empty() {
            true => refused.map(ChangeError::Learn),
            false => Some(ChangeError::NotReady { slots }),
        };
        let layout = learnt.with_slots_of(&kept.layout, &slots);
        let after = layout.slots(own);
        let change = Change { gained: after.minus(&before), lost: before.minus(&after) };
        Self { layout, change, refused }
    }
}

fn forget(moves: &mut Vec<Moved>, slots: &SlotSet) {
    moves.iter_mut().for_each(|moved| moved.slots = moved.slots.minus(slots));
    moves.retain(|moved| !moved.slots.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Claim;
    use crate::wal::DiskFileSystem;

    fn layout() -> Layout {
        let nodes = ["a", "b"].map(|name| (name.to_owned(), format!("{name}:1")));
        Layout::new(1, &nodes.into(), &std::collections::BTreeMap::new()).expect("a layout")
    }

    fn start(directory: &std::path::Path, node: &str) -> Ownership {
        let claim = Claim::new(Arc::new(DiskFileSystem), directory.join(node), node, layout()).expect("claims");
        claim.prove(|_visit| ()).expect("proves")
    }

    fn set(text: &str) -> SlotSet {
        text.parse().expect("slots")
    }

    /// What changed, and what was said of the rest.
    fn learn(node: &Ownership, moved: &[Moved]) -> (Change, String) {
        let (change, refused) = node.learn(moved).expect("written");
        (change, refused.map(|error| error.to_string()).unwrap_or_default())
    }

    /// Each step is on the disk before it is seen, and a start goes on from there.
    #[test]
    fn slots_move_and_a_start_knows_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let (a, b) = (start(directory.path(), "a"), start(directory.path(), "b"));
        let slots = set("10-19");
        let after = a.layout().after_move(&slots, 1).moved();
        b.expect_copies(&slots).expect("written");
        b.is_ready_for(&after).expect("written");
        assert_eq!(b.slots(), set("512-1023"), "ready is not owner");
        assert_eq!(start(directory.path(), "a").slots(), set("0-511"), "nothing was given");
        a.give(&slots, 1).expect("written");
        let again = start(directory.path(), "a");
        assert_eq!((a.slots(), again.slots()), (set("0-9+20-511"), set("0-9+20-511")));
        let b = {
            drop(b);
            start(directory.path(), "b")
        };
        let change = Change { gained: slots, lost: SlotSet::default() };
        assert_eq!(b.would_change(&again.layout().moved()), Some(change));
        assert_eq!(learn(&b, &again.layout().moved()), (change, String::new()));
        assert_eq!(learn(&b, &again.layout().moved()), (Change::default(), String::new()), "nothing new");
        assert_eq!(b.would_change(&again.layout().moved()), None);
        assert_eq!(start(directory.path(), "b").slots(), set("10-19+512-1023"));
        assert_eq!(b.layout().version().to_string(), "1.10");
    }

    #[test]
    fn a_node_takes_no_slots_without_their_data() {
        let directory = tempfile::tempdir().expect("a directory");
        let b = start(directory.path(), "b");
        let once = b.layout().after_move(&set("10-19"), 1);
        let refused = |moved: &[Moved]| learn(&b, moved).1;
        assert!(refused(&once.moved()).contains("slots 10-19 have moved to this node"));
        assert_eq!(b.would_change(&once.moved()), None);
        let again = once.after_move(&set("10-14"), 0).after_move(&set("10-14"), 1);
        b.is_ready_for(&[Moved { slots: set("10-14"), to: "b".to_owned(), number: 1 }]).expect("written");
        assert!(refused(&again.moved()).contains("slots 10-19 have moved"), "that was another time");
        assert_eq!(b.slots(), set("512-1023"));
        assert!(refused(&once.moved()).contains("slots 15-19 have moved"), "it has the others");
        assert_eq!((b.slots(), start(directory.path(), "b").slots()), (set("10-14+512-1023"), set("10-14+512-1023")));
    }

    #[test]
    fn what_cannot_be_learnt_hides_nothing_that_was_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let a = start(directory.path(), "a");
        // It was set back: since then it has given 5 away, and was given 600.
        let now = layout().after_move(&set("5"), 1).after_move(&set("600"), 0);
        let (change, refused) = learn(&a, &now.moved());
        assert!(refused.contains("slots 600 have moved to this node, which was not given their data"), "{refused}");
        assert_eq!(change, Change { gained: SlotSet::default(), lost: set("5") });
        assert_eq!(a.slots(), set("0-4+6-511"));
        let contradiction = layout().after_move(&set("5-6"), 0).moved();
        assert!(learn(&a, &contradiction).1.contains("slot 5 has two owners"), "6 is its own anyway");
    }

    #[test]
    fn who_was_set_back_loses_what_it_had_given_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let (a, elsewhere) = (start(directory.path(), "a"), layout().after_move(&set("5"), 1));
        assert_eq!(learn(&a, &elsewhere.moved()).0.lost, set("5"), "the other knows more");
        assert!(!a.owns(Slot::new(5).expect("a slot")));
    }
}
