//! Subscribers and what was sent to them.

use std::time::Duration;

use super::define::{Definitions, SECONDS, SECONDS_COARSE};
use super::handle::{Histogram, IntCounter, IntGauge};

/// Why the broker ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnded {
    /// What its subscriber needed is in neither the log nor the store any more.
    MessagesGone,
    /// What its subscriber needed cannot be read.
    HistoryUnreadable,
    /// Another node has the subject now.
    Moved,
    /// The broker shut down.
    ShuttingDown,
}

const ENDS: [&str; 4] = ["messages_gone", "history_unreadable", "moved", "shutting_down"];

/// Handles of the delivery room.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics {
    /// Subscriptions that are open.
    pub active_subscribers: IntGauge,
    /// Subjects that have a subscriber.
    pub topics: IntGauge,
    /// Messages handed to subscribers' queues; add once per batch.
    pub deliveries: IntCounter,
    /// Seconds from the publish of a frame's messages until all their subscribers have them to read.
    pub duration: Histogram,
    /// Frames that wait for the fan-out.
    pub queue_frames: IntGauge,
    /// Messages that the subscriber has not taken that is furthest behind.
    pub lag_messages: IntGauge,
    /// Unread bytes of all subscribers.
    pub unread_bytes: IntGauge,
    /// Subscribers that read history.
    pub behind: IntGauge,
    /// Subscribers that fell too far behind to be served from memory.
    pub fallbacks: IntCounter,
    /// Subscribers that had read history and went live.
    pub rejoins: IntCounter,
    /// Messages that were read from history.
    pub catch_up_messages: IntCounter,
    /// Bytes of them, as they are sent.
    pub catch_up_bytes: IntCounter,
    catch_up_read_duration: Histogram,
    ended: [IntCounter; ENDS.len()],
}

impl DeliveryMetrics {
    pub(super) fn new(define: &Definitions<'_>) -> Self {
        let ended = define.counters(
            "walcast_delivery_ended_total",
            "Streams that the broker ended, by the reason.",
            &["reason"],
        );
        Self {
            active_subscribers: define.gauge("active_subscribers", "Subscriptions that are open."),
            topics: define.gauge("walcast_subscribed_subjects", "Subjects that have a subscriber."),
            deliveries: define.counter("walcast_deliveries_total", "Messages handed to subscribers, each one counted."),
            duration: define.histogram(
                "walcast_delivery_duration_seconds",
                "Seconds from when a batch's messages got their ids until they are handed to their subscribers.",
                &SECONDS,
            ),
            queue_frames: define
                .gauge("walcast_delivery_queue_batches", "Batches of the log that wait for the fan-out."),
            lag_messages: define.gauge(
                "walcast_delivery_lag_messages",
                "Messages that the subscriber which is furthest behind has not taken.",
            ),
            unread_bytes: define.gauge(
                "walcast_delivery_queue_bytes",
                "Bytes of messages that subscribers have not read yet, all subscribers together.",
            ),
            behind: define.gauge(
                "walcast_delivery_behind",
                "Subscribers that are served from the log or the store, and not from memory.",
            ),
            fallbacks: define.counter(
                "walcast_delivery_fallbacks_total",
                "Subscribers that fell too far behind to be served from memory.",
            ),
            rejoins: define.counter(
                "walcast_delivery_rejoins_total",
                "Subscribers that had read what they were behind and are served from memory.",
            ),
            catch_up_messages: define.counter(
                "walcast_delivery_catch_up_messages_total",
                "Messages handed to subscribers from the log or the store.",
            ),
            catch_up_bytes: define.counter(
                "walcast_delivery_catch_up_bytes_total",
                "Bytes of messages handed to subscribers from the log or the store.",
            ),
            catch_up_read_duration: define.histogram(
                "walcast_delivery_catch_up_read_duration_seconds",
                "Seconds to read a chunk of history for a subscriber from the log or the store, waiting included.",
                &SECONDS_COARSE,
            ),
            ended: ENDS.map(|reason| ended.with_label_values(&[reason])),
        }
    }

    /// Counts a chunk of history that was read.
    pub fn catch_up_read(&self, duration: Duration) {
        self.catch_up_read_duration.observe(duration.as_secs_f64());
    }

    /// Counts a stream that the broker ended.
    pub fn ended(&self, reason: StreamEnded) {
        self.ended[reason as usize].inc();
    }
}
