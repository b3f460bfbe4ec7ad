//! Slots that move between the nodes of a cluster.
//!
//! Owns both sides of a move ([`Transfer::give`] and [`TakeOver`]), what nodes tell each other of moves ([`Transfer::run`]), and the
//! order in which rooms learn that a slot has changed hands. docs/cluster.md has the protocol.
//!
//! One write decides: that of the giver's own layout file. Before it the giver is the owner, whatever the other one has; after it the
//! other one is, whether it knows or not. So a node that dies at any step leaves exactly one owner, and nobody has to agree with anybody.
//!
//! Must never: give a slot before the taker has said that everything of it is durable there; take one for which it has not said so.

mod copy;
mod error;
mod gate;
mod give;
mod learn;
mod peers;
mod take;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex, watch};

use crate::cluster::{KeptError, Ownership};
use crate::delivery::Delivery;
use crate::forward::Forward;
use crate::index::Index;
use crate::ingest::{Keys, Publisher, SubjectTable};
use crate::projector::{DeadLetters, Store};
use crate::telemetry::metrics::TransferMetrics;
use crate::wal::Log;
pub use error::{GiveError, TakeError};
use gate::Gate;
pub use give::{Given, Moving, Step};
use learn::Asked;
pub use learn::TellStore;
use peers::Peers;
pub use take::TakeOver;
use take::Taking;
pub use worker::{Asker, Worker, asking};

/// The rooms that a move goes through.
#[derive(Debug)]
pub struct Rooms {
    /// What this node owns.
    pub ownership: Ownership,
    /// The way to the other nodes.
    pub forward: Forward,
    /// Gives ids.
    pub publisher: Publisher,
    /// The subscribers.
    pub delivery: Delivery,
    /// The ids.
    pub subjects: Arc<SubjectTable>,
    /// The idempotency keys.
    pub keys: Keys,
    /// The log.
    pub log: Log,
    /// Where the log has what.
    pub index: Index,
    /// History.
    pub store: Arc<dyn Store>,
    /// What the store did not take.
    pub letters: DeadLetters,
    /// Bytes of a frame of the log.
    pub frame_bytes_max: usize,
    /// How long another node may be silent.
    pub node_timeout: Duration,
    /// What is counted.
    pub metrics: TransferMetrics,
}

/// The handle; a clone is the same.
#[derive(Debug, Clone)]
pub struct Transfer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rooms: Rooms,
    gate: Gate,
    peers: Peers,
    /// One move away from this node at a time.
    giving: Mutex<()>,
    /// Held while the owner of slots changes here, from the look at who it is to the end.
    learning: Mutex<()>,
    /// What is being given now.
    moving: ArcSwapOption<Moving>,
    /// What others hand over now.
    taking: Taking,
    /// There is something to tell the other nodes, and the store.
    news: watch::Sender<()>,
    /// How the first question to each node ended, as the layout has them.
    asked: watch::Sender<Vec<Asked>>,
}

impl Transfer {
    /// Of these rooms. Nothing is asked or told before [`Self::run`].
    pub fn new(rooms: Rooms) -> Self {
        rooms.metrics.slots_owned.set(rooms.ownership.slots().len() as i64);
        let gate = Gate::new(rooms.publisher.clone());
        let peers = Peers::new(&rooms.ownership.layout(), &rooms.forward, rooms.node_timeout, rooms.frame_bytes_max);
        let asked = watch::Sender::new(peers.unasked());
        let shared = Shared {
            gate,
            peers,
            asked,
            giving: Mutex::default(),
            learning: Mutex::default(),
            moving: ArcSwapOption::empty(),
            taking: Taking::default(),
            news: watch::Sender::new(()),
            rooms,
        };
        Self(Arc::new(shared))
    }

    /// Changes what this node owns, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// [`KeptError`].
    async fn on_disk<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Ownership) -> Result<T, KeptError> + Send + 'static,
    ) -> Result<T, KeptError> {
        let ownership = self.0.rooms.ownership.clone();
        let changed = tokio::task::spawn_blocking(move || change(&ownership)).await;
        changed.unwrap_or_else(|panicked| Err(KeptError::Lost(panicked.to_string())))
    }

    /// What is being given now, for who watches.
    pub fn moving(&self) -> Option<Arc<Moving>> {
        self.0.moving.load_full()
    }
}
