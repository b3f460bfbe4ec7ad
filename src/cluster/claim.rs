//! Whether a node may start with a layout: by what its data directory keeps, and by the subjects it has data of.

use std::path::PathBuf;
use std::sync::Arc;

use super::kept::{self, Kept, KeptError};
use super::layout::{Layout, LayoutError};
use super::moves::NodeUnknown;
use super::ownership::Ownership;
use crate::event::{SLOTS, Slot, SlotSet, slot_of};
use crate::wal::FileSystem;

/// Why a node does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The settings make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The kept layout cannot be read or written.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// Slots have moved to a node that the settings lack.
    #[error(transparent)]
    Moved(#[from] NodeUnknown),
    /// A cluster's data directory, and no cluster in the settings.
    #[error(
        "the data directory is of node {node} of a cluster, and cluster.node is not set: alone it would give ids to subjects of other nodes; set cluster.node and cluster.nodes, or choose another data directory with --data-dir"
    )]
    NoCluster {
        /// Whose it is.
        node: String,
    },
    /// Not in the layout.
    #[error("cluster.node is {node}, which is not in cluster.nodes; add it there with its address")]
    NotInLayout {
        /// The node.
        node: String,
    },
    /// Another node's data directory.
    #[error(
        "the data directory is of node {kept}, and cluster.node is {node}: give each node the data directory that it had, or an empty one to a new node"
    )]
    AnotherNode {
        /// Whose it is.
        kept: String,
        /// Who starts.
        node: String,
    },
    /// A layout that was replaced.
    #[error(
        "cluster.version is {version}, and the data directory has layout {kept} already: configure layout {kept}, which is cluster.slots = {slots}"
    )]
    Older {
        /// Of the settings.
        version: String,
        /// Of the data directory.
        kept: String,
        /// Its slots.
        slots: String,
    },
    /// Two layouts of one version.
    #[error(
        "the settings have another layout {version} than the data directory, where it is cluster.slots = {slots}: configure that one, or raise cluster.version with what changes"
    )]
    SameVersion {
        /// Of both.
        version: String,
        /// Of the data directory.
        slots: String,
    },
    /// Slots that another node may have data of.
    #[error(
        "layout {version} gives slots {gained} to {node}, which other nodes own in layout {kept} and may have data of: ids would be given twice; keep who owns what with cluster.slots = {slots}"
    )]
    Gains {
        /// Of the settings.
        version: String,
        /// Of the data directory.
        kept: String,
        /// The node that starts.
        node: String,
        /// What it would get.
        gained: String,
        /// The slots of the data directory.
        slots: String,
    },
    /// Slots that nobody could take.
    #[error(
        "layout {version} takes slots {given} from {node}, which owns them in layout {kept}: no other node can take them so, since it may not know their ids; keep who owns what with cluster.slots = {slots}, and give slots to another node with `walcast cluster move`"
    )]
    GivesAway {
        /// Of the settings.
        version: String,
        /// Of the data directory.
        kept: String,
        /// The node that starts.
        node: String,
        /// What it would lose.
        given: String,
        /// The slots of the data directory.
        slots: String,
    },
    /// A new node in an old cluster.
    #[error(
        "the data directory of {node} is new, and layout {version} gives it slots {slots}, which others may have data of, or which it had data of itself: only in layout 1 does a new node own slots; give them to the nodes that had them with cluster.slots, or restore the data directory of {node} from its volume"
    )]
    NewNode {
        /// The node that starts.
        node: String,
        /// Of the settings.
        version: String,
        /// What it would get.
        slots: String,
    },
    /// Data of slots that are another's.
    #[error(
        "the data directory has {subjects} subjects of slots {slots}, which layout {version} gives to other nodes: their messages would be out of reach and their ids given twice; give these slots to {node} with cluster.slots"
    )]
    Loses {
        /// How many.
        subjects: u64,
        /// Their slots.
        slots: String,
        /// Of the settings.
        version: String,
        /// The node that starts.
        node: String,
    },
}

/// A layout that the kept one allows; to be proved against the data before anything is served.
#[derive(Debug)]
pub struct Claim {
    files: Arc<dyn FileSystem>,
    directory: PathBuf,
    kept: Option<Kept>,
    now: Kept,
    own: usize,
}

impl Claim {
    /// Checks that this is no cluster's data directory; for a broker without a cluster.
    ///
    /// # Errors
    /// [`ClaimError::NoCluster`] if it is; [`ClaimError::Kept`].
    pub fn none(files: &dyn FileSystem, directory: &std::path::Path) -> Result<(), ClaimError> {
        match kept::read(files, directory)? {
            Some(Kept { node, .. }) => Err(ClaimError::NoCluster { node }),
            None => Ok(()),
        }
    }

    /// Checks `layout` for `node` against what `directory` keeps. Changes nothing.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn new(files: Arc<dyn FileSystem>, directory: PathBuf, node: &str, layout: Layout) -> Result<Self, ClaimError> {
        let kept = kept::read(&*files, &directory)?;
        let own = layout.find(node).ok_or_else(|| ClaimError::NotInLayout { node: node.to_owned() })?;
        let moved = kept.as_ref().map(|kept| kept.layout.moved()).unwrap_or_default();
        let node = node.to_owned();
        let now = match &kept {
            Some(kept) => {
                is_of(kept, &node)?;
                let layout = layout.with_moves(&moved)?;
                follows(kept, &layout, own)?;
                Kept { node, layout, copies: kept.copies, ready: kept.ready.clone() }
            }
            None => {
                begins(&layout, own)?;
                Kept { node, layout, copies: SlotSet::default(), ready: Vec::new() }
            }
        };
        Ok(Self { files, directory, kept, now, own })
    }

    /// The layout, with what has moved.
    pub fn layout(&self) -> &Layout {
        &self.now.layout
    }

    /// The slots of this node.
    pub fn slots(&self) -> SlotSet {
        self.now.layout.slots(self.own)
    }

    /// Whether this node gives the ids of a subject, or will once it learns that the slot is its own.
    pub fn gives_ids(&self, subject: &[u8]) -> bool {
        let slot = slot_of(subject);
        self.now.layout.owner_at(slot) == self.own || self.now.ready.iter().any(|ready| ready.slots.contains(slot))
    }

    /// Checks that all subjects of the data directory are of own slots, or of slots that were given away or were to be taken over,
    /// and keeps the layout. `subjects` hands each subject's bytes to the function that it is given.
    ///
    /// # Errors
    /// [`ClaimError::Loses`]; [`ClaimError::Kept`].
    pub fn prove(self, subjects: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Result<Ownership, ClaimError> {
        let Self { files, directory, kept, now, own } = self;
        let mut foreign = vec![0_u64; usize::from(SLOTS)];
        let may_be_here = now.layout.slots(own).union(&now.copies);
        subjects(&mut |subject| {
            let slot = slot_of(subject);
            foreign[slot.index()] += u64::from(!may_be_here.contains(slot));
        });
        let slots: SlotSet = Slot::all().filter(|slot| foreign[slot.index()] > 0).collect();
        if !slots.is_empty() {
            return Err(ClaimError::Loses {
                subjects: foreign.iter().sum(),
                slots: slots.to_string(),
                version: now.layout.version().to_string(),
                node: now.node,
            });
        }
        if kept.as_ref() != Some(&now) {
            kept::write(&*files, &directory, &now)?;
        }
        Ok(Ownership::new(files, directory, now, own))
    }
}

fn is_of(kept: &Kept, node: &str) -> Result<(), ClaimError> {
    if kept.node == node {
        return Ok(());
    }
    Err(ClaimError::AnotherNode { kept: kept.node.clone(), node: node.to_owned() })
}

/// Whether a node that keeps a layout may go on with this one: slots do not change hands by settings. What one node took, another
/// could not prove to be without data; what one gave away, nobody could take.
fn follows(kept: &Kept, layout: &Layout, own: usize) -> Result<(), ClaimError> {
    let before = &kept.layout;
    let (now_version, before_version) = (layout.version().configured, before.version().configured);
    let (version, kept_version) = (layout.version().to_string(), before.version().to_string());
    if now_version <= before_version {
        // What has moved since is no setting: it is kept as it is.
        let (version, kept, slots) =
            (now_version.to_string(), before_version.to_string(), setting(before, |at| before.configured_slots(at)));
        return match now_version == before_version {
            true if layout.digest() == before.digest() => Ok(()),
            true => Err(ClaimError::SameVersion { version, slots }),
            false => Err(ClaimError::Older { version, kept, slots }),
        };
    }
    let slots = setting(before, |at| before.slots(at));
    let node = kept.node.clone();
    let had = before.find(&node).map(|at| before.slots(at)).unwrap_or_default();
    let has = layout.slots(own);
    let gained = has.minus(&had);
    if !gained.is_empty() {
        return Err(ClaimError::Gains { version, kept: kept_version, node, gained: gained.to_string(), slots });
    }
    let given = had.minus(&has);
    if !given.is_empty() {
        return Err(ClaimError::GivesAway { version, kept: kept_version, node, given: given.to_string(), slots });
    }
    Ok(())
}

/// `cluster.slots` as it may be set: who owns none need not be in `cluster.nodes` any more.
fn setting(layout: &Layout, slots: impl Fn(usize) -> SlotSet) -> String {
    let owners = layout.nodes().iter().enumerate().map(|(at, node)| (node, slots(at)));
    let owners = owners.filter(|(_, slots)| !slots.is_empty());
    owners.map(|(node, slots)| format!("{}={slots}", node.name)).collect::<Vec<_>>().join(",")
}

/// Whether a node that keeps none may start with this one.
fn begins(layout: &Layout, own: usize) -> Result<(), ClaimError> {
    let (version, slots) = (layout.version().configured, layout.slots(own));
    if version == 1 || slots.is_empty() {
        return Ok(());
    }
    let (node, slots) = (layout.nodes()[own].name.clone(), slots.to_string());
    Err(ClaimError::NewNode { node, version: version.to_string(), slots })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wal::DiskFileSystem;

    fn layout(version: u64, slots: &str) -> Layout {
        layout_of(&["a", "b"], version, slots)
    }

    fn layout_of(nodes: &[&str], version: u64, slots: &str) -> Layout {
        let nodes = nodes.iter().map(|name| ((*name).to_owned(), format!("{name}:1")));
        let slots = slots.split_terminator(',').filter_map(|part| part.split_once('='));
        let slots = slots.map(|(name, ranges)| (name.to_owned(), ranges.to_owned())).collect();
        Layout::new(version, &nodes.collect::<BTreeMap<_, _>>(), &slots).expect("a layout")
    }

    /// A start of `node` with this layout and these subjects.
    fn start(
        directory: &std::path::Path,
        node: &str,
        layout: Layout,
        subjects: &[&str],
    ) -> Result<Ownership, ClaimError> {
        let claim = Claim::new(Arc::new(DiskFileSystem), directory.to_owned(), node, layout)?;
        claim.prove(|visit| subjects.iter().for_each(|subject| visit(subject.as_bytes())))
    }

    fn subject_in(slots: std::ops::Range<u16>) -> String {
        let names = (0..).map(|number| format!("s{number}"));
        names.into_iter().find(|name| slots.contains(&slot_of(name.as_bytes()).number())).expect("one of many")
    }

    #[test]
    fn a_node_goes_on_with_its_layout_and_with_a_newer_one_that_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let own = subject_in(0..512);
        let owned = start(path, "a", layout(1, ""), &[]).expect("new");
        assert!(owned.check(&own).is_ok());
        let other = subject_in(512..1024);
        assert_eq!(owned.check(&other).expect_err("of b").owner().name, "b");
        start(path, "a", layout(1, ""), &[&own]).expect("the same");
        start(path, "a", layout(3, "a=0-511,b=512-1023"), &[&own]).expect("newer");
        let error = start(path, "a", layout(2, ""), &[&own]).expect_err("older");
        assert!(matches!(&error, ClaimError::Older { version, kept, .. } if version == "2" && kept == "3"), "{error}");
    }

    #[test]
    fn what_would_split_a_slot_is_refused_and_keeps_what_was_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let own = subject_in(256..512);
        start(path, "a", layout(1, ""), &[]).expect("new");
        let before = std::fs::read(path.join("layout")).expect("kept");
        let refused = |node, layout| start(path, node, layout, &[&own]).expect_err("refused");
        let error = refused("b", layout(1, ""));
        assert!(matches!(error, ClaimError::AnotherNode { .. }), "{error}");
        let error = refused("c", layout(1, ""));
        assert!(matches!(error, ClaimError::NotInLayout { .. }), "{error}");
        let error = refused("a", layout(1, "a=0-255,b=256-1023"));
        assert!(matches!(error, ClaimError::SameVersion { .. }), "{error}");
        let error = refused("a", layout(2, "a=0-513,b=514-1023"));
        assert!(error.to_string().contains("512-513"), "{error}");
        assert!(error.to_string().contains("cluster.slots = a=0-511,b=512-1023"), "{error}");
        let error = refused("a", layout(2, "a=0-255,b=256-1023"));
        assert!(matches!(&error, ClaimError::GivesAway { given, .. } if given == "256-511"), "{error}");
        let error = refused("a", layout(2, "a=256-511,b=0-255+512-1023"));
        assert!(matches!(error, ClaimError::GivesAway { .. }), "nobody could take what it has nothing of: {error}");
        let alone = Claim::none(&DiskFileSystem, path).expect_err("a cluster's");
        assert!(matches!(alone, ClaimError::NoCluster { .. }), "{alone}");
        assert_eq!(std::fs::read(path.join("layout")).expect("kept"), before);
    }

    #[test]
    fn what_a_refusal_says_of_slots_that_have_moved_can_be_configured() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let of_three = |slots: &str| layout_of(&["a", "b", "c"], 1, slots);
        let a = start(path, "a", of_three(""), &[]).expect("new");
        // All that c had.
        let moved = of_three("").after_move(&of_three("").slots(2), 1).moved();
        assert!(matches!(a.learn(&moved), Ok((_, None))));
        // c is taken out, and the shares of two are others than those of three.
        let error = start(path, "a", layout(2, ""), &[]).expect_err("it would get some of b's");
        let ClaimError::Gains { gained, slots, .. } = error else { panic!("another reason: {error}") };
        assert_eq!((&*gained, &*slots), ("342-511", "a=0-341,b=342-1023"));
        let error = start(path, "a", of_three("a=0-341,b=342-1023"), &[]).expect_err("not what it began with");
        let ClaimError::SameVersion { version, slots: configured } = error else { panic!("another reason: {error}") };
        assert_eq!((&*version, &*configured), ("1", "a=0-341,b=342-682,c=683-1023"));
        start(path, "a", of_three(&configured), &[]).expect("what it began with");
        let a = start(path, "a", layout(2, &slots), &[]).expect("as the refusal said");
        assert_eq!(a.layout().all_slots(), slots);
        let error = start(path, "a", of_three(""), &[]).expect_err("older");
        assert!(
            error.to_string().contains("configure layout 2, which is cluster.slots = a=0-341,b=342-1023"),
            "{error}"
        );
    }

    #[test]
    fn a_new_node_owns_slots_in_the_first_layout_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let error = start(path, "b", layout(2, ""), &[]).expect_err("refused");
        assert!(matches!(error, ClaimError::NewNode { .. }), "{error}");
        Claim::none(&DiskFileSystem, path).expect("nothing was kept");
        start(path, "b", layout(2, "a=0-1023"), &[]).expect("without slots");
    }

    #[test]
    fn a_single_nodes_data_may_become_a_nodes_that_owns_all_of_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let (low, high) = (subject_in(0..512), subject_in(512..1024));
        let error = start(path, "a", layout(1, ""), &[&low, &high]).expect_err("half is of b");
        assert!(matches!(error, ClaimError::Loses { subjects: 1, .. }), "{error}");
        start(path, "a", layout(1, "a=0-1023"), &[&low, &high]).expect("all is of a");
    }
}
