//! Metrics: one definition file per room, a struct of resolved handles each.
//!
//! Label values come from closed sets and are resolved once, when [`Metrics`] is built, so observing costs
//! an atomic operation and no look-up. Each name, unit and meaning stands in docs/metrics.md too; a test
//! compares the two.

mod api;
mod define;
mod delivery;
mod fetch;
mod forward;
mod handle;
mod ingest;
mod node;
#[cfg(target_os = "linux")]
mod process;
mod projector;
mod traces;
mod transfer;
mod wal;

use prometheus::{Registry, TextEncoder};

pub use api::{ApiMetrics, Method, Refusal, code_name};
pub use delivery::{DeliveryMetrics, StreamEnded};
pub use fetch::{FetchMetrics, Source};
pub use forward::{ForwardMetrics, Forwarded, Misdirected};
pub use handle::{Gauge, Handle, Histogram, IntCounter, IntGauge};
pub use ingest::{IngestMetrics, Rejection};
pub use node::{CheckpointMetrics, Limit, LineMetrics, NodeMetrics};
pub use projector::ProjectorMetrics;
pub use traces::TraceMetrics;
pub use transfer::TransferMetrics;
pub use wal::{FailureMetrics, WalMetrics};

use define::Definitions;

/// Every metric of a node. Built once and shared; the rooms take their part of it by reference or clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Calls and connections.
    pub api: ApiMetrics,
    /// Admission, the queue, batches and ids.
    pub ingest: IngestMetrics,
    /// Positions, fsync and files of the log.
    pub wal: WalMetrics,
    /// Subscribers and what was sent to them.
    pub delivery: DeliveryMetrics,
    /// From the log to the store.
    pub projector: ProjectorMetrics,
    /// Where Fetch found what it answered.
    pub fetch: FetchMetrics,
    /// Calls that were passed on to other nodes.
    pub forward: ForwardMetrics,
    /// Slots that move.
    pub transfer: TransferMetrics,
    /// Limits, checkpoints, the start, log lines.
    pub node: NodeMetrics,
    /// Spans for the collector.
    pub traces: TraceMetrics,
}

impl Metrics {
    /// Defines all metrics in a registry of their own. `version` is shown by `walcast_build_info`.
    pub fn new(version: &str) -> Self {
        let registry = Registry::new();
        let define = Definitions::new(&registry);
        define.process();
        define.build_info(version);
        let (position, timestamp) = (define.position(), define.position_timestamp());
        Self {
            api: ApiMetrics::new(&define),
            ingest: IngestMetrics::new(&define),
            wal: WalMetrics::new(&define, &position, &timestamp),
            delivery: DeliveryMetrics::new(&define),
            projector: ProjectorMetrics::new(&define, &position, &timestamp),
            fetch: FetchMetrics::new(&define),
            forward: ForwardMetrics::new(&define),
            transfer: TransferMetrics::new(&define),
            node: NodeMetrics::new(&define),
            traces: TraceMetrics::new(&define),
            registry,
        }
    }

    /// All values in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("encoding fails for families without a name or a value only, and every one has both")
    }
}

#[cfg(test)]
mod tests;
