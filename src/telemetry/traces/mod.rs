//! Traces: what became of single publishes and calls, as spans over OTLP.
//!
//! A call is traced or not from its first moment ([`Traces::call`]). If it is not, there is no [`CallTrace`] and nothing is
//! allocated; without a collector that is decided by one branch. Spans are put together when what they tell is over, and queued
//! for the exporter ([`Exporter`]), which has a thread of its own: nobody waits for a collector. What is kept of a publish while
//! it goes through the broker is a [`PublishTrace`]; what is done for many at once (a frame of the log, a batch for the store, a
//! hand-off to subscribers) is a [`BatchTrace`], a trace of its own with links to and from those of its messages.
//!
//! Names and attributes: `docs/traces.md`.

mod batch;
mod call;
mod current;
mod export;
mod hop;
mod place;
mod publish;
mod span;

use std::sync::Arc;

use flume::Sender;
use opentelemetry_sdk::trace::SpanData;

use super::metrics::TraceMetrics;
pub use batch::{About, BatchTrace, LINKS_MAX, Member};
pub use call::{CallTrace, PARENT, traceparent};
pub use current::{Current, Entered, current_trace_id};
pub use export::{ExportError, Exporter, Stop};
pub use hop::Hop;
pub use place::SpanPlace;
pub use publish::PublishTrace;

/// How calls are traced. Operators set these as `telemetry.*`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the collector is: `http://HOST:PORT`, OTLP over gRPC.
    pub endpoint: String,
    /// Share of the calls without a parent that are traced, 0 to 1.
    pub ratio: f64,
    /// What tells this broker from others: `service.instance.id`.
    pub instance: String,
    /// `service.version`.
    pub version: &'static str,
}

/// Decides what is traced, and takes its spans; a clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    /// A call is traced if a random number of 64 bits is below.
    threshold: u128,
    spans: Sender<SpanData>,
    metrics: TraceMetrics,
}

impl Traces {
    /// Nothing is traced.
    pub fn off() -> Self {
        Self(None)
    }

    /// Whether anything may be traced.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Inner {
    /// By ratio, for what has no parent.
    fn draws(&self) -> bool {
        // The generator of this thread: some nanoseconds.
        self.threshold > 0 && u128::from(rand::random::<u64>()) < self.threshold
    }

    /// Whether it is worth while to put spans together; else so many are counted as given up. A caller that samples everything
    /// pays for counting then.
    fn has_room(&self, spans: u64) -> bool {
        let room = !self.spans.is_full();
        if !room {
            self.metrics.queue_full.inc_by(spans);
        }
        room
    }

    /// Hands a span to the exporter, if there is room for it.
    fn export(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.metrics.queue_full.inc();
        }
    }
}

/// The number below which `ratio` of all numbers of 64 bits are.
fn threshold(ratio: f64) -> u128 {
    (ratio.clamp(0.0, 1.0) * 2_f64.powi(64)) as u128
}

#[cfg(test)]
pub(crate) mod tests;
