//! Where the broker is between start and end, for health, readiness and the refusal of new calls.

use std::sync::Arc;

use tokio::sync::watch;

/// The phases, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Recovering, with the gRPC port bound and not answered yet; then asking the other nodes of a cluster what has moved.
    Starting,
    /// Answering.
    Serving,
    /// Shutting down in order: new calls are refused.
    Draining,
    /// The log or a task has failed: everything is refused until the process ends.
    Failed,
}

impl Phase {
    /// Its name in answers of the admin port.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}

/// The current phase; a clone shares it. It only moves forward.
#[derive(Debug, Clone)]
pub struct Lifecycle(Arc<watch::Sender<Phase>>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Starting)))
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Moves on to `phase`, unless that is behind.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let ahead = phase > *current;
            if ahead {
                *current = phase;
            }
            ahead
        });
    }

    /// Follows the phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}
