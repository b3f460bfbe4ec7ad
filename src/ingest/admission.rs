//! Admission: how many bytes of publishes may be in the broker at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::PUBLISH_OVERHEAD_BYTES;

/// Byte permits of all publishes that are admitted and not yet done with. A clone shares them.
///
/// A permit is taken before a publish is queued and given back when its message is durable: then the log has it, and
/// neither the store nor a subscriber holds back the next publish.
#[derive(Debug, Clone)]
pub struct Admission {
    permits: Arc<Semaphore>,
    /// Bytes of publishes that wait for permits: their bodies are in memory already, so they are bounded as well.
    waiting: Arc<AtomicUsize>,
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
    /// Room for `bytes_max` bytes; a publish waits for `wait_max` at most, and no more than `bytes_max` bytes wait.
    pub fn new(bytes_max: usize, wait_max: Duration) -> Self {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self { permits: Arc::new(Semaphore::new(bytes_max)), waiting: Arc::default(), bytes_max, wait_max }
    }

    /// What a publish is charged whose texts and body have these sizes. Never more than the whole room, so that the largest
    /// body is admitted when nothing else is in flight.
    pub fn charge(&self, text_bytes: usize, body_bytes: usize) -> u32 {
        let bytes = (text_bytes + body_bytes + PUBLISH_OVERHEAD_BYTES).min(self.bytes_max);
        u32::try_from(bytes).expect("the room itself is at most u32::MAX")
    }

    /// Takes `charge` bytes; the caller owes a [`Admission::give_back`] of the same number once the
    /// returned [`Admitted`] is kept.
    ///
    /// # Errors
    /// [`AdmissionError`] if there is no room within the wait, or at once if too much waits already.
    pub async fn admit(&self, charge: u32) -> Result<Admitted<'_>, AdmissionError> {
        let full = || AdmissionError { in_flight: self.in_flight(), max: self.bytes_max };
        match self.permits.try_acquire_many(charge) {
            Ok(permit) => Ok(Admitted(permit)),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                let _waiting = Waiting::enter(self, charge).ok_or_else(full)?;
                let waited = tokio::time::timeout(self.wait_max, self.permits.acquire_many(charge)).await;
                waited.ok().and_then(Result::ok).map(Admitted).ok_or_else(full)
            }
        }
    }

    /// Takes `charge` bytes, if there is room now. Forgotten, they are owed as those of [`Admission::admit`].
    pub(super) fn try_admit_owned(&self, charge: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_many_owned(charge).ok()
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

/// A publish that waits, counted until this is dropped.
struct Waiting<'a> {
    admission: &'a Admission,
    bytes: usize,
}

impl<'a> Waiting<'a> {
    /// None if more would wait than there is room for.
    fn enter(admission: &'a Admission, charge: u32) -> Option<Self> {
        let waiting = Self { admission, bytes: charge as usize };
        let before = admission.waiting.fetch_add(waiting.bytes, Ordering::Relaxed);
        // The guard takes back what it added if there was no room for it.
        (before + waiting.bytes <= admission.bytes_max).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.admission.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
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
    use std::pin::Pin;
    use std::task::Poll;

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

    /// Whether it is not ready yet, after it was asked once.
    async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_pending())).await
    }

    #[tokio::test]
    async fn no_more_bytes_wait_than_there_is_room_for() {
        let admission = Admission::new(1_000, Duration::from_secs(60));
        admission.admit(1_000).await.expect("room").keep();
        let mut first = Box::pin(admission.admit(700));
        assert!(waits(&mut first).await, "it waits");
        admission.admit(400).await.expect_err("refused without a wait, its body would be memory on top");
        let mut second = Box::pin(admission.admit(300));
        assert!(waits(&mut second).await, "it waits as well");
        drop(first);
        let mut third = Box::pin(admission.admit(700));
        assert!(waits(&mut third).await, "a caller that has gone made place");
        admission.give_back(1_000);
        drop(second.await.expect("room came back"));
        drop(third.await.expect("and again"));
        assert_eq!((admission.in_flight(), admission.waiting.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn the_largest_body_is_charged_no_more_than_there_is() {
        assert_eq!(admission(1_000).charge(10, 5_000), 1_000);
        assert_eq!(admission(1_000).charge(10, 20), 30 + PUBLISH_OVERHEAD_BYTES as u32);
    }
}
