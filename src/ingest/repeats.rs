//! What of a frame of publishes repeats earlier ones: the committer's side of the window of idempotency.

use parking_lot::MutexGuard;

use super::ack::Outcome;
use super::idempotency::{Entry, Fingerprint, Keys, Window};
use super::publisher::Queued;
use crate::event::{MessageId, Sequence, UnixMicros};
use crate::telemetry::metrics::IngestMetrics;

/// The window while the committer sorts a frame.
pub(super) struct Repeats<'a> {
    window: MutexGuard<'a, Window>,
    now: UnixMicros,
    metrics: &'a IngestMetrics,
}

impl<'a> Repeats<'a> {
    /// None if none of these publishes has a key: then nothing is locked, and nothing looked at.
    pub fn among(queued: &[Queued], keys: &'a Keys, now: UnixMicros, metrics: &'a IngestMetrics) -> Option<Self> {
        let any = queued.iter().any(Queued::has_key);
        any.then(|| Self { window: keys.lock(), now, metrics })
    }

    /// The record that a publish repeats, and the answer to it, which is true once that record is durable: it is, or it is
    /// of the frame that is being sorted. None if the publish is new.
    pub fn look_up(&self, print: Option<&Fingerprint>) -> Option<(Sequence, Outcome)> {
        let known = self.window.look_up(print?, self.now)?;
        let outcome = if known.same_body {
            self.metrics.duplicates.inc();
            Outcome::Published(known.id)
        } else {
            // Also only then: that the key is taken is not true before its message is durable.
            Outcome::KeyTaken(known.id)
        };
        Some((known.sequence, outcome))
    }

    /// Keeps the key of a record of the frame.
    pub fn remember(&mut self, print: Fingerprint, sequence: Sequence, id: MessageId) {
        self.window.remember(Entry { print, sequence, at: self.now, id }, self.now);
    }
}

impl Drop for Repeats<'_> {
    fn drop(&mut self) {
        self.metrics.keys_forgotten.inc_by(self.window.take_forgotten_early());
    }
}
