//! What `/status` says, part by part.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::report::{Positions, Rooms};
use crate::api::{Lifecycle, Phase};
use crate::cluster::Node;
use crate::config::Settings;
use crate::forward::{Forward, OwnerHealth};
use crate::telemetry::Metrics;

/// What is known before the rooms are open.
pub(super) fn of_process(settings: &Settings, lifecycle: &Lifecycle, started: Instant) -> Value {
    let limits = &settings.limits;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": started.elapsed().as_secs(),
        "phase": lifecycle.phase().name(),
        "ready": lifecycle.phase() == Phase::Serving,
        "limits": {
            "body_bytes": limits.body_bytes,
            "in_flight_bytes": limits.in_flight_bytes,
            "in_flight_publishes": limits.in_flight_publishes,
            "hot_tail_bytes": limits.hot_tail_bytes,
            "subjects": limits.subjects,
            "subscribers": limits.subscribers,
            "subscriber_bytes": limits.subscriber_bytes,
            "delivery_bytes": limits.delivery_bytes,
            "connections": limits.connections,
            "streams_per_connection": limits.streams_per_connection,
        },
    })
}

/// What the rooms say, each under its name.
pub(super) fn of_rooms(rooms: &Rooms, settings: &Settings, metrics: &Metrics) -> Map<String, Value> {
    let positions = rooms.positions();
    let parts = [
        ("log", log(rooms, &positions)),
        ("ids", json!({ "subjects": rooms.subjects.len() })),
        ("idempotency", json!({ "keys": rooms.keys.held(), "keys_max": settings.limits.idempotency_keys })),
        ("queue", queue(rooms)),
        ("hot_tail", json!({ "bytes": rooms.hot.bytes(), "bytes_max": rooms.hot.bytes_max() })),
        ("index", index(rooms)),
        ("projector", projector(rooms, &positions, metrics)),
        ("delivery", delivery(rooms)),
        ("connections", json!(metrics.api.connections.get())),
    ];
    let cluster = rooms.forward.as_ref().map(|forward| ("cluster", cluster(forward, rooms)));
    parts.into_iter().chain(cluster).map(|(name, part)| (name.to_owned(), part)).collect()
}

fn log(rooms: &Rooms, positions: &Positions) -> Value {
    json!({
        "id": rooms.log.log_id().to_string(),
        "epoch": rooms.log.epoch(),
        "durable": positions.durable,
        "projected": positions.projected,
        "trimmed": positions.trimmed,
        "bytes": rooms.log.bytes(),
        "files": rooms.log.files(),
    })
}

fn queue(rooms: &Rooms) -> Value {
    let admission = rooms.publisher.admission();
    json!({
        "bytes": admission.in_flight(),
        "bytes_max": admission.bytes_max(),
        "publishes": rooms.publisher.queued(),
    })
}

fn index(rooms: &Rooms) -> Value {
    json!({
        "memory_bytes": rooms.index.memory_bytes(),
        "file_bytes": rooms.index.file_bytes(),
        "gap_records": rooms.index.gap_records(),
    })
}

fn projector(rooms: &Rooms, positions: &Positions, metrics: &Metrics) -> Value {
    json!({
        "store": rooms.store,
        "state": rooms.store_state().to_string(),
        "lag_records": positions.durable - positions.projected,
        "dead_letters": metrics.projector.dead_letters.get(),
    })
}

fn delivery(rooms: &Rooms) -> Value {
    json!({
        "subscribers": rooms.delivery.subscribers(),
        "topics": rooms.delivery.topics(),
        "bytes": rooms.delivery.unread_bytes(),
    })
}

/// The layout as the node has it.
fn cluster(forward: &Forward, rooms: &Rooms) -> Value {
    let layout = forward.layout();
    let node = |(at, node): (usize, &Node)| {
        let unreachable = forward.health(at) == Some(OwnerHealth::Unreachable);
        json!({ "name": node.name, "address": node.address, "slots": layout.slots(at).to_string(), "unreachable": unreachable })
    };
    let moving = rooms.mover.as_ref().and_then(|(transfer, _)| transfer.moving());
    let moving = moving.map(|moving| {
        json!({
            "slots": moving.slots.to_string(),
            "to": moving.to,
            "step": moving.step().name(),
            "records": moving.records(),
        })
    });
    json!({
        "node": forward.node(),
        "moving": moving,
        "version": layout.version().configured,
        "moves": layout.version().moves,
        "digest": format!("{:016x}", layout.digest()),
        "nodes": layout.nodes().iter().enumerate().map(node).collect::<Vec<_>>(),
    })
}
