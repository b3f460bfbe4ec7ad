//! The days, each under load.

use std::time::Duration;

use rustix::process::Signal;

use crate::journal::{Kind, Verdict};
use crate::load::more;
use crate::rig::Cluster;
use crate::support::from_env;
use crate::support::nodes::NODES;

/// How long a subscriber may be without its stream once its owner is back.
const RESUMED_WITHIN: Duration = Duration::from_secs(5);

/// What a load must have seen between two faults, so that each is met under load.
pub const BETWEEN: usize = 300;

pub fn kept(verdict: &Verdict) {
    let first: Vec<_> = verdict.broken.iter().take(5).collect();
    assert!(verdict.broken.is_empty(), "{} promises broken: {first:#?}", verdict.broken.len());
    assert!(verdict.acknowledged > BETWEEN, "the load was on: {verdict:?}");
}

pub fn nothing_failed(verdict: &Verdict) {
    kept(verdict);
    assert!(verdict.failed.is_empty(), "{} failed: {:#?}", verdict.failed.len(), verdict.failed.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_lose_nothing_and_fail_no_publish() {
    let mut cluster = Cluster::start().await;
    let load = cluster.load().await;
    more(&load, BETWEEN).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..from_env("WALCAST_ROUNDS", 1) {
        for place in 0..NODES.len() {
            cluster.stop(place).await;
            slowest = slowest.max(cluster.bring_back(place).await);
            more(&load, BETWEEN).await;
        }
    }
    let verdict = load.end().await;
    println!("slowest start of a node {slowest:?}");
    nothing_failed(&verdict);
    assert!(verdict.resumes > 0 && verdict.resumed_within < RESUMED_WITHIN, "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_killed_come_back_with_everything() {
    let mut cluster = Cluster::start().await;
    let load = cluster.load().await;
    for place in 0..NODES.len() {
        more(&load, BETWEEN).await;
        cluster.kill(place).await;
        cluster.bring_back(place).await;
    }
    more(&load, BETWEEN).await;
    let verdict = load.end().await;
    nothing_failed(&verdict);
    assert!(verdict.resumed_within < RESUMED_WITHIN, "{verdict:?}");
}

/// Clients that send again at once and for ever, while a node is away for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_away_takes_its_own_subjects_with_it_only() {
    let mut cluster = Cluster::start().await;
    let load = cluster.load_of(|plan| crate::load::Plan { unmannerly: true, rate: plan.rate / 2, ..plan }).await;
    more(&load, BETWEEN).await;
    cluster.kill(1).await;
    // Those of the two others go on; a third of the publishes waits.
    more(&load, BETWEEN).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    more(&load, BETWEEN).await;
    cluster.bring_back(1).await;
    more(&load, BETWEEN).await;
    nothing_failed(&load.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_node_holds_up_its_own_subjects_only() {
    let cluster = Cluster::start().await;
    let load = cluster.load_of(|plan| crate::load::Plan { unmannerly: true, rate: plan.rate / 2, ..plan }).await;
    more(&load, BETWEEN).await;
    cluster.node(2).signal(Signal::STOP);
    more(&load, BETWEEN).await;
    tokio::time::sleep(Duration::from_secs(from_env("WALCAST_FROZEN", 5))).await;
    more(&load, BETWEEN).await;
    cluster.node(2).signal(Signal::CONT);
    cluster.envoy.healthy(NODES.len()).await;
    more(&load, BETWEEN).await;
    nothing_failed(&load.end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn ways_that_are_cut_take_away_what_goes_over_them_only() {
    let cluster = Cluster::start().await;
    let load = cluster.load_of(|plan| crate::load::Plan { unmannerly: true, rate: plan.rate / 2, ..plan }).await;
    more(&load, BETWEEN).await;
    // One node from another, not from Envoy.
    cluster.cut_between(0, 1, true);
    more(&load, BETWEEN).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.cut_between(0, 1, false);
    more(&load, BETWEEN).await;
    // And the reverse.
    cluster.cut_before(2, true);
    more(&load, BETWEEN).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.cut_before(2, false);
    cluster.envoy.healthy(NODES.len()).await;
    more(&load, BETWEEN).await;
    nothing_failed(&load.end().await);
}

/// The control: the same rig without keys, and with clients that send again at once, finds messages that are there twice.
#[tokio::test(flavor = "multi_thread")]
async fn without_keys_the_rig_finds_messages_twice() {
    let mut cluster = Cluster::start().await;
    let load = cluster.load_of(|plan| crate::load::Plan { unmannerly: true, keyed: false, ..plan }).await;
    for round in 0..5 {
        more(&load, BETWEEN).await;
        cluster.kill(round % NODES.len()).await;
        cluster.bring_back(round % NODES.len()).await;
    }
    let verdict = load.end().await;
    // A second message of one body: each has an id of its own, and subscribers see both.
    assert!(verdict.count(Kind::Repeat) > 0, "the rig did not notice: {:?}", verdict.broken.first());
}
