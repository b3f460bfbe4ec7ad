//! Calls that were passed on to other nodes of the cluster.

use std::time::Duration;

use super::Method;
use super::define::{Definitions, SECONDS_COARSE};
use super::handle::{Histogram, IntCounter, IntGauge};

/// How a call that was passed on ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The owner answered, whatever it said.
    Answered,
    /// The owner could not be reached, or was lost.
    Unavailable,
    /// Too much is on its way to the owner.
    Busy,
}

const RESULTS: [&str; 3] = ["answered", "unavailable", "busy"];

/// Why a call was refused that another node had passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdirected {
    /// Its subject is another node's by the layout here.
    NotOwner,
    /// The layouts contradict each other.
    LayoutsDiffer,
    /// This broker is in no cluster.
    NotInACluster,
}

const MISDIRECTED: [&str; 3] = ["not_owner", "layouts_differ", "not_in_a_cluster"];

/// The methods that are passed on, in the order of [`Method`].
const METHODS: [&str; 4] = ["Publish", "PublishStream", "Subscribe", "Fetch"];

/// Handles of the forward room.
#[derive(Debug, Clone)]
pub struct ForwardMetrics {
    ended: [[IntCounter; RESULTS.len()]; METHODS.len()],
    misdirected: [IntCounter; MISDIRECTED.len()],
    /// Seconds from passing a unary call on until its answer.
    pub duration: Histogram,
    /// Calls on their way to other nodes.
    pub in_flight: IntGauge,
    /// Bytes of requests and answers on their way to and from other nodes.
    pub in_flight_bytes: IntGauge,
    /// Connections to other nodes.
    pub connections: IntGauge,
    /// Nodes whose last call got no answer.
    pub unreachable: IntGauge,
    /// Subscriptions on other nodes' subjects.
    pub subscribers: IntGauge,
    /// Streams from other nodes that all subscribers of a subject here share.
    pub feeds: IntGauge,
    /// Messages that were handed to them.
    pub deliveries: IntCounter,
    /// Times that one of them was too slow for the shared stream.
    pub fallbacks: IntCounter,
}

impl ForwardMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        let ended = define.counters(
            "walcast_forwarded_calls_total",
            "Calls that were passed on to the owner of their subject and ended, by method and how.",
            &["method", "result"],
        );
        let misdirected = define.counters(
            "walcast_forwarded_refused_total",
            "Calls and messages of streams that another node passed on and this one refused, by reason.",
            &["reason"],
        );
        Self {
            ended: METHODS.map(|method| RESULTS.map(|result| ended.with_label_values(&[method, result]))),
            misdirected: MISDIRECTED.map(|reason| misdirected.with_label_values(&[reason])),
            duration: define.histogram(
                "walcast_forwarded_duration_seconds",
                "Seconds from passing a Publish or Fetch on until the owner's answer.",
                &SECONDS_COARSE,
            ),
            in_flight: define.gauge("walcast_forwarded_in_flight", "Calls on their way to other nodes."),
            in_flight_bytes: define.gauge(
                "walcast_forwarded_in_flight_bytes",
                "Bytes of requests and answers on their way to and from other nodes.",
            ),
            connections: define.gauge("walcast_node_connections", "Connections to other nodes that are open."),
            unreachable: define.gauge("walcast_nodes_unreachable", "Other nodes whose last call got no answer."),
            subscribers: define.gauge("walcast_forwarded_subscribers", "Subscribers of other nodes' subjects."),
            feeds: define.gauge(
                "walcast_forwarded_feeds",
                "Streams from other nodes, each shared by all subscribers of its subject.",
            ),
            deliveries: define.counter(
                "walcast_forwarded_deliveries_total",
                "Messages of other nodes' subjects that were handed to subscribers' streams.",
            ),
            fallbacks: define.counter(
                "walcast_forwarded_fallbacks_total",
                "Times that a subscriber was too slow for the shared stream and got one of its own.",
            ),
        }
    }

    /// Counts a call that ended.
    pub fn ended(&self, method: Method, how: Forwarded) {
        if let Some(results) = self.ended.get(method as usize) {
            results[how as usize].inc();
        }
    }

    /// Counts a call of another node that was refused here.
    pub fn misdirected(&self, why: Misdirected) {
        self.misdirected[why as usize].inc();
    }

    /// Notes how long an answer took.
    pub fn took(&self, elapsed: Duration) {
        self.duration.observe(elapsed.as_secs_f64());
    }
}
