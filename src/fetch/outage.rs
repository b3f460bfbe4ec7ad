//! How long everybody together waits for something that is away.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Something that many need. Who asks while it is away waits for what is left of a time that begins with the first of them:
/// one after the other would each wait anew, and the last for hours.
#[derive(Debug)]
pub(super) struct Outage {
    patience: Duration,
    since: Mutex<Option<Instant>>,
}

impl Outage {
    /// Nothing is away; if it is, it is waited for as long as `patience`.
    pub fn new(patience: Duration) -> Self {
        Self { patience, since: Mutex::new(None) }
    }

    /// It is away: how long to wait for it; None once it has been away for too long.
    pub fn left(&self) -> Option<Duration> {
        let now = Instant::now();
        let since = *self.since.lock().get_or_insert(now);
        self.patience.checked_sub(now.duration_since(since)).filter(|left| !left.is_zero())
    }

    /// It is back.
    pub fn is_over(&self) {
        *self.since.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_patience_is_for_all_together_and_begins_anew_after_it_was_back() {
        let outage = Outage::new(Duration::from_secs(30));
        assert_eq!(outage.left(), Some(Duration::from_secs(30)));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(outage.left(), Some(Duration::from_secs(10)));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((outage.left(), outage.left()), (None, None));
        outage.is_over();
        assert_eq!(outage.left(), Some(Duration::from_secs(30)));
    }
}
