//! The edge: gRPC services, the one table from errors to statuses, HTTP/2 limits, health, reflection and
//! the admin HTTP port.
//!
//! Must never contain broker logic.

pub mod admin;
pub mod codec;
mod connections;
mod edge;
mod errors;
mod lifecycle;
mod server;
mod service;

pub use connections::Connections;
pub use lifecycle::{Lifecycle, Phase};
pub use server::{ServeError, ServerConfig, serve};
pub use service::BrokerService;
