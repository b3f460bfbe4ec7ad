//! Slots that another node hands over to this one.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Transfer;
use super::error::TakeError;
use super::learn::from_wire;
use crate::cluster::{Layout, SlotSet, slot_of};
use crate::ingest::HandedOver;
use crate::proto::nodes::{self, step};

/// The slots that are being handed over now.
#[derive(Debug, Default, Clone)]
pub(super) struct Taking(Arc<Mutex<SlotSet>>);

/// Slots that are noted as long as this is there.
#[derive(Debug)]
struct Noted {
    taking: Taking,
    slots: SlotSet,
}

impl Taking {
    fn note(&self, slots: SlotSet) -> Result<Noted, TakeError> {
        let mut all = self.0.lock();
        let both = all.intersection(&slots);
        if !both.is_empty() {
            return Err(TakeError::Busy { slots: Box::new(both) });
        }
        *all = all.union(&slots);
        Ok(Noted { taking: self.clone(), slots })
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut all = self.taking.0.lock();
        *all = all.minus(&self.slots);
    }
}

/// One hand-over, step by step. Dropped, what came stays in the log, and is left out when it comes again.
#[derive(Debug)]
pub struct TakeOver {
    transfer: Transfer,
    /// Who hands over.
    node: String,
    noted: Option<Noted>,
}

impl Transfer {
    /// The hand-over that this node begins.
    pub fn take_over(&self, node: String) -> TakeOver {
        TakeOver { transfer: self.clone(), node, noted: None }
    }
}

impl TakeOver {
    /// Takes a step; when this returns, it is durable.
    ///
    /// # Errors
    /// [`TakeError`]; the hand-over is over then.
    pub async fn step(&mut self, step: nodes::Step) -> Result<nodes::Done, TakeError> {
        match (step.step, &self.noted) {
            (Some(step::Step::Begin(begin)), None) => self.begin(&begin).await,
            (Some(step::Step::Records(nodes::Records { records })), Some(noted)) => {
                self.records(records, noted.slots).await?;
                Ok(nodes::Done::default())
            }
            (Some(step::Step::Ready(ready)), Some(noted)) => {
                self.ready(ready, &noted.slots).await?;
                Ok(nodes::Done::default())
            }
            (Some(step::Step::Begin(_)), Some(_)) => Err(TakeError::Order("a hand-over begins once")),
            (Some(_), None) => Err(TakeError::Order("a hand-over begins with its slots")),
            (None, _) => Err(TakeError::Order("a step of a newer walcast, or none")),
        }
    }

    async fn begin(&mut self, begin: &nodes::Begin) -> Result<nodes::Done, TakeError> {
        let (rooms, slots) = (&self.transfer.0.rooms, begin.slots.parse::<SlotSet>()?);
        let layout = rooms.ownership.layout();
        let theirs = layout.find(&self.node).map(|at| layout.slots(at)).unwrap_or_default();
        let not_theirs = slots.minus(&theirs);
        if slots.is_empty() || !not_theirs.is_empty() {
            let (node, version) = (self.node.clone(), layout.version().to_string());
            return Err(TakeError::NotOwner { slots: Box::new(not_theirs), node, version });
        }
        let ours = rooms.store.kind();
        if begin.store != ours {
            return Err(TakeError::Store { node: self.node.clone(), ours, theirs: begin.store.clone() });
        }
        let noted = self.transfer.0.taking.note(slots)?;
        self.transfer.on_disk(move |ownership| ownership.expect_copies(&slots)).await?;
        self.noted = Some(noted);
        let one_machine =
            layout.find(&self.node).is_some_and(|at| host(&layout, at) == host(&layout, rooms.ownership.own()));
        let one_database = rooms.store.database().is_some_and(|ours| is_one(&ours, &begin.database, one_machine));
        Ok(nodes::Done { one_database, frame_bytes_max: rooms.frame_bytes_max as u64 })
    }

    async fn records(&self, records: Vec<Bytes>, slots: SlotSet) -> Result<(), TakeError> {
        let rooms = &self.transfer.0.rooms;
        let (count, bytes_max) = (records.len() as u64, rooms.frame_bytes_max);
        // Bodies are hashed for their keys.
        let checked = tokio::task::spawn_blocking(move || {
            HandedOver::new(records, bytes_max, |subject| slots.contains(slot_of(subject.as_bytes())))
        });
        let handed_over = checked.await.map_err(|_panicked| TakeError::Order("the records cannot be checked"))??;
        rooms.publisher.take_over(handed_over).await?;
        rooms.metrics.records.inc_by(count);
        Ok(())
    }

    async fn ready(&self, nodes::Ready { moved }: nodes::Ready, slots: &SlotSet) -> Result<(), TakeError> {
        let moved = from_wire(nodes::Moves { moved })?;
        let own = self.transfer.0.rooms.ownership.node();
        let all = moved.iter().fold(SlotSet::default(), |all, moved| all.union(&moved.slots));
        if all != *slots || moved.iter().any(|moved| moved.to != own || moved.number == 0) {
            return Err(TakeError::Order("what is ready is not what was handed over"));
        }
        Ok(self.transfer.on_disk(move |ownership| ownership.is_ready_for(&moved)).await?)
    }
}

/// The host of a node's address.
fn host(layout: &Layout, at: usize) -> &str {
    let address = layout.nodes()[at].address.as_str();
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// Whether two nodes mean the same database by these texts. A name such as `localhost` is another machine for each.
fn is_one(ours: &str, theirs: &str, one_machine: bool) -> bool {
    let mut places = ours.split(['@', ',', ' ']);
    let is_local =
        places.any(|place| ["localhost", "127.", "[::1]", "::1", "/"].iter().any(|own| place.starts_with(own)));
    ours == theirs && (one_machine || !is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_one_by_its_name_unless_that_means_each_machine() {
        assert!(is_one("w@db:5432/w", "w@db:5432/w", false));
        assert!(!is_one("w@db:5432/w", "w@db:5432/v", true));
        for local in ["w@localhost:5432/w", "w@db:5432,127.0.0.1:5432/w", "w@/run/postgresql:5432/w", "w at [::1]:9042"]
        {
            assert!(is_one(local, local, true) && !is_one(local, local, false), "{local}");
        }
    }
}
