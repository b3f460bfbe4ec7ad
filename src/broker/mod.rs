//! The broker as a whole: opens the rooms, connects them, runs them and stops them in order.
//!
//! Owns the lifecycle. Must never contain what a room does.

mod announce;
mod connect;
mod descriptors;
mod disk;
mod error;
mod error_kind;
mod failures;
mod housekeeping;
mod membership;
mod open;
mod report;
mod run;
mod shutdown;
mod sink;
mod status;
mod supervisor;

pub use error::{Error, ErrorKind};
pub use open::{OpenDataError, StoreOf, cassandra_config, open_store, owned_slots};
pub use run::run;
