//! How many rows are written at once: as many as are configured, and fewer where the cluster does not keep up.
//!
//! A batch that a cluster does not take in time would be tried as it is for ever, because each attempt writes all of it again.
//! So each attempt that took too long halves what is in flight, down to one row at a time, and each batch that was written
//! adds a part of what is configured: a cluster that is too slow for a moment is back at full pace some seconds later, and
//! one that always is fails once in a while only. A batch that was smaller than what may be in flight tells nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::info;

/// Batches that were written until the pace is the configured one again, from one row at a time: eight seconds at the two
/// batches a second that a steady load makes.
const BATCHES_TO_RECOVER: usize = 16;

/// Rows in flight at once.
#[derive(Debug)]
pub(super) struct Pace {
    configured: usize,
    now: AtomicUsize,
}

impl Pace {
    /// The configured pace.
    pub(super) const fn new(configured: usize) -> Self {
        Self { configured, now: AtomicUsize::new(configured) }
    }

    /// Rows that may be in flight, at least one.
    pub(super) fn in_flight(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// An attempt with so many rows in flight took too long. Of attempts that are made at once, the first one counts.
    pub(super) fn slow_down(&self, in_flight: usize) {
        let slower = (in_flight / 2).max(1);
        if self.now.fetch_min(slower, Ordering::Relaxed) > slower {
            info!(in_flight = slower, "the cluster does not keep up; fewer rows are written at once");
        }
    }

    /// So many rows were written in time, with so many of them in flight at once.
    pub(super) fn recover(&self, rows: usize, in_flight: usize) {
        if rows >= in_flight {
            let faster = (in_flight + self.configured.div_ceil(BATCHES_TO_RECOVER)).min(self.configured);
            self.now.fetch_max(faster, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_halved_down_to_one_and_recovers_in_steps() {
        let pace = Pace::new(100);
        let mut seen = Vec::new();
        for _ in 0..8 {
            pace.slow_down(pace.in_flight());
            seen.push(pace.in_flight());
        }
        assert_eq!(seen, [50, 25, 12, 6, 3, 1, 1, 1]);
        pace.recover(1, 1);
        assert_eq!(pace.in_flight(), 8);
        pace.recover(7, 8);
        assert_eq!(pace.in_flight(), 8, "it was not used");
        for _ in 0..BATCHES_TO_RECOVER {
            pace.recover(1_000, pace.in_flight());
        }
        assert_eq!(pace.in_flight(), 100);
    }

    #[test]
    fn of_attempts_at_once_the_first_counts() {
        let pace = Pace::new(100);
        pace.slow_down(100);
        pace.slow_down(100);
        assert_eq!(pace.in_flight(), 50);
    }

    #[test]
    fn one_at_a_time_stays_one() {
        let pace = Pace::new(1);
        pace.slow_down(1);
        assert_eq!(pace.in_flight(), 1);
        pace.recover(1, 1);
        assert_eq!(pace.in_flight(), 1);
    }
}
