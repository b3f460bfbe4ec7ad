//! What operators see of a running node: log lines, metrics and traces.
//!
//! Owns the one definition of every metric; the set-up of logging: how lines look (one line each, whatever is in it), which of
//! those that repeat are left out, and how many were written; and the spans with their exporter. Rooms get their handles passed in.
//!
//! Must never: use a global registry, take a label value from what a client sent, or know a room.

pub mod logging;
pub mod metrics;
pub mod traces;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub use metrics::Metrics;
pub use traces::Traces;

/// A build for measuring only: no metric moves, nothing is traced, and [`now`] does not look at the clock.
pub const OFF: bool = cfg!(feature = "no-telemetry");

/// The time, for what only metrics and traces want to know of each call or frame.
pub fn now() -> Instant {
    static SOME_TIME: LazyLock<Instant> = LazyLock::new(Instant::now);
    if OFF { *SOME_TIME } else { Instant::now() }
}

/// How long it has been since a [`now`].
pub fn since(begin: Instant) -> Duration {
    now().saturating_duration_since(begin)
}
