//! What operators see of a running node: log lines, metrics and traces.
//!
//! Owns the one definition of every metric; the set-up of logging: how lines look (one line each, whatever is in it), which of
//! those that repeat are left out, and how many were written; and the spans with their exporter. Rooms get their handles passed in.
//!
//! Must never: use a global registry, take a label value from what a client sent, or know a room.

pub mod logging;
pub mod metrics;
pub mod traces;

pub use metrics::Metrics;
pub use traces::Traces;
