//! What nodes tell each other of moves, and what changes here when one is learnt.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Transfer;
use crate::cluster::{Change, ChangeError, Layout, Moved, SlotSet, slot_of};
use crate::delivery;
use crate::proto::nodes;

/// How often nodes ask each other without a reason: who was down while slots moved is up to date after as long. A question is a
/// small call to each other node.
const EVERY: Duration = Duration::from_secs(2);

/// How the first question to a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    NotYet,
    Answered,
    Silent,
}

impl Asked {
    /// The end of a question; whether it was the first one.
    fn ends(&mut self, has_answered: bool) -> bool {
        let is_first = *self == Self::NotYet;
        if is_first {
            *self = if has_answered { Self::Answered } else { Self::Silent };
        }
        is_first
    }
}

impl Transfer {
    /// Tells the other nodes and the store of what has moved, and asks what they know, until `stop`. What cannot be learnt now is learnt
    /// later: until then this node serves what it owned before.
    ///
    /// # Errors
    /// Never.
    pub async fn run(self, tell_store: impl TellStore, stop: CancellationToken) -> Result<(), Infallible> {
        // Beside each other: a database or a node that does not answer must keep nobody from hearing who owns what.
        let others = self.0.peers.all().map(|at| self.exchange_always(at));
        let all = async { tokio::join!(futures_util::future::join_all(others), self.tell_always(tell_store)) };
        let _stopped = stop.run_until_cancelled(all).await;
        Ok(())
    }

    async fn exchange_always(&self, at: usize) -> Infallible {
        let mut news = self.0.news.subscribe();
        loop {
            let has_answered = self.exchange(at).await;
            self.0.asked.send_if_modified(|asked| asked[at].ends(has_answered));
            drop(tokio::time::timeout(EVERY, news.changed()).await);
        }
    }

    /// Waits until each other node has said once what it knows of moves, which takes `cluster.owner_timeout` at most, and until that is
    /// learnt here: a node that has heard must not serve before. Gives the names of those that did not answer: what this node owns is
    /// then what itself and the rest know.
    pub async fn has_asked(&self) -> Vec<String> {
        let mut asked = self.0.asked.subscribe();
        // Each question has its own bound. The sender is here, so this cannot fail.
        drop(asked.wait_for(|asked| !asked.contains(&Asked::NotYet)).await);
        let (asked, ownership) = (self.0.asked.borrow(), &self.0.rooms.ownership);
        let (layout, own) = (ownership.layout(), ownership.own());
        let others = layout.nodes().iter().zip(asked.iter()).enumerate().filter(|(at, _)| *at != own);
        let silent = others.filter(|(_, (_, asked))| **asked != Asked::Answered);
        silent.map(|(_, (node, _))| node.name.clone()).collect()
    }

    async fn tell_always(&self, tell_store: impl TellStore) -> Infallible {
        let (mut news, mut told) = (self.0.news.subscribe(), None);
        loop {
            let layout = self.0.rooms.ownership.layout();
            if told != Some(layout.version()) && tell_store.tell(&layout).await {
                told = Some(layout.version());
            }
            drop(tokio::time::timeout(EVERY, news.changed()).await);
        }
    }

    /// What this node knows of moves, for another one.
    pub fn known(&self) -> nodes::Moves {
        to_wire(&self.0.rooms.ownership.layout().moved())
    }

    /// Tells one other node what is known here, and learns what it knows; false if it did not answer, and is to be asked again later.
    pub(super) async fn exchange(&self, at: usize) -> bool {
        let peers = &self.0.peers;
        let Ok(mut client) = peers.client(at) else { return false };
        let mut request = peers.request(self.known());
        request.set_timeout(peers.timeout);
        // What it says beside an answer is told by calls on its subjects. The way there counts: to connect may take as long again.
        let Ok(Ok(moves)) = tokio::time::timeout(peers.timeout, client.exchange(request)).await else { return false };
        self.0.rooms.forward.has_answered(at);
        let _told_in_the_log = self.learn_from(moves.into_inner()).await;
        true
    }

    /// Learns what another node says that it knows.
    ///
    /// # Errors
    /// [`ChangeError`]; this node owns what it owned before, and learns it later.
    pub async fn learn_from(&self, moves: nodes::Moves) -> Result<(), ChangeError> {
        let learnt = match from_wire(moves) {
            Ok(moved) => self.learn(&moved).await,
            Err(error) => Err(error.into()),
        };
        learnt.inspect_err(|error| {
            tracing::error!(%error, "what another node knows of slots that moved cannot be learnt");
        })
    }

    /// Learns what another node knows of moves, as far as it can. Slots that this node gets are served when this returns.
    ///
    /// # Errors
    /// [`ChangeError`] of the rest.
    async fn learn(&self, moved: &[Moved]) -> Result<(), ChangeError> {
        let rooms = &self.0.rooms;
        // One after the other: who has learnt of slots opens them, and by the time another one does they may be on their way elsewhere.
        let _learning = self.0.learning.lock().await;
        let Change { gained, lost } = rooms.ownership.would_change(moved).unwrap_or_default();
        // In this order: no ids for what is another's, and ids for what is this node's before anybody is let in.
        if !lost.is_empty() && self.0.gate.close(&lost).await.is_err() {
            return Ok(());
        }
        if !gained.is_empty() && self.0.gate.open(&gained).await.is_err() {
            return Ok(());
        }
        let before = rooms.ownership.layout().version();
        let theirs = moved.to_vec();
        let (change, refused) = self.on_disk(move |ownership| ownership.learn(&theirs)).await?;
        if rooms.ownership.layout().version() != before {
            self.changed(&change).await;
        }
        refused.map_or(Ok(()), Err)
    }

    /// The layout has changed: who passes calls on, subscribers and the other nodes hear of it.
    pub(super) async fn changed(&self, Change { gained, lost }: &Change) {
        let rooms = &self.0.rooms;
        rooms.forward.layout_changed();
        rooms.metrics.slots_owned.set(rooms.ownership.slots().len() as i64);
        let version = rooms.ownership.layout().version();
        if !lost.is_empty() {
            self.end_streams(*lost).await;
            tracing::error!(slots = %lost, layout = %version, "this node was set back: slots that it had given away are another's");
        }
        if !gained.is_empty() {
            rooms.metrics.taken.inc_by(gained.len() as u64);
            tracing::info!(slots = %gained, layout = %version, "slots have moved to this node");
        }
        self.0.news.send_replace(());
    }

    /// Ends the streams of subjects of these slots, which another node has now.
    pub(super) async fn end_streams(&self, slots: SlotSet) {
        let moved = delivery::Moved::new(move |subject| slots.contains(slot_of(subject.as_bytes())));
        self.0.rooms.delivery.end_moved(moved).await;
    }
}

/// Tells a store that nodes share of a layout.
pub trait TellStore: Send {
    /// Whether it knows now; else it is told again.
    fn tell(&self, layout: &Layout) -> impl Future<Output = bool> + Send;
}

pub(super) fn to_wire(moved: &[Moved]) -> nodes::Moves {
    let one =
        |moved: &Moved| nodes::Moved { slots: moved.slots.to_string(), to: moved.to.clone(), number: moved.number };
    nodes::Moves { moved: moved.iter().map(one).collect() }
}

/// Moves as another node tells them.
pub(super) fn from_wire(moves: nodes::Moves) -> Result<Vec<Moved>, crate::cluster::SlotSetError> {
    let one = |moved: nodes::Moved| Ok(Moved { slots: moved.slots.parse()?, to: moved.to, number: moved.number });
    moves.moved.into_iter().map(one).collect()
}
