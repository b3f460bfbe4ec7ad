//! The layout: a version, the nodes with their addresses, and the owner of each slot.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::Xxh3Default;

use super::slots::{SLOTS, Slot};

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

/// Who owns which slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    version: u64,
    /// By name.
    nodes: Vec<Node>,
    /// The owner of each slot, as a place in `nodes`.
    owners: Vec<usize>,
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
    #[error("{part:?} of cluster.slots ({name}) is not a slot or a range such as 0-341, up to {}", SLOTS - 1)]
    Range {
        /// The node.
        name: String,
        /// What was read.
        part: String,
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
        Ok(Self { version, nodes: known, owners })
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
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

    /// The slots of the node at this place, as `cluster.slots` has them: `0-341+400`; empty for none.
    pub fn slots(&self, at: usize) -> String {
        let own: Vec<u16> = Slot::all().filter(|slot| self.owner_at(*slot) == at).map(Slot::number).collect();
        ranges(&own)
    }

    /// The whole of `cluster.slots`: `a=0-511,b=512-1023`.
    pub fn all_slots(&self) -> String {
        let of = |(at, node): (usize, &Node)| format!("{}={}", node.name, self.slots(at));
        self.nodes.iter().enumerate().map(of).collect::<Vec<_>>().join(",")
    }

    /// A number that tells layouts apart: by version, names and owners, not by addresses.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3Default::new();
        hash.update(&self.version.to_le_bytes());
        for at in 0..self.nodes.len() {
            hash.update(format!("{}={};", self.nodes[at].name, self.slots(at)).as_bytes());
        }
        hash.digest()
    }
}

/// Numbers in order as ranges.
pub(super) fn ranges(numbers: &[u16]) -> String {
    let mut found: Vec<(u16, u16)> = Vec::new();
    for &number in numbers {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => found.push((number, number)),
        }
    }
    let shown = |&(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    found.iter().map(shown).collect::<Vec<_>>().join("+")
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
        for part in text.split('+').filter(|part| !part.is_empty()) {
            let range = range(part).ok_or_else(|| LayoutError::Range { name: name.clone(), part: part.to_owned() })?;
            for slot in range {
                if let Some(first) = owners[usize::from(slot)].replace(at) {
                    let first = nodes[first].name.clone();
                    return Err(LayoutError::TwoOwners { slot, first, second: name.clone() });
                }
            }
        }
    }
    let whole: Result<Vec<usize>, LayoutError> =
        owners.iter().zip(0..).map(|(owner, slot)| owner.ok_or(LayoutError::NoOwner { slot })).collect();
    whole
}

fn range(part: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some(first..=last)
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
