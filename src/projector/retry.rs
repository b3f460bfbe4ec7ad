//! How often a store that does not answer is asked again.

use std::time::Duration;

use backon::{BackoffBuilder, ConstantBackoff, ConstantBuilder};
use tokio::time::Instant;

/// Shortest pause: an outage sees at most one attempt a second.
const PAUSE: Duration = Duration::from_secs(1);

/// The pauses between attempts, for as long as it takes: each [`PAUSE`] and a random part of up to as much again, so that
/// many brokers do not come back at the same instant. They do not grow: what gathers meanwhile is on the disk, and an
/// attempt a second is nothing to a database, while a longer pause is lag after every outage.
#[derive(Debug)]
pub struct Pauses {
    pauses: ConstantBackoff,
    expire_at: Option<Instant>,
}

impl Pauses {
    /// No pause yet.
    #[expect(clippy::new_without_default, reason = "a default says nothing")]
    pub fn new() -> Self {
        let pauses = ConstantBuilder::new().with_delay(PAUSE).with_jitter().without_max_times().build();
        Self { pauses, expire_at: None }
    }

    /// How long to wait before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(PAUSE)
    }

    /// Whether it is time to let the store expire: after the first pause, and every so often.
    pub fn expire_is_due(&mut self, every: Duration) -> bool {
        let now = Instant::now();
        let due = self.expire_at.is_none_or(|at| at <= now);
        if due {
            self.expire_at = Some(now + every);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn are_one_to_two_seconds_and_never_end() {
        let mut pauses = Pauses::new();
        for _ in 0..1_000 {
            let pause = pauses.next_pause();
            assert!(pause >= PAUSE && pause <= 2 * PAUSE, "{pause:?}");
        }
        assert!(pauses.expire_is_due(PAUSE));
        assert!(!pauses.expire_is_due(PAUSE));
        tokio::time::sleep(PAUSE).await;
        assert!(pauses.expire_is_due(PAUSE));
    }
}
