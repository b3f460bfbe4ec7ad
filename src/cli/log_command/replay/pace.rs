//! How fast records are sent.

use std::time::Duration;

use tokio::time::Instant;

/// A pause that was not used up to then is forgotten: after a stall there is no burst longer than this.
const CATCH_UP: Duration = Duration::from_millis(100);

/// At most so many records a second.
#[derive(Debug)]
pub struct Pace {
    per_record: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// None is without a bound.
    pub fn new(rate: Option<u64>) -> Self {
        let per_record = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate as f64));
        Self { per_record, next: None }
    }

    /// Counts a record; when it may be sent.
    pub fn next(&mut self) -> Instant {
        let now = Instant::now();
        let at = self.next.map_or(now, |next| next.max(now.checked_sub(CATCH_UP).unwrap_or(now)));
        self.next = Some(at + self.per_record);
        at
    }

    /// Counts a record; when it may be sent, if not at once.
    pub fn wait(&mut self) -> Option<Instant> {
        Some(self.next()).filter(|at| *at > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn records_are_spread_over_the_time_and_a_stall_is_not_caught_up() {
        let mut pace = Pace::new(Some(100));
        let start = Instant::now();
        let times: Vec<_> = (0..3).map(|_| pace.next() - start).collect();
        assert_eq!(times, [0, 10, 20].map(Duration::from_millis));
        tokio::time::advance(Duration::from_secs(60)).await;
        let behind = (0..1_000).map(|_| pace.next()).filter(|at| *at <= Instant::now()).count();
        assert_eq!(behind, 11);
        let mut free = Pace::new(None);
        assert!((0..1_000).all(|_| free.next() <= Instant::now()));
    }
}
