//! Tells a store that nodes share which slots are whose.

use std::sync::Arc;

use super::open::membership;
use crate::cluster::Layout;
use crate::projector::Store;
use crate::transfer::TellStore;

/// The store of this node.
#[derive(Debug)]
pub(super) struct TellMembership {
    store: Arc<dyn Store>,
    node: String,
}

impl TellMembership {
    pub fn new(store: Arc<dyn Store>, node: String) -> Self {
        Self { store, node }
    }
}

impl TellStore for TellMembership {
    async fn tell(&self, layout: &Layout) -> bool {
        match self.store.follow_layout(membership(&self.node, layout)).await {
            Ok(()) => true,
            // The projector tells that it is away.
            Err(error) if error.retryable() => false,
            Err(error) => {
                tracing::error!(%error, "the store does not take the layout of the cluster");
                false
            }
        }
    }
}
