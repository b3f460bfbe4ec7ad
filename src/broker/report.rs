//! What the admin port shows.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::watch;

use super::{disk, status};
use crate::api::Lifecycle;
use crate::api::admin::{Part, Report};
use crate::config::Settings;
use crate::delivery::Delivery;
use crate::event::Projected;
use crate::fetch::HotTail;
use crate::forward::Forward;
use crate::index::Index;
use crate::ingest::{Keys, Publisher, SubjectTable};
use crate::projector::{Contact, LetterBounds, Progress, ProjectorHandle};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{Limit, NodeMetrics};
use crate::transfer::{Asker, Transfer};
use crate::wal::Log;

/// The rooms of a running broker.
#[derive(Debug)]
pub struct Rooms {
    /// The log.
    pub log: Log,
    /// The ids.
    pub subjects: Arc<SubjectTable>,
    /// The idempotency keys.
    pub keys: Keys,
    /// Where publishes go.
    pub publisher: Publisher,
    /// Fetch's memory.
    pub hot: Arc<HotTail>,
    /// Where the log has what is not in it.
    pub index: Index,
    /// The subscribers.
    pub delivery: Delivery,
    /// How far the store is.
    pub projected: watch::Receiver<Projected>,
    /// Whether projection moves.
    pub projector: ProjectorHandle,
    /// The kind of store.
    pub store: &'static str,
    /// Whether it answered last, whoever asked.
    pub contact: Contact,
    /// What of a cluster the node owns.
    pub forward: Option<Forward>,
    /// What moves slots.
    pub mover: Option<(Transfer, Asker)>,
}

/// Reports on a broker, whose rooms come once they are open.
#[derive(Debug)]
pub struct Reporter {
    metrics: Metrics,
    settings: Settings,
    lifecycle: Lifecycle,
    started: Instant,
    rooms: OnceLock<Rooms>,
}

impl Reporter {
    /// A report without rooms.
    pub fn new(metrics: Metrics, settings: Settings, lifecycle: Lifecycle) -> Self {
        metrics.projector.show_kind(settings.store.kind.name());
        show_limits(&metrics.node, &settings);
        Self { metrics, settings, lifecycle, started: Instant::now(), rooms: OnceLock::new() }
    }

    /// Adds the rooms, once.
    pub fn set_rooms(&self, rooms: Rooms) {
        assert!(self.rooms.set(rooms).is_ok(), "rooms are opened once");
    }

    /// Reads the gauges that nothing moves in between.
    fn refresh(&self, rooms: &Rooms) {
        let Metrics { ingest, wal, delivery, projector, fetch, forward, node, .. } = &self.metrics;
        let Positions { trimmed, projected, durable } = rooms.positions();
        wal.durable.set(signed(durable));
        wal.trimmed.set(signed(trimmed));
        wal.bytes.set(signed(rooms.log.bytes()));
        wal.files.set(signed(rooms.log.files() as u64));
        projector.projected.set(signed(projected));
        wal.failed.set(i64::from(rooms.log.is_failed()));
        projector.lag_records.set(signed(durable - projected));
        projector.lag_seconds.set(if durable > projected { rooms.projector.lag_seconds() } else { 0.0 });
        projector.store_up.set(i64::from(rooms.store_state() == StoreState::Projecting));
        ingest.queue_bytes.set(signed(rooms.publisher.admission().in_flight() as u64));
        ingest.stream_bytes.set(signed(rooms.publisher.stream_bytes() as u64));
        ingest.queue_publishes.set(signed(rooms.publisher.queued() as u64));
        ingest.subjects.set(signed(rooms.subjects.len() as u64));
        ingest.subjects_near_last_id.set(signed(rooms.subjects.near_last_id() as u64));
        ingest.keys.set(signed(rooms.keys.held() as u64));
        delivery.queue_frames.set(signed(rooms.delivery.queued_frames() as u64));
        delivery.lag_messages.set(i64::from(rooms.delivery.lag_messages()));
        delivery.topics.set(signed(rooms.delivery.topics() as u64));
        delivery.unread_bytes.set(signed(rooms.delivery.unread_bytes() as u64));
        fetch.hot_tail_bytes.set(signed(rooms.hot.bytes() as u64));
        fetch.index_memory_bytes.set(signed(rooms.index.memory_bytes() as u64));
        fetch.index_file_bytes.set(signed(rooms.index.file_bytes()));
        fetch.index_gap_records.set(signed(rooms.index.gap_records()));
        if let Some(other_nodes) = &rooms.forward {
            forward.in_flight_bytes.set(signed(other_nodes.bytes_in_flight() as u64));
        }
        node.checkpoints.show_age();
    }
}

/// As numbers: `trimmed <= projected <= durable`.
pub(super) struct Positions {
    pub trimmed: u64,
    pub projected: u64,
    pub durable: u64,
}

/// What `walcast_store_up` and `/status` say of the store, so that they say the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoreState {
    /// It answered last.
    Projecting,
    /// It was not asked yet.
    Unknown,
    /// It did not answer, or projection waits for it, and this is why.
    Away(String),
}

impl fmt::Display for StoreState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Projecting => "projecting",
            Self::Unknown => "asking for its position",
            Self::Away(why) => why,
        })
    }
}

impl Rooms {
    pub(super) fn store_state(&self) -> StoreState {
        let Progress { projected, stalled, .. } = self.projector.progress();
        match stalled.or_else(|| self.contact.trouble()) {
            Some(why) => StoreState::Away(why),
            None if projected.is_none() => StoreState::Unknown,
            None => StoreState::Projecting,
        }
    }

    /// The lowest first: each of them only rises, so what is read later is not below it.
    pub(super) fn positions(&self) -> Positions {
        let trimmed = self.log.trimmed().sequence().get();
        let projected = self.projected.borrow().sequence().get();
        let durable = self.log.durable().sequence().get();
        Positions { trimmed, projected, durable }
    }
}

/// What the gauges are bounded by; of `limits.connections` what the system allows is known only later.
fn show_limits(node: &NodeMetrics, settings: &Settings) {
    let limits = &settings.limits;
    node.limit(Limit::LogBytes, settings.log.max_bytes);
    for (limit, value) in [
        (Limit::InFlightBytes, limits.in_flight_bytes),
        (Limit::InFlightPublishes, limits.in_flight_publishes),
        (Limit::PublishStreams, limits.publish_streams),
        (Limit::Subjects, limits.subjects),
        (Limit::IdempotencyKeys, limits.idempotency_keys),
        (Limit::Subscribers, limits.subscribers),
        (Limit::DeliveryBytes, limits.delivery_bytes),
        (Limit::HotTailBytes, limits.hot_tail_bytes),
        (Limit::Connections, limits.connections),
        (Limit::DeadLetters, LetterBounds::default().letters),
        (Limit::ForwardCalls, limits.forward_calls),
        (Limit::ForwardBytes, limits.forward_bytes),
    ] {
        node.limit(limit, value as u64);
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Report for Reporter {
    fn metrics(&self) -> String {
        let disk = disk::of(&self.settings.data_dir).unwrap_or_default();
        self.metrics.wal.disk_free.set(signed(disk.free));
        self.metrics.wal.disk_total.set(signed(disk.total));
        if let Some(rooms) = self.rooms.get() {
            self.refresh(rooms);
        }
        self.metrics.render()
    }

    fn status(&self) -> Value {
        let mut status = status::of_process(&self.settings, &self.lifecycle, self.started);
        if let (Some(rooms), Value::Object(status)) = (self.rooms.get(), &mut status) {
            status.extend(status::of_rooms(rooms, &self.settings, &self.metrics));
        }
        status
    }

    fn mover(&self) -> Option<Asker> {
        self.rooms.get()?.mover.as_ref().map(|(_, asker)| asker.clone())
    }

    fn parts(&self) -> Vec<Part> {
        let Some(rooms) = self.rooms.get() else {
            return vec![Part { name: "log", ready: false, state: "opening".to_owned() }];
        };
        let failed = rooms.log.is_failed();
        let Positions { projected, durable, .. } = rooms.positions();
        let lag = durable - projected;
        let state = rooms.store_state();
        vec![
            Part { name: "log", ready: !failed, state: if failed { "failed" } else { "writing" }.to_owned() },
            // A store that is behind or away does not make the broker unready: publishes and delivery go on.
            Part { name: "store", ready: true, state: format!("{}, {lag} records behind, {state}", rooms.store) },
        ]
    }
}
