//! The projector: from the log to the history store, and the contract that every store keeps.
//!
//! The pipeline is [`Projector`]; upper rooms hear of its progress through [`ProjectionSink`] and [`ProjectorHandle`].
//!
//! Owns the cursor, batching, retry, [`DeadLetters`], the [`Store`] contract with its [`conformance`] suite and the
//! implementations: [`EmbeddedStore`] on the local disk, [`PostgresStore`] in a database,
//! [`CassandraStore`] in a cluster, [`NoneStore`] for pure pub/sub.
//!
//! Must never be in the path of an ack or of live delivery, and never take messages from anywhere but the log.

mod apply;
mod batch;
mod bucket;
pub mod cassandra;
pub mod conformance;
mod dead_letters;
pub mod embedded;
mod members;
mod none;
mod pipeline;
pub mod postgres;
mod retry;
mod store;
mod tls;
mod watched;

pub use apply::{Applier, ApplierError, Patience};
pub use batch::BatchBuilder;
pub use cassandra::{CassandraStore, ConfigError as CassandraConfigError};
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters, FileError, LetterBounds};
pub use embedded::{EmbeddedStore, OpenStoreError};
pub use members::{Membership, MovedSlots};
pub use none::NoneStore;
pub use pipeline::{Config, Progress, ProjectionSink, Projector, ProjectorError, ProjectorHandle};
pub use postgres::{PostgresConfigError, PostgresStore};
pub use retry::Pauses;
pub use store::{ApplyError, Foreign, HighWaterMark, Opening, Row, Store, StoreBatch, StoreError, StoredMessage};
pub use watched::{Contact, WatchedStore};
