//! walcast: an event-sourced gRPC broker.
//!
//! `Publish` is acknowledged once the message is on the local disk. The log is the truth; the history
//! store and the live streams are views of it. Rooms import downwards only:
//!
//! `cli` → `broker` → `api` → `fetch` → `index`, `ingest`, `delivery`, `projector` → `wal` → `event`;
//! `cluster` beside `ingest` says which subjects are a node's, `forward` above it passes on calls for the others; `config` and `telemetry` stand beside them and import only `event`.

pub mod api;
pub mod broker;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod delivery;
pub mod event;
pub mod fetch;
pub mod forward;
pub mod index;
pub mod ingest;
pub mod projector;
pub mod proto;
pub mod telemetry;
pub mod transfer;
pub mod wal;
