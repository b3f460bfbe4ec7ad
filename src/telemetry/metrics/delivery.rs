//! Subscribers and what was sent to them.

use prometheus::{IntCounter, IntGauge};

use super::define::Definitions;

/// Handles of the delivery room.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics {
    /// Subscriptions that are open.
    pub active_subscribers: IntGauge,
    /// Subjects that have a subscriber.
    pub topics: IntGauge,
    /// Messages handed to subscribers' queues; add once per batch.
    pub deliveries: IntCounter,
    /// Unread bytes of all subscribers.
    pub unread_bytes: IntGauge,
    /// Streams that were ended because their subscriber was too far behind.
    pub slow_ends: IntCounter,
}

impl DeliveryMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        Self {
            active_subscribers: define.gauge("active_subscribers", "Subscriptions that are open."),
            topics: define.gauge("walcast_subscribed_subjects", "Subjects that have a subscriber."),
            deliveries: define.counter("walcast_deliveries_total", "Messages handed to subscribers, each one counted."),
            unread_bytes: define.gauge(
                "walcast_delivery_queue_bytes",
                "Bytes of messages that subscribers have not read yet, all subscribers together.",
            ),
            slow_ends: define.counter(
                "walcast_slow_subscribers_ended_total",
                "Streams that were ended because their subscriber was too far behind.",
            ),
        }
    }
}
