//! The edge: gRPC services, the one table from errors to statuses, HTTP/2 limits, health, reflection and
//! the admin HTTP port.
//!
//! Must never contain broker logic.

pub mod admin;
pub mod codec;
mod edge;
mod errors;
mod framing;
mod lifecycle;
mod meter;
mod moves;
mod nodes;
mod owners;
mod publish;
mod publish_stream;
mod server;
mod service;
mod transport;
mod unary;

pub use lifecycle::{Lifecycle, Phase};
pub use server::{ANSWER_BYTES_MAX, ServeError, ServerConfig, serve};
pub use service::{BrokerService, PublishStreams};
pub use transport::Connections;
