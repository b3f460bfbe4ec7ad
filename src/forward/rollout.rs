//! Layouts that are given to one node after the other: for a while some have the settings of before, and some the new ones.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Marker;

/// How long two versions of the settings are taken for an update that goes on: some tens of nodes at ten seconds each. One that takes
/// longer is stuck, or one of two nodes was forgotten, and somebody has to act.
const ROLLOUT_MAX: Duration = Duration::from_secs(600);

/// Nodes that are remembered: all that a layout can have. A marker is what its sender says, so names are bounded.
const NODES_MAX: usize = 64;

/// Which nodes were found to have other settings than this one, and since when.
#[derive(Debug, Default)]
pub(super) struct Rollouts(Mutex<HashMap<String, Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Of the node's settings.
    version: u64,
    since: Instant,
}

impl Rollouts {
    /// Whether the node of this marker, whose settings have another version than this node's, was found so a short time ago only: one of
    /// the two is about to get the other's settings.
    pub fn is_passing(&self, marker: &Marker, now: Instant) -> bool {
        let (mut nodes, version) = (self.0.lock(), marker.version.configured);
        if !nodes.contains_key(&marker.node) && nodes.len() >= NODES_MAX {
            // Those that nobody has told of for so long that it would not matter.
            nodes.retain(|_, seen| now.saturating_duration_since(seen.since) < ROLLOUT_MAX);
            if nodes.len() >= NODES_MAX {
                return false;
            }
        }
        let seen = nodes.entry(marker.node.clone()).or_insert(Seen { version, since: now });
        if seen.version != version {
            // It has moved on.
            *seen = Seen { version, since: now };
        }
        now.saturating_duration_since(seen.since) < ROLLOUT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::LayoutVersion;

    fn marker(node: &str, configured: u64) -> Marker {
        Marker { node: node.to_owned(), version: LayoutVersion { configured, moves: 0 }, digest: 0 }
    }

    #[test]
    fn an_update_passes_and_one_that_is_stuck_does_not() {
        let (rollouts, begin) = (Rollouts::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for seconds in [0, 300, 599] {
            assert!(rollouts.is_passing(&marker("a", 2), at(seconds)), "{seconds}");
        }
        assert!(!rollouts.is_passing(&marker("a", 2), at(600)));
        assert!(rollouts.is_passing(&marker("b", 2), at(600)), "another node");
        assert!(rollouts.is_passing(&marker("a", 3), at(700)), "the next update");
        assert!(!rollouts.is_passing(&marker("a", 3), at(1_300)));
    }

    #[test]
    fn names_that_nobody_has_take_no_more_room_than_a_layout() {
        let (rollouts, now) = (Rollouts::default(), Instant::now());
        let passing = (0..100).filter(|at| rollouts.is_passing(&marker(&at.to_string(), 2), now)).count();
        assert_eq!((passing, rollouts.0.lock().len()), (NODES_MAX, NODES_MAX));
        assert!(rollouts.is_passing(&marker("0", 2), now), "who is known stays known");
        assert!(rollouts.is_passing(&marker("100", 2), now + ROLLOUT_MAX), "there is room again");
    }
}
