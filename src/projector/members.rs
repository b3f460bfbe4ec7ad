//! Who shares a database: the logs of one cluster's nodes, and whether one more may join.
//!
//! A database that is shared keeps one text, the [`Members`]: the newest layout that a node has come with, and of each node its log
//! and its slots. A node joins before it writes its first row and changes the text under a lock, or by compare and set. So rows of two
//! logs never meet on a subject: each slot has one log there, whatever the nodes are configured with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::event::{Slot, SlotSet, SlotSetError};

/// The largest text that is read: 64 nodes with the longest names and 1,024 slots in single ranges, twice, have 60 KB.
const BYTES_MAX: usize = 256 * 1024;

/// How many nodes or slots a refusal names.
const NAMED_MAX: usize = 8;

/// What a node of a cluster says of itself to a database that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Its name: `cluster.node`.
    pub node: String,
    /// The version of its layout as configured.
    pub version: u64,
    /// Every node of that layout with its slots, as `cluster.slots` has them: `0-341+400`, or nothing.
    pub slots: BTreeMap<String, String>,
    /// What has moved since.
    pub moved: Vec<MovedSlots>,
}

/// Slots that have changed hands. Of two accounts of a slot the one with the higher number is the newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MovedSlots {
    /// Which: `0-341+400`.
    pub slots: String,
    /// The node that has them since.
    pub to: String,
    /// How often each of them has moved, at least 1.
    pub number: u32,
}

/// Whose each slot is, and how often it has moved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Owners(BTreeMap<Slot, (String, u32)>);

impl Owners {
    fn of(configured: &BTreeMap<String, String>, moved: &[MovedSlots]) -> Result<Self, String> {
        let mut owners = Self::default();
        for (node, slots) in configured {
            owners.0.extend(read(slots)?.iter().map(|slot| (slot, (node.clone(), 0))));
        }
        owners.learn(moved)?;
        Ok(owners)
    }

    fn learn(&mut self, moved: &[MovedSlots]) -> Result<(), String> {
        for MovedSlots { slots, to, number } in moved {
            for slot in read(slots)?.iter() {
                match self.0.get(&slot) {
                    Some((_, known)) if known > number => {}
                    Some((owner, known)) if known == number && owner != to => {
                        return Err(format!(
                            "slot {slot} is one of {owner} there and one of {to} here after {number} moves: it is the database of \
                             another cluster, or one of the two has a copy of a data directory"
                        ));
                    }
                    _ => drop(self.0.insert(slot, (to.clone(), *number))),
                }
            }
        }
        Ok(())
    }

    fn number(&self, slot: Slot) -> u32 {
        self.0.get(&slot).map_or(0, |(_, number)| *number)
    }

    fn owns(&self, node: &str, slot: Slot) -> bool {
        self.0.get(&slot).is_some_and(|(owner, _)| owner == node)
    }

    fn slots(&self, node: &str) -> SlotSet {
        self.0.iter().filter(|(_, (owner, _))| owner == node).map(|(slot, _)| *slot).collect()
    }

    fn moved(&self) -> Vec<MovedSlots> {
        let mut moved: BTreeMap<(&str, u32), SlotSet> = BTreeMap::new();
        for (slot, (owner, number)) in self.0.iter().filter(|(_, (_, number))| *number > 0) {
            moved.entry((owner, *number)).or_default().insert(*slot);
        }
        let of = |((to, number), slots): ((&str, u32), SlotSet)| MovedSlots {
            slots: slots.to_string(),
            to: to.to_owned(),
            number,
        };
        moved.into_iter().map(of).collect()
    }
}

impl Membership {
    /// What it owns by its own account.
    fn owners(&self) -> Result<Owners, String> {
        Owners::of(&self.slots, &self.moved)
    }

    /// Whether it is the first node of its layout, which makes what only one may make.
    ///
    /// # Errors
    /// The first one, if it is another.
    pub(super) fn is_first(&self) -> Result<(), &str> {
        match self.slots.keys().next() {
            Some(first) if *first != self.node => Err(first),
            _ => Ok(()),
        }
    }
}

/// Who shares a database, as it is kept there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Members {
    /// The newest layout that a node has come with.
    version: u64,
    slots: BTreeMap<String, String>,
    /// What has moved since, by the accounts of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moved: Vec<MovedSlots>,
    /// By node.
    logs: BTreeMap<String, Member>,
}

/// A node that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    log_id: String,
    slots: String,
}

impl Members {
    /// Reads what is kept.
    pub(super) fn read(store: &'static str, text: &str) -> Result<Self, StoreError> {
        let unreadable = |reason: String| StoreError::Inconsistent {
            store,
            reason: format!("who shares it does not read ({reason}); it was changed by hand, or by a newer walcast"),
        };
        if text.len() > BYTES_MAX {
            return Err(unreadable(format!("it has {} bytes", text.len())));
        }
        serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))
    }

    /// As it is kept.
    pub(super) fn text(&self) -> String {
        // Maps with text keys, numbers and text: nothing that JSON does not have.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Their names and logs, for people.
    pub(super) fn named(&self) -> String {
        let mut named: Vec<String> =
            self.logs.iter().take(NAMED_MAX).map(|(node, member)| format!("{node} (log {})", member.log_id)).collect();
        if self.logs.len() > NAMED_MAX {
            named.push(format!("{} more", self.logs.len() - NAMED_MAX));
        }
        named.join(", ")
    }
}

/// The members once the log `log_id` of `me` has joined those that are there.
///
/// # Errors
/// Why it may not, and what to do.
pub(super) fn admit(there: Option<&Members>, log_id: &str, me: &Membership) -> Result<Members, String> {
    let nobody = || Members { version: me.version, slots: me.slots.clone(), moved: Vec::new(), logs: BTreeMap::new() };
    let mut members = there.cloned().unwrap_or_else(nobody);
    let before = Owners::of(&members.slots, &members.moved)?;
    is_the_same_cluster(&members, &before, log_id, me)?;
    let own = me.owners()?.slots(&me.node);
    let mut known = before;
    known.learn(&me.moved)?;
    for (node, member) in members.logs.iter_mut().filter(|(node, _)| **node != me.node) {
        let theirs = read(&member.slots)?;
        // What was given to this node is its own, whether who gave it has said so here, or a third node, or nobody.
        let is_given = |slot: &Slot| known.number(*slot) > 0 && known.owns(&me.node, *slot);
        if let Some(slot) = theirs.intersection(&own).iter().find(|slot| !is_given(slot)) {
            return Err(format!(
                "slot {slot} of {} is one of node {node} there (log {}): it is the database of another cluster, or {node} has to \
                 start with the layout that takes this slot away from it first",
                me.node, member.log_id
            ));
        }
        member.slots = theirs.minus(&own).to_string();
    }
    members.logs.insert(me.node.clone(), Member { log_id: log_id.to_owned(), slots: own.to_string() });
    if me.version > members.version {
        (members.version, members.slots) = (me.version, me.slots.clone());
    }
    let mut owners = Owners::of(&members.slots, &members.moved)?;
    owners.learn(&me.moved)?;
    members.moved = owners.moved();
    // Who has no slots and is in no layout any more has left.
    let layout = &members.slots;
    members.logs.retain(|node, member| !member.slots.is_empty() || layout.contains_key(node) || *node == me.node);
    Ok(members)
}

/// Whether names, logs and layouts can be those of one cluster.
fn is_the_same_cluster(members: &Members, owners: &Owners, log_id: &str, me: &Membership) -> Result<(), String> {
    let node = &me.node;
    let another = "point the store at another database, or give the node the data directory that it had";
    // One without slots has given its rows away, and may begin anew.
    let same_name = members.logs.get(node).filter(|member| !member.slots.is_empty());
    if let Some(member) = same_name.filter(|member| member.log_id != log_id) {
        return Err(format!(
            "node {node} has the log {} there, and this is the log {log_id}; {another}",
            member.log_id
        ));
    }
    if let Some((other, _)) = members.logs.iter().find(|(other, member)| *other != node && member.log_id == log_id) {
        return Err(format!("the log {log_id} is that of node {other} there, and this is node {node}; {another}"));
    }
    if me.version == members.version && me.slots != members.slots {
        return Err(format!(
            "layout {} is another one there ({}): it is the database of another cluster, or the nodes are configured with different \
             layouts of one version",
            me.version,
            shown(&members.slots)
        ));
    }
    if me.version > members.version {
        let unknown = |(other, member): &(&String, &Member)| {
            !member.slots.is_empty() && *other != node && !me.slots.contains_key(*other)
        };
        return match members.logs.iter().find(unknown) {
            Some((other, member)) => Err(format!(
                "node {other} has slots {} there, and layout {} does not know it: it is the database of another cluster",
                member.slots, me.version
            )),
            None => Ok(()),
        };
    }
    // A layout that was replaced is good as long as its slots are still this node's, or were given to it since.
    let (mine, now) = (me.owners()?, owners.slots(node));
    let is_stale = |slot: &Slot| !now.contains(*slot) && mine.number(*slot) <= owners.number(*slot);
    match mine.slots(node).iter().find(is_stale) {
        Some(slot) => Err(format!(
            "slot {slot} is not one of {node} in layout {}, the newest that nodes have come with, and this node has layout {}: \
             configure the newest, or another database if it is that of another cluster",
            members.version, me.version
        )),
        None => Ok(()),
    }
}

fn shown(slots: &BTreeMap<String, String>) -> String {
    let mut shown: Vec<String> = slots.iter().take(NAMED_MAX).map(|(node, slots)| format!("{node}={slots}")).collect();
    if slots.len() > NAMED_MAX {
        shown.push("...".to_owned());
    }
    shown.join(",")
}

/// The slots of `0-341+400`.
fn read(slots: &str) -> Result<SlotSet, String> {
    slots.parse().map_err(|error: SlotSetError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: &str, version: u64, slots: &str) -> Membership {
        let slots = slots.split(',').filter_map(|part| part.split_once('='));
        let slots = slots.map(|(name, slots)| (name.to_owned(), slots.to_owned())).collect();
        Membership { node: node.to_owned(), version, slots, moved: Vec::new() }
    }

    /// The same, and these slots have moved.
    fn after(me: Membership, moved: &[(&str, &str, u32)]) -> Membership {
        let moved = moved.iter().map(|(slots, to, number)| MovedSlots {
            slots: (*slots).to_owned(),
            to: (*to).to_owned(),
            number: *number,
        });
        Membership { moved: moved.collect(), ..me }
    }

    const LAYOUT: &str = "a=0-341,b=342-682,c=683-1023";

    fn of_three() -> Members {
        let first = admit(None, "01", &node("a", 1, LAYOUT)).expect("nobody is there");
        let second = admit(Some(&first), "02", &node("b", 1, LAYOUT)).expect("its own slots");
        admit(Some(&second), "03", &node("c", 1, LAYOUT)).expect("its own slots")
    }

    fn refused(members: &Members, log_id: &str, me: &Membership) -> String {
        admit(Some(members), log_id, me).expect_err("refused")
    }

    #[test]
    fn nodes_of_one_layout_join_and_come_again() {
        let members = of_three();
        assert_eq!(members.logs.len(), 3);
        for (log_id, name) in [("01", "a"), ("02", "b"), ("03", "c")] {
            assert_eq!(admit(Some(&members), log_id, &node(name, 1, LAYOUT)), Ok(members.clone()), "nothing to change");
        }
        assert_eq!((node("a", 1, LAYOUT).is_first(), node("b", 1, LAYOUT).is_first()), (Ok(()), Err("a")));
        assert_eq!(Members::read("test", &members.text()).expect("reads"), members);
        assert_eq!(members.named(), "a (log 01), b (log 02), c (log 03)");
    }

    #[test]
    fn another_cluster_is_refused_however_alike_it_is() {
        let members = of_three();
        let said = refused(&members, "04", &node("a", 1, LAYOUT));
        assert!(said.contains("log 01") && said.contains("log 04"), "the same names: {said}");
        let said = refused(&members, "01", &node("b", 1, LAYOUT));
        assert!(said.contains("node b has the log 02"), "the data directory of another node: {said}");
        let of_one = admit(None, "01", &node("a", 1, LAYOUT)).expect("nobody is there");
        let said = refused(&of_one, "01", &node("b", 1, LAYOUT));
        assert!(said.contains("that of node a"), "the same before b has joined: {said}");
        let said = refused(&members, "04", &node("x", 1, "x=0-511,y=512-1023"));
        assert!(said.contains("layout 1 is another one"), "{said}");
        let said = refused(&members, "04", &node("x", 2, "x=0-511,y=512-1023"));
        assert!(said.contains("does not know it"), "a newer layout without these nodes: {said}");
        let said = refused(&members, "04", &node("x", 2, "a=,b=,c=,x=0-1023"));
        assert!(said.contains("slot 0") && said.contains("node a"), "one that takes what they have: {said}");
        // Before those have joined that own the same slots.
        let first = admit(None, "01", &node("a", 3, "a=0-9,b=10-1023")).expect("nobody is there");
        let said = refused(&first, "04", &node("y", 2, "x=0-9,y=10-1023"));
        assert!(said.contains("slot 10") && said.contains("layout 3"), "an older layout of another cluster: {said}");
    }

    #[test]
    fn layouts_follow_each_other_node_by_node() {
        let members = of_three();
        let next = "a=0-100,b=342-682,c=683-1023,d=101-341";
        // Who gains comes after who loses.
        let said = refused(&members, "04", &node("d", 2, next));
        assert!(said.contains("slot 101") && said.contains("node a"), "{said}");
        let members = admit(Some(&members), "01", &node("a", 2, next)).expect("it gives some away");
        let members = admit(Some(&members), "04", &node("d", 2, next)).expect("and another takes them");
        admit(Some(&members), "02", &node("b", 1, LAYOUT)).expect("a stale layout that gives it the same slots");
        let said = refused(&members, "01", &node("a", 1, LAYOUT));
        assert!(said.contains("slot 101") && said.contains("layout 2"), "a stale one that gives it more: {said}");
    }

    #[test]
    fn a_node_without_slots_may_leave_and_begin_anew() {
        let members = of_three();
        let two = "a=0-341+683-1023,b=342-682,c=";
        let members = admit(Some(&members), "03", &node("c", 2, two)).expect("it gives all away");
        let members = admit(Some(&members), "01", &node("a", 2, two)).expect("and another takes them");
        admit(Some(&members), "09", &node("c", 2, two)).expect("with a new log");
        let members = admit(Some(&members), "01", &node("a", 3, "a=0-341+683-1023,b=342-682")).expect("newer");
        assert_eq!(members.logs.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn slots_move_whoever_says_so_first() {
        let members = of_three();
        let given = [("0-99", "c", 1)];
        let (a, c) = (after(node("a", 1, LAYOUT), &given), after(node("c", 1, LAYOUT), &given));
        let giver_first = admit(Some(&admit(Some(&members), "01", &a).expect("gives")), "03", &c).expect("takes");
        let taker_first = admit(Some(&admit(Some(&members), "03", &c).expect("takes")), "01", &a).expect("gives");
        assert_eq!(giver_first, taker_first);
        // A third node may know of it first.
        let third = admit(Some(&members), "02", &after(node("b", 1, LAYOUT), &given)).expect("it knows of the move");
        let third_first = admit(Some(&admit(Some(&third), "03", &c).expect("takes")), "01", &a).expect("gives");
        assert_eq!(third_first, giver_first);
        let said = refused(&third, "01", &node("a", 1, LAYOUT));
        assert!(said.contains("slot 0 is not one of a"), "it was set back: {said}");
        assert_eq!((&*giver_first.logs["a"].slots, &*giver_first.logs["c"].slots), ("100-341", "0-99+683-1023"));
        assert_eq!(Members::read("test", &giver_first.text()).expect("reads"), giver_first);
        admit(Some(&giver_first), "02", &node("b", 1, LAYOUT))
            .expect("who has not heard of it, and has nothing to do with it");
        let said = refused(&giver_first, "01", &node("a", 1, LAYOUT));
        assert!(said.contains("slot 0 is not one of a"), "set back to before it gave them away: {said}");
        let said = refused(&giver_first, "02", &after(node("b", 1, LAYOUT), &[("5", "b", 1)]));
        assert!(said.contains("slot 5"), "two that say it is theirs: {said}");
        // And back.
        let back = [("0-99", "a", 2)];
        let a_again = after(node("a", 1, LAYOUT), &back);
        let members = admit(Some(&giver_first), "01", &a_again).expect("takes them back");
        assert_eq!((&*members.logs["a"].slots, &*members.logs["c"].slots), ("0-341", "683-1023"));
        refused(&members, "03", &c);
    }

    #[test]
    fn what_was_changed_by_hand_is_said() {
        for text in ["", "{}", r#"{"version":1,"slots":{},"logs":{},"more":1}"#, &" ".repeat(BYTES_MAX + 1)] {
            let error = Members::read("test", text).expect_err("refused");
            assert!(matches!(error, StoreError::Inconsistent { .. }), "{error}");
        }
        let mut members = of_three();
        members.logs.get_mut("a").expect("there").slots = "0-x".to_owned();
        assert!(refused(&members, "02", &node("b", 1, LAYOUT)).contains("0-x"));
    }
}
