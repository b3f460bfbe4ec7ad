//! The projector: from the log to the history store, and the contract that every store keeps.
//!
//! The pipeline is [`Projector`]; upper rooms hear of its progress through [`ProjectionSink`] and [`ProjectorHandle`].
//!
//! Owns the cursor, batching, retry, the [`Store`] contract with its [`conformance`] suite and the
//! implementations: [`EmbeddedStore`] on the local disk, [`CassandraStore`] in a cluster, [`NoneStore`] for pure pub/sub.
//!
//! Must never be in the path of an ack or of live delivery, and never take messages from anywhere but the log.

pub mod cassandra;
pub mod conformance;
pub mod embedded;
mod none;
mod pipeline;
mod store;

pub use cassandra::CassandraStore;
pub use embedded::{EmbeddedStore, OpenStoreError};
pub use none::NoneStore;
pub use pipeline::{Config, Progress, ProjectionSink, Projector, ProjectorError, ProjectorHandle};
pub use store::{ApplyError, Row, Store, StoreBatch, StoreError, StoredMessage};
