//! The window of idempotency: which publishes had which key, so that a retry gets the id of the first and is no second
//! message.
//!
//! Owns the fingerprints of keys and bodies ([`Fingerprint`]) and the window itself ([`Window`]): the keys of the last
//! `limits.idempotency_window`, `limits.idempotency_keys` at most. The committer alone adds to it, and looks at it only
//! for publishes that have a key; as it gives out ids one after the other, a retry finds its first also while that one is
//! still in flight. The checkpoint copies it.
//!
//! Must never answer before the first is durable: what a look-up finds goes into the acks of a frame.

mod fingerprint;
mod ring;
mod window;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::event::UnixMicros;
pub use fingerprint::Fingerprint;
pub(super) use fingerprint::HASH_BYTES;
pub(super) use ring::Entry;
pub use ring::Snapshot;
pub use window::{KeysFull, Known, Window};

/// A few hundred microseconds, in which the committer may wait.
const DROPPED_WHEN_IDLE: usize = 4_096;

/// How long and how many keys are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowConfig {
    /// After this long a key is forgotten.
    pub keep_for: Duration,
    /// With this many known, each new one makes the oldest forgotten. At least 1.
    pub keys_max: usize,
}

/// The window of a broker; a clone is the same. Its lock is taken by the committer once for each frame with a key in it,
/// and for tens of microseconds by a checkpoint.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Mutex<Window>>);

impl Keys {
    /// No keys yet, or those of a restart.
    pub fn new(window: Window) -> Self {
        Self(Arc::new(Mutex::new(window)))
    }

    /// How many keys are held, also those that have expired and were not dropped yet.
    pub fn held(&self) -> usize {
        self.0.lock().len()
    }

    /// What the window holds now.
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().snapshot()
    }

    /// Drops keys that have expired at `now`, a few thousand at most: for the times when no new ones come.
    pub fn drop_expired(&self, now: UnixMicros) {
        self.0.lock().drop_expired(now, DROPPED_WHEN_IDLE);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Window> {
        self.0.lock()
    }
}
