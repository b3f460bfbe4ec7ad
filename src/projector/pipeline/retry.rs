//! How often a store that does not answer is asked again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// First pause: a store that hiccups is asked again soon.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause before jitter, so that an outage sees at most one attempt a second.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pauses between attempts: doubling up to [`PAUSE_MAX`], then that for as long as it takes, each with a random
/// part of up to as much again, so that many brokers do not come back at the same instant.
#[derive(Debug)]
pub(super) struct Pauses(ExponentialBackoff);

impl Pauses {
    pub(super) fn new() -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        Self(pauses.build())
    }

    /// How long to wait before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        self.0.next().unwrap_or(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grow_to_at_least_a_second_and_never_end() {
        for _ in 0..20 {
            let mut pauses = Pauses::new();
            let first = pauses.next();
            assert!(first >= PAUSE_MIN && first <= 2 * PAUSE_MIN, "{first:?}");
            for _ in 0..10 {
                pauses.next();
            }
            for _ in 0..1_000 {
                let pause = pauses.next();
                assert!(pause >= PAUSE_MAX && pause <= 2 * PAUSE_MAX, "{pause:?}");
            }
        }
    }
}
