//! The transport: TCP connections, HTTP/2 on each, and the calls on them.
//!
//! hyper speaks HTTP/2 and tonic gRPC; what is ours is which task runs what. A connection and all its streams are
//! one task ([`streams`]): the answers to the publishes of one fdatasync, and a message to many subscribers on one
//! connection, leave in one write instead of one each.
//!
//! Must never know what a call means.

mod connections;
mod deadline;
mod serve;
mod socket;
mod streams;
mod threads;

pub use connections::Connections;
pub use deadline::{Deadline, timeout};
pub use serve::{Http2, serve};
pub use threads::Threads;
