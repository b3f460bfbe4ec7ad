//! Whether the deliveries of one subscriber are those of its subject, in order, each once.

use std::collections::BTreeSet;

/// Ids that were passed over and may still come. Far more than this missing is a loss anyway.
const GAPS_MAX: usize = 100_000;

/// What was wrong with deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Faults {
    /// Never came.
    pub lost: u64,
    /// Came again.
    pub repeated: u64,
    /// Came after one with a larger id.
    pub reordered: u64,
}

impl Faults {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.lost + self.repeated + self.reordered
    }

    /// Adds those of another subscriber.
    pub fn merge(&mut self, other: &Self) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
    }
}

/// One subscriber's view of its subject, whose ids are 1, 2, 3, ...
#[derive(Debug, Default)]
pub struct Order {
    last: i32,
    gaps: BTreeSet<i32>,
    /// Passed over when there was no room in `gaps`.
    uncounted: u64,
    repeated: u64,
    reordered: u64,
}

impl Order {
    /// A delivery.
    pub fn see(&mut self, id: i32) {
        if id == self.last + 1 {
            self.last = id;
        } else if id > self.last {
            let missing = self.last + 1..id;
            let room = GAPS_MAX - self.gaps.len();
            self.uncounted += (missing.len().saturating_sub(room)) as u64;
            self.gaps.extend(missing.take(room));
            self.last = id;
        } else if self.gaps.remove(&id) {
            self.reordered += 1;
        } else {
            self.repeated += 1;
        }
    }

    /// Whether everything up to `id` has come.
    pub fn complete(&self, id: i32) -> bool {
        self.last >= id && self.gaps.is_empty()
    }

    /// What was wrong, if `id` is the last one that was published.
    pub fn faults(&self, id: i32) -> Faults {
        let missing_at_end = u64::from(id.saturating_sub(self.last).max(0).unsigned_abs());
        let lost = self.gaps.len() as u64 + self.uncounted + missing_at_end;
        Faults { lost, repeated: self.repeated, reordered: self.reordered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(ids: impl IntoIterator<Item = i32>, last: i32) -> (u64, u64, u64) {
        let mut order = Order::default();
        ids.into_iter().for_each(|id| order.see(id));
        let faults = order.faults(last);
        assert_eq!(order.complete(last), faults.lost == 0);
        (faults.lost, faults.repeated, faults.reordered)
    }

    #[test]
    fn each_fault_is_told_from_the_others() {
        assert_eq!(faults([1, 2, 3], 3), (0, 0, 0));
        assert_eq!(faults([1, 3], 3), (1, 0, 0));
        assert_eq!(faults([1, 2], 4), (2, 0, 0));
        assert_eq!(faults([2, 3], 3), (1, 0, 0));
        assert_eq!(faults([1, 2, 2, 1, 3], 3), (0, 2, 0));
        assert_eq!(faults([1, 3, 2, 4], 4), (0, 0, 1));
        assert_eq!(faults([1, 4, 2, 2], 4), (1, 1, 1));
        assert_eq!(faults([], 0), (0, 0, 0));
    }

    #[test]
    fn what_comes_beyond_the_last_acknowledged_is_no_fault() {
        assert_eq!(faults([1, 2, 3], 2), (0, 0, 0));
    }

    #[test]
    fn memory_is_bounded_and_nothing_goes_uncounted() {
        assert_eq!(faults([1, 1_000_001], 1_000_001), (999_999, 0, 0));
    }
}
