//! Calls and connections.

use std::time::Duration;

use tonic::Code;

use super::define::{Definitions, SECONDS};
use super::handle::{Histogram, IntCounter, IntGauge};

/// A method, as a label value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `broker.Broker/Publish`.
    Publish,
    /// `broker.Broker/PublishStream`; its duration is that of the whole stream.
    PublishStream,
    /// `broker.Broker/Subscribe`; its duration is that of the whole stream.
    Subscribe,
    /// `broker.Broker/Fetch`.
    Fetch,
    /// Health, reflection and names that are no method.
    Other,
}

const METHODS: [&str; 5] = ["Publish", "PublishStream", "Subscribe", "Fetch", "Other"];

/// The 17 codes of gRPC by their number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a status code as gRPC writes it, such as `INVALID_ARGUMENT`.
pub const fn code_name(code: Code) -> &'static str {
    CODES[code as usize]
}

/// Why a connection was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `limits.connections` was reached.
    Limit,
    /// It did not speak HTTP/2 within `limits.handshake_timeout`.
    Handshake,
}

const REFUSALS: [&str; 2] = ["limit", "handshake"];

/// Handles of the api room.
#[derive(Debug, Clone)]
pub struct ApiMetrics {
    counts: [[IntCounter; CODES.len()]; METHODS.len()],
    durations: [Histogram; METHODS.len()],
    /// Connections that are open.
    pub connections: IntGauge,
    refusals: [IntCounter; REFUSALS.len()],
}

impl ApiMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        let counts =
            define.counters("method_count", "Calls that ended, by method and gRPC status.", &["method", "status"]);
        let durations = define.histograms(
            "method_duration",
            "Seconds from the arrival of a call to its status, by method.",
            &["method"],
            &SECONDS,
        );
        let refusals = define.counters(
            "walcast_connections_refused_total",
            "Connections that were closed before they were served, by reason.",
            &["reason"],
        );
        Self {
            counts: METHODS.map(|method| CODES.map(|code| counts.with_label_values(&[method, code]))),
            durations: METHODS.map(|method| durations.with_label_values(&[method])),
            connections: define.gauge("walcast_connections", "Client connections that are open."),
            refusals: REFUSALS.map(|reason| refusals.with_label_values(&[reason])),
        }
    }

    /// Counts a call that ended: one counter, one histogram.
    pub fn observe(&self, method: Method, code: Code, duration: Duration) {
        self.counts[method as usize][code as usize].inc();
        self.durations[method as usize].observe(duration.as_secs_f64());
    }

    /// Counts a connection that was not served.
    pub fn refused(&self, refusal: Refusal) {
        self.refusals[refusal as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn calls_are_counted_under_their_method_and_code() {
        let metrics = Metrics::new("test");
        metrics.api.observe(Method::Publish, Code::Ok, Duration::from_micros(150));
        metrics.api.observe(Method::Fetch, Code::Unauthenticated, Duration::from_secs(70));
        let text = metrics.render();
        for line in [
            "method_count{method=\"Publish\",status=\"OK\"} 1",
            "method_count{method=\"Fetch\",status=\"UNAUTHENTICATED\"} 1",
            "method_count{method=\"Subscribe\",status=\"OK\"} 0",
            "method_duration_bucket{method=\"Publish\",le=\"0.0001\"} 0",
            "method_duration_bucket{method=\"Publish\",le=\"0.0002\"} 1",
            "method_duration_bucket{method=\"Fetch\",le=\"60\"} 0",
            "method_duration_bucket{method=\"Fetch\",le=\"+Inf\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn names_of_codes_stand_at_their_numbers() {
        for (number, name) in CODES.iter().enumerate() {
            let debug = format!("{:?}", Code::from_i32(number as i32));
            assert_eq!(debug.to_lowercase(), name.replace('_', "").to_lowercase());
        }
    }
}
