//! Which time bucket a row belongs to: pure arithmetic.
//!
//! Rows are grouped by when they expire, so that a bucket is dropped as a whole, in one step, once its
//! last row has expired. Life times go from 1 second to 68 years, so the width of a bucket depends on the
//! row's life time:
//!
//! | class | life time | width |
//! |---|---|---|
//! | 0 | 1 to 60 s | 15 s |
//! | k >= 1 | above 15 * 4^k s, up to 60 * 4^k s | 7.5 * 4^k s |
//!
//! A class of k >= 1 has at most 8 widths of future, so 9 buckets with live rows; class 0 has 5 and the
//! last, class 13, has 6. All classes together: at most `BUCKETS_MAX`, and a broker with one life time
//! has 3 to 9. A row stays half a width too long on average and a width at most: 6 to 25 % of its life
//! time (at most 50 % for a single row), or 15 s for the short ones.

use crate::event::{Expiration, UnixMicros};

/// Most buckets that hold live rows at once, while the clock does not jump.
#[cfg(test)]
const BUCKETS_MAX: usize = 5 + 12 * 9 + 6;

/// Longest life time of class 0, in seconds: the most common short one is a minute.
const FIRST_CLASS_SECONDS: u64 = 60;

/// Width of a bucket of class 0, in seconds. Narrower ones would be dropped more often than `expire` runs.
const FIRST_WIDTH_SECONDS: u64 = 15;

/// Each class reaches this many times as far as the one before.
const CLASS_RATIO: u64 = 4;

/// What precedes class and index in the name of a bucket's keyspace.
const NAME_PREFIX: &str = "rows";

/// The name of a bucket. Of one class, a later index is a later time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::projector) struct BucketKey {
    class: u32,
    index: i64,
}

impl BucketKey {
    /// The bucket of a row.
    pub(in crate::projector) fn of(published_at: UnixMicros, expiration: Expiration) -> Self {
        let class = class_of(expiration);
        let index = expiration.expires_at(published_at).as_seconds().div_euclid(width_seconds(class));
        Self { class, index }
    }

    /// From this instant on every row of the bucket is expired.
    pub(in crate::projector) fn end(self) -> UnixMicros {
        let seconds = self.index.saturating_add(1).saturating_mul(width_seconds(self.class));
        UnixMicros::from_micros(seconds.saturating_mul(1_000_000))
    }

    /// The name of its keyspace.
    pub(in crate::projector) fn keyspace_name(self) -> String {
        format!("{NAME_PREFIX}.{}.{}", self.class, self.index)
    }

    /// The bucket that a keyspace of this name holds.
    pub(in crate::projector) fn from_keyspace_name(name: &str) -> Option<Self> {
        let (class, index) = name.strip_prefix(NAME_PREFIX)?.strip_prefix('.')?.split_once('.')?;
        let key = Self { class: class.parse().ok()?, index: index.parse().ok()? };
        (key.class <= LAST_CLASS && key.keyspace_name() == name).then_some(key)
    }
}

/// The class of the longest life time, 2^31 - 1 s.
const LAST_CLASS: u32 = 13;

fn class_of(expiration: Expiration) -> u32 {
    let mut class = 0;
    let mut reach = FIRST_CLASS_SECONDS;
    while reach < u64::from(expiration.seconds()) {
        class += 1;
        reach *= CLASS_RATIO;
    }
    class
}

/// At most 15 s * 4^13 / 2, about 5.0e8 s.
const fn width_seconds(class: u32) -> i64 {
    let width = match class {
        0 => FIRST_WIDTH_SECONDS,
        class => FIRST_WIDTH_SECONDS * CLASS_RATIO.pow(class) / 2,
    };
    width.cast_signed()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn expiration(seconds: u32) -> Expiration {
        Expiration::from_wire(i32::try_from(seconds).expect("below 2^31")).expect("not negative")
    }

    fn life_times() -> impl Strategy<Value = u32> {
        // Every order of magnitude as often as any other.
        (0u32..31, any::<u32>()).prop_map(|(bits, noise)| {
            let low = 1u32 << bits;
            low + noise % low
        })
    }

    proptest! {
        #[test]
        fn ends_after_its_rows_and_not_too_late(
            published_at in -1_000_000_000_000_000i64..4_000_000_000_000_000,
            seconds in life_times(),
        ) {
            let published_at = UnixMicros::from_micros(published_at);
            let key = BucketKey::of(published_at, expiration(seconds));
            let expires_at = expiration(seconds).expires_at(published_at);
            let kept_too_long = key.end().as_micros() - expires_at.as_micros();
            prop_assert!(kept_too_long > 0);
            let at_most = FIRST_WIDTH_SECONDS.max(u64::from(seconds) / 2) * 1_000_000;
            prop_assert!(kept_too_long.cast_unsigned() <= at_most, "{} us", kept_too_long);
        }

        #[test]
        fn is_named_and_found_again(published_at in any::<i64>(), seconds in life_times()) {
            let key = BucketKey::of(UnixMicros::from_micros(published_at), expiration(seconds));
            prop_assert_eq!(BucketKey::from_keyspace_name(&key.keyspace_name()), Some(key));
        }
    }

    #[test]
    fn live_buckets_are_bounded_over_all_life_times() {
        // Whatever is alive now was published at most its life time ago; class by class, sampled densely.
        let now = 1_800_000_000i64;
        let mut live = HashSet::new();
        let mut seconds = 1u32;
        while seconds < u32::try_from(i32::MAX).expect("fits") {
            for step in 0..=64i64 {
                let age = i64::from(seconds) * step / 64;
                let key = BucketKey::of(UnixMicros::from_micros((now - age) * 1_000_000), expiration(seconds));
                if key.end().as_seconds() > now {
                    live.insert(key);
                }
            }
            seconds = seconds.saturating_add((seconds / 50).max(1));
        }
        assert!(live.len() <= BUCKETS_MAX, "{}", live.len());
        assert!(live.len() > 100, "{}", live.len());
    }

    #[test]
    fn other_names_are_no_buckets() {
        for name in ["meta", "rows", "rows.1", "rows.1.x", "rows.14.0", "rows.01.5", "rows.-1.5", "rows.1.2.3"] {
            assert_eq!(BucketKey::from_keyspace_name(name), None, "{name}");
        }
    }
}
