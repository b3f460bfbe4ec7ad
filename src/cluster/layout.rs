//! The layout: a version, the nodes with their addresses, and the owner of each slot.

use std::collections::BTreeMap;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use xxhash_rust::xxh3::Xxh3Default;

use super::moves::{Moved, NodeUnknown};
use crate::event::{SLOTS, Slot, SlotSet, SlotSetError};

/// Bytes of a node's name at most: that of a DNS label, as the pods of a StatefulSet have it.
const NAME_BYTES_MAX: usize = 63;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its stable name.
    pub name: String,
    /// `HOST:PORT` of its gRPC port. It may change without a new version.
    pub address: String,
}

/// Who owns which slot: as the settings say, and as slots have moved since ([`Moved`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    version: u64,
    /// By name.
    pub(super) nodes: Vec<Node>,
    /// The owner of each slot in the settings, as a place in `nodes`.
    configured: Vec<usize>,
    /// Its owner now.
    pub(super) owners: Vec<usize>,
    /// How often it has moved.
    pub(super) moves: Vec<u32>,
}

/// The version of a layout: that of the settings, and how many times a slot has moved since there is the cluster. `3`, or `3.512`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayoutVersion {
    /// `cluster.version`.
    pub configured: u64,
    /// Of all slots together.
    pub moves: u64,
}

impl fmt::Display for LayoutVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { configured, moves: 0 } => write!(formatter, "{configured}"),
            Self { configured, moves } => write!(formatter, "{configured}.{moves}"),
        }
    }
}

impl FromStr for LayoutVersion {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (configured, moves) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self { configured: configured.parse()?, moves: moves.parse()? })
    }
}

/// Why nodes and slots make no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A name that is none.
    #[error("the node name {name:?} of cluster.nodes is not 1 to {NAME_BYTES_MAX} letters, digits, `-`, `.` or `_`")]
    Name {
        /// The name.
        name: String,
    },
    /// An address that is none.
    #[error("the address {address:?} of node {name} (cluster.nodes) is not HOST:PORT")]
    Address {
        /// The node.
        name: String,
        /// Its address.
        address: String,
    },
    /// Two nodes at one address.
    #[error("the nodes {first} and {second} of cluster.nodes have the same address {address}; give each its own")]
    SameAddress {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// The address.
        address: String,
    },
    /// Slots of a node that is not there.
    #[error("cluster.slots gives slots to {name}, which is not in cluster.nodes")]
    UnknownNode {
        /// The node.
        name: String,
    },
    /// Slots that are none.
    #[error("cluster.slots ({name}): {error}")]
    Range {
        /// The node.
        name: String,
        /// What was read.
        error: SlotSetError,
    },
    /// A slot of two nodes.
    #[error("cluster.slots gives slot {slot} to {first} and to {second}; a slot has one owner")]
    TwoOwners {
        /// The slot.
        slot: u16,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A slot of none.
    #[error("cluster.slots gives slot {slot} to no node; every slot has an owner")]
    NoOwner {
        /// The slot.
        slot: u16,
    },
}

impl Layout {
    /// A layout of `nodes` (name to address). `slots` says which ranges each owns (`0-341+400`); without any, the nodes
    /// get equal shares in the order of their names.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn new(
        version: u64,
        nodes: &BTreeMap<String, String>,
        slots: &BTreeMap<String, String>,
    ) -> Result<Self, LayoutError> {
        let mut known: Vec<Node> = Vec::with_capacity(nodes.len());
        for (name, address) in nodes {
            check_node(name, address)?;
            if let Some(other) = known.iter().find(|other| other.address == *address) {
                let (first, second, address) = (other.name.clone(), name.clone(), address.clone());
                return Err(LayoutError::SameAddress { first, second, address });
            }
            known.push(Node { name: name.clone(), address: address.clone() });
        }
        let owners = if slots.is_empty() {
            // Slot s of node s * n / 1,024: shares that differ by one slot at most.
            Slot::all().map(|slot| slot.index() * known.len() / usize::from(SLOTS)).collect()
        } else {
            given(&known, slots)?
        };
        Ok(Self { version, nodes: known, configured: owners.clone(), owners, moves: vec![0; usize::from(SLOTS)] })
    }

    /// The same with slots that have moved.
    ///
    /// # Errors
    /// [`NodeUnknown`].
    pub fn with_moves(mut self, moves: &[Moved]) -> Result<Self, NodeUnknown> {
        for moved in moves {
            let to = self.find(&moved.to).ok_or_else(|| NodeUnknown(Box::new(moved.clone())))?;
            for slot in moved.slots.iter() {
                (self.owners[slot.index()], self.moves[slot.index()]) = (to, moved.number);
            }
        }
        Ok(self)
    }

    /// Its version.
    pub fn version(&self) -> LayoutVersion {
        let moves = self.moves.iter().map(|moves| u64::from(*moves)).sum();
        LayoutVersion { configured: self.version, moves }
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The place of a node in [`Self::nodes`].
    pub fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// The place of the slot's owner in [`Self::nodes`].
    pub fn owner_at(&self, slot: Slot) -> usize {
        self.owners[slot.index()]
    }

    /// The slot's owner.
    pub fn owner(&self, slot: Slot) -> &Node {
        &self.nodes[self.owner_at(slot)]
    }

    /// The slots of the node at this place.
    pub fn slots(&self, at: usize) -> SlotSet {
        Slot::all().filter(|slot| self.owner_at(*slot) == at).collect()
    }

    /// The whole of `cluster.slots`: `a=0-511,b=512-1023`.
    pub fn all_slots(&self) -> String {
        let of = |(at, node): (usize, &Node)| format!("{}={}", node.name, self.slots(at));
        self.nodes.iter().enumerate().map(of).collect::<Vec<_>>().join(",")
    }

    /// What `cluster.slots` says of the node at this place.
    pub fn configured_slots(&self, at: usize) -> SlotSet {
        Slot::all().filter(|slot| self.configured[slot.index()] == at).collect()
    }

    /// A number that tells apart what nodes were configured with: by version, names and owners, not by addresses, nor by what has moved.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3Default::new();
        hash.update(&self.version.to_le_bytes());
        for at in 0..self.nodes.len() {
            hash.update(format!("{}={};", self.nodes[at].name, self.configured_slots(at)).as_bytes());
        }
        hash.digest()
    }
}

fn check_node(name: &str, address: &str) -> Result<(), LayoutError> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !letters {
        return Err(LayoutError::Name { name: name.to_owned() });
    }
    let authority = address.parse::<http::uri::Authority>().ok();
    let is_address = |authority: &http::uri::Authority| {
        !authority.host().is_empty()
            && authority.port_u16().is_some_and(|port| port != 0)
            && !authority.as_str().contains('@')
    };
    if authority.as_ref().is_some_and(is_address) {
        return Ok(());
    }
    Err(LayoutError::Address { name: name.to_owned(), address: address.to_owned() })
}

/// The owner of each slot as it is given.
fn given(nodes: &[Node], slots: &BTreeMap<String, String>) -> Result<Vec<usize>, LayoutError> {
    let mut owners: Vec<Option<usize>> = vec![None; usize::from(SLOTS)];
    for (name, text) in slots {
        let found = nodes.iter().position(|node| node.name == *name);
        let at = found.ok_or_else(|| LayoutError::UnknownNode { name: name.clone() })?;
        let slots: SlotSet = text.parse().map_err(|error| LayoutError::Range { name: name.clone(), error })?;
        for slot in slots.iter() {
            if let Some(first) = owners[slot.index()].replace(at) {
                let first = nodes[first].name.clone();
                return Err(LayoutError::TwoOwners { slot: slot.number(), first, second: name.clone() });
            }
        }
    }
    let whole: Result<Vec<usize>, LayoutError> =
        owners.iter().zip(0..).map(|(owner, slot)| owner.ok_or(LayoutError::NoOwner { slot })).collect();
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const NODES: [(&str, &str); 3] = [("b", "h:2"), ("a", "h:1"), ("c", "h:3")];

    #[test]
    fn equal_shares_go_by_name() {
        let layout = Layout::new(1, &map(&NODES), &map(&[])).expect("a layout");
        assert_eq!(layout.all_slots(), "a=0-341,b=342-682,c=683-1023");
        assert_eq!(layout.owner(Slot::new(342).expect("a slot")).address, "h:2");
        let given = Layout::new(1, &map(&NODES), &map(&[("a", "0-341"), ("b", "342-682"), ("c", "683-1023")]));
        assert_eq!(given.as_ref(), Ok(&layout));
        let alone = Layout::new(1, &map(&NODES[..1]), &map(&[])).expect("a layout");
        assert_eq!(alone.all_slots(), "b=0-1023");
    }

    #[test]
    fn slots_may_be_given_in_parts_and_to_some_only() {
        let slots = map(&[("a", "0+2-9+1000-1023"), ("b", "1+10-999"), ("c", "")]);
        let layout = Layout::new(3, &map(&NODES), &slots).expect("a layout");
        assert_eq!(layout.all_slots(), "a=0+2-9+1000-1023,b=1+10-999,c=");
    }

    #[test]
    fn a_digest_tells_versions_and_owners_apart_and_not_addresses() {
        let digest = |version, nodes: &[(&str, &str)], slots: &[(&str, &str)]| {
            Layout::new(version, &map(nodes), &map(slots)).expect("a layout").digest()
        };
        let base = digest(1, &NODES, &[]);
        assert_eq!(base, digest(1, &[("a", "other:1"), ("b", "h:2"), ("c", "h:3")], &[]));
        assert_ne!(base, digest(2, &NODES, &[]));
        assert_ne!(base, digest(1, &NODES[..2], &[]));
        assert_ne!(base, digest(1, &NODES, &[("a", "0-341"), ("b", "342-681"), ("c", "682-1023")]));
    }

    #[test]
    fn what_makes_no_layout_is_named() {
        let refused = |nodes: &[(&str, &str)], slots: &[(&str, &str)]| {
            Layout::new(1, &map(nodes), &map(slots)).expect_err("refused").to_string()
        };
        assert!(refused(&[("a b", "h:1")], &[]).contains("\"a b\""));
        for address in ["h", "h:0", "h:x", ":1", "http://h:1", "u@h:1", ""] {
            assert!(refused(&[("a", address)], &[]).contains("HOST:PORT"), "{address}");
        }
        assert!(refused(&[("a", "h:1"), ("b", "h:1")], &[]).contains("same address h:1"));
        assert!(refused(&NODES, &[("d", "0-1023")]).contains("d, which is not in cluster.nodes"));
        for part in ["1024", "5-4", "x", "0-1024", "-1"] {
            assert!(refused(&NODES, &[("a", part)]).contains("is not a slot or a range"), "{part}");
        }
        assert!(refused(&NODES, &[("a", "0-9"), ("b", "9-1023")]).contains("slot 9 to a and to b"));
        assert!(refused(&NODES, &[("a", "0-9"), ("b", "11-1023")]).contains("slot 10 to no node"));
    }
}
