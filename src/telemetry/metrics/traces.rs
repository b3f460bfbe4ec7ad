//! Spans for the collector.

use super::define::Definitions;
use super::handle::IntCounter;

/// Handles of the traces.
#[derive(Debug, Clone)]
pub struct TraceMetrics {
    /// Spans that the collector took.
    pub exported: IntCounter,
    /// Spans that found no room in the queue.
    pub queue_full: IntCounter,
    /// Spans that the collector did not take.
    pub export_failed: IntCounter,
}

impl TraceMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        let dropped =
            define.counters("walcast_spans_dropped_total", "Spans that were given up, by reason.", &["reason"]);
        Self {
            exported: define.counter("walcast_spans_exported_total", "Spans that the collector took."),
            queue_full: dropped.with_label_values(&["queue_full"]),
            export_failed: dropped.with_label_values(&["export_failed"]),
        }
    }
}
