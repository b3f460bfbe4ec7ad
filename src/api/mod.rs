//! The edge: gRPC services, the one table from errors to statuses, HTTP/2 limits, health, reflection and
//! the admin HTTP port.
//!
//! Must never contain broker logic.

pub mod codec;
mod errors;
