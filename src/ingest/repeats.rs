//! What of a frame of publishes repeats earlier ones: the committer's side of the window of idempotency.

use parking_lot::MutexGuard;

use super::Admission;
use super::ack::{Outcome, UnreleasedAcks};
use super::idempotency::{Entry, Fingerprint, Keys, Window};
use super::publisher::Queued;
use crate::event::{MessageId, Sequence, UnixMicros};
use crate::telemetry::metrics::IngestMetrics;

/// The window while the committer sorts a frame.
pub(super) struct Repeats<'a> {
    window: MutexGuard<'a, Window>,
    now: UnixMicros,
    admission: &'a Admission,
    metrics: &'a IngestMetrics,
}

impl<'a> Repeats<'a> {
    /// None if none of these publishes has a key: then nothing is locked, and nothing looked at.
    pub fn among(
        queued: &[Queued],
        keys: &'a Keys,
        now: UnixMicros,
        admission: &'a Admission,
        metrics: &'a IngestMetrics,
    ) -> Option<Self> {
        let any = queued.iter().any(|queued| queued.print.is_some());
        any.then(|| Self { window: keys.lock(), now, admission, metrics })
    }

    /// Gives a publish that is new. One that repeats a record gets its answer among `acks`: the record is durable, or one
    /// of the frame that these acks are of.
    pub fn sort_out(&self, queued: Queued, acks: &mut UnreleasedAcks) -> Option<Queued> {
        let Some(known) = queued.print.and_then(|print| self.window.look_up(&print, self.now)) else {
            return Some(queued);
        };
        let outcome = if known.same_body {
            self.metrics.duplicates.inc();
            Outcome::Published(known.id)
        } else {
            // Also only then: that the key is taken is not true before its message is durable.
            Outcome::KeyTaken(known.id)
        };
        let Queued { charge, reply, .. } = queued;
        self.admission.give_back(charge as usize);
        acks.push_repeated(known.sequence, outcome, reply);
        None
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
