//! Admission: how many bytes of publishes may be in the broker at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, TryAcquireError};

use super::PUBLISH_OVERHEAD_BYTES;

/// Byte permits of all publishes that are admitted and not yet done with. A clone shares them.
///
/// A permit is taken before a publish is queued and given back when its message is durable: then the log has it, and
/// neither the store nor a subscriber holds back the next publish.
#[derive(Debug, Clone)]
pub struct Admission {
    permits: Arc<Semaphore>,
    bytes_max: usize,
    wait_max: Duration,
}

/// No room was found in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{in_flight} of {max} bytes are in flight (limits.in_flight_bytes)")]
pub struct AdmissionError {
    /// Bytes in flight when the wait ended.
    pub in_flight: usize,
    /// The limit.
    pub max: usize,
}

impl Admission {
    /// Room for `bytes_max` bytes; a publish waits for `wait_max` at most.
    pub fn new(bytes_max: usize, wait_max: Duration) -> Self {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self { permits: Arc::new(Semaphore::new(bytes_max)), bytes_max, wait_max }
    }

    /// What a publish of these sizes is charged. Never more than the whole room, so that the largest
    /// body is admitted when nothing else is in flight.
    pub fn charge(&self, subject_bytes: usize, body_bytes: usize) -> u32 {
        let bytes = (subject_bytes + body_bytes + PUBLISH_OVERHEAD_BYTES).min(self.bytes_max);
        u32::try_from(bytes).expect("the room itself is at most u32::MAX")
    }

    /// Takes `charge` bytes; the caller owes a [`Admission::give_back`] of the same number once the
    /// returned [`Admitted`] is kept.
    ///
    /// # Errors
    /// [`AdmissionError`] if there is no room within the wait.
    pub async fn admit(&self, charge: u32) -> Result<Admitted<'_>, AdmissionError> {
        let permit = match self.permits.try_acquire_many(charge) {
            Ok(permit) => Some(permit),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                tokio::time::timeout(self.wait_max, self.permits.acquire_many(charge)).await.ok().and_then(Result::ok)
            }
        };
        let permit = permit.ok_or_else(|| AdmissionError { in_flight: self.in_flight(), max: self.bytes_max })?;
        Ok(Admitted(permit))
    }

    /// Gives bytes back.
    pub fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.permits.add_permits(bytes);
        }
    }

    /// Bytes in flight now.
    pub fn in_flight(&self) -> usize {
        self.bytes_max.saturating_sub(self.permits.available_permits())
    }

    /// The limit in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

/// Room that was taken; dropped, it is given back.
#[derive(Debug)]
pub struct Admitted<'a>(tokio::sync::SemaphorePermit<'a>);

impl Admitted<'_> {
    /// Keeps the room for a publish that is now queued; [`Admission::give_back`] returns it later.
    pub fn keep(self) {
        self.0.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(bytes: usize) -> Admission {
        Admission::new(bytes, Duration::from_millis(5))
    }

    #[tokio::test]
    async fn refuses_when_full_and_admits_again_when_bytes_come_back() {
        let admission = admission(1_000);
        admission.admit(900).await.expect("room").keep();
        assert_eq!(admission.admit(200).await.expect_err("full"), AdmissionError { in_flight: 900, max: 1_000 });
        admission.give_back(900);
        drop(admission.admit(1_000).await.expect("all of it"));
        assert_eq!(admission.in_flight(), 0, "a dropped admission gives back");
    }

    #[tokio::test]
    async fn a_waiting_publish_is_admitted_as_soon_as_there_is_room() {
        let admission = Admission::new(1_000, Duration::from_secs(60));
        admission.admit(1_000).await.expect("room").keep();
        let waiting = admission.admit(10);
        admission.give_back(10);
        waiting.await.expect("room came back");
    }

    #[test]
    fn the_largest_body_is_charged_no_more_than_there_is() {
        assert_eq!(admission(1_000).charge(10, 5_000), 1_000);
        assert_eq!(admission(1_000).charge(10, 20), 30 + PUBLISH_OVERHEAD_BYTES as u32);
    }
}
