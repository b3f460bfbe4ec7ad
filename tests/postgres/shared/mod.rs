//! Several logs in one database: the nodes of a cluster.

mod brokers;
mod foreign;
mod joining;
mod owner_down;
mod partitions;
mod tools;

use std::collections::BTreeMap;

use walcast::projector::{Membership, Opening, PostgresStore, Store};

use crate::server;

/// The log of a node.
fn log_of(node: &str) -> u128 {
    0xC1 << 64 | u128::from(node.as_bytes()[0])
}

/// The node of a layout of three.
fn member(node: &str) -> Membership {
    member_of(node, 1, &[("a", "0-341"), ("b", "342-682"), ("c", "683-1023")])
}

fn member_of(node: &str, version: u64, slots: &[(&str, &str)]) -> Membership {
    let slots: BTreeMap<_, _> = slots.iter().map(|(node, slots)| ((*node).to_owned(), (*slots).to_owned())).collect();
    Membership { node: node.to_owned(), version, slots, moved: Vec::new() }
}

/// The store of a start of this node's log, not yet prepared.
fn store_of(url: &str, node: &str, epoch: u64) -> PostgresStore {
    server::store(url, log_of(node), epoch).shared_by(member(node))
}

/// The same, once it has the store.
async fn opened(url: &str, node: &str) -> PostgresStore {
    let store = store_of(url, node, 1);
    store.prepare().await.expect("its own slots");
    store
}

/// A store with another membership.
fn store_with(url: &str, log_id: u128, membership: Membership) -> PostgresStore {
    PostgresStore::new(&server::config(url), log_id, 9, Opening::Take).expect("the settings read").shared_by(membership)
}
