//! The task that gives slots away: a move goes on when whoever asked for it is gone.

use flume::{Receiver, Sender};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{GiveError, Given, Transfer};
use crate::cluster::SlotSet;

/// Moves that may wait for their turn: one that does not find a place is refused as it would be while another is under way.
const WAITING_MAX: usize = 1;

/// A move that somebody asks for.
#[derive(Debug)]
struct Wanted {
    slots: SlotSet,
    to: String,
    answer: oneshot::Sender<Result<Given, GiveError>>,
}

/// Asks for moves; a clone asks the same node.
#[derive(Debug, Clone)]
pub struct Asker {
    transfer: Transfer,
    wanted: Sender<Wanted>,
}

/// Gives slots away as it is asked to.
#[derive(Debug)]
pub struct Worker {
    transfer: Transfer,
    wanted: Receiver<Wanted>,
}

/// Both ends.
pub fn asking(transfer: &Transfer) -> (Asker, Worker) {
    let (wanted, asked) = flume::bounded(WAITING_MAX);
    (Asker { transfer: transfer.clone(), wanted }, Worker { transfer: transfer.clone(), wanted: asked })
}

impl Asker {
    /// Asks for a move, and waits until it is over. None if the node ends meanwhile: its next start knows whose the slots are.
    ///
    /// # Errors
    /// [`GiveError`].
    pub async fn give(&self, slots: SlotSet, to: String) -> Option<Result<Given, GiveError>> {
        if let Some(moving) = self.transfer.moving() {
            return Some(Err(GiveError::Busy { slots: Box::new(moving.slots), to: moving.to.clone() }));
        }
        let (answer, answered) = oneshot::channel();
        self.wanted.try_send(Wanted { slots, to, answer }).ok()?;
        answered.await.ok()
    }
}

impl Worker {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// [`GiveError::Kept`]: whose some slots are is on the disk or not, so the node must end.
    pub async fn run(self, stop: CancellationToken) -> Result<(), GiveError> {
        stop.run_until_cancelled_owned(self.give_all()).await.unwrap_or(Ok(()))
    }

    async fn give_all(self) -> Result<(), GiveError> {
        while let Ok(Wanted { slots, to, answer }) = self.wanted.recv_async().await {
            match self.transfer.give(slots, &to).await {
                Err(error @ GiveError::Kept(_)) => return Err(error),
                // Who asked may have gone.
                given => drop(answer.send(given)),
            }
        }
        Ok(())
    }
}
