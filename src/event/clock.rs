//! The wall clock, read in one place. Durations are measured with `std::time::Instant`, never with this.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01T00:00:00Z, from -2^63 to 2^63 - 1. Never used for ordering:
/// the wall clock may jump, sequences do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMicros(i64);

const MICROS_PER_SECOND: i64 = 1_000_000;

impl UnixMicros {
    /// The time that `micros` microseconds after the epoch is.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// Seconds since the epoch, exact to a microsecond for the next two centuries.
    pub const fn as_seconds_f64(self) -> f64 {
        self.0 as f64 / MICROS_PER_SECOND as f64
    }

    /// Nanoseconds beyond [`Self::as_seconds`], 0 to 999,999,000.
    pub const fn subsec_nanos(self) -> i32 {
        // At most 999,999 * 1000, so it fits.
        (self.0.rem_euclid(MICROS_PER_SECOND) * 1_000) as i32
    }

    /// This time plus `seconds`, saturating at the end of the range.
    pub const fn plus_seconds(self, seconds: u32) -> Self {
        Self(self.0.saturating_add((seconds as i64).saturating_mul(MICROS_PER_SECOND)))
    }

    /// How long ago this time was at `now`; zero if it is in the future.
    pub fn elapsed_at(self, now: Self) -> Duration {
        Duration::from_micros(u64::try_from(now.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

/// The wall clock now.
pub fn now() -> UnixMicros {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    let now = SystemTime::now();
    let micros = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    };
    UnixMicros(micros)
}
