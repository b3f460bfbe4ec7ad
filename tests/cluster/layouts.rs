//! Days of nodes that come back with what they should not have: an old layout, an empty volume.

use crate::days::{BETWEEN, nothing_failed};
use crate::journal::Kind;
use crate::load::{Plan, more};
use crate::rig::Cluster;
use crate::support::Setup;
use crate::support::nodes::NODES;

/// Exit code of a configuration that cannot be used.
const REFUSED: i32 = 2;

/// Equal shares, but for a slot of n1 that n2 has.
const OTHER_SLOTS: &str = "n0=0-341,n1=342-681,n2=682-1023";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_stale_layout_stays_away_until_it_has_the_right_one() {
    let mut cluster = Cluster::start().await;
    let load = cluster.load_of(|plan| Plan { unmannerly: true, ..plan }).await;
    // The layout advances, one node after the other.
    for place in 0..NODES.len() {
        more(&load, BETWEEN).await;
        cluster.stop(place).await;
        cluster.change(place, |setup| setup.set("cluster.version", "2"));
        cluster.bring_back(place).await;
    }
    more(&load, BETWEEN).await;
    cluster.kill(1).await;
    let stale = |change: fn(Setup) -> Setup| change(cluster.settings(1)).refuse();
    for (code, said) in
        [stale(|setup| setup.set("cluster.version", "1")), stale(|setup| setup.set("cluster.slots", OTHER_SLOTS))]
    {
        assert_eq!(code, REFUSED, "{said}");
        assert!(said.contains("layout"), "{said}");
        // The other two go on.
        more(&load, BETWEEN).await;
    }
    cluster.bring_back(1).await;
    more(&load, BETWEEN).await;
    nothing_failed(&load.end().await);
}

/// The control, and what docs/cluster.md says that nobody can see without a shared database: a second process of a name on an empty
/// volume, while the layout has version 1.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_an_empty_volume_gives_ids_twice_and_the_rig_finds_them() {
    let mut cluster = Cluster::start().await;
    let load = cluster.load_of(|plan| Plan { unmannerly: true, ..plan }).await;
    more(&load, BETWEEN).await;
    cluster.kill(1).await;
    let empty = cluster.settings(1).folder().join("empty");
    cluster.change(1, |setup| setup.data_dir(empty));
    cluster.bring_back(1).await;
    more(&load, BETWEEN).await;
    let verdict = load.end_within(std::time::Duration::from_secs(1)).await;
    assert!(verdict.count(Kind::Twice) > 0, "the rig did not notice: {:?}", verdict.broken.first());
}
