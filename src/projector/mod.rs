//! The projector: from the log to the history store, and the contract that every store keeps.
//!
//! Owns the cursor, batching, retry, the [`Store`] contract with its [`conformance`] suite and the
//! implementations: [`EmbeddedStore`] on the local disk, [`NoneStore`] for pure pub/sub.
//!
//! Must never be in the path of an ack or of live delivery, and never take messages from anywhere but the log.

pub mod conformance;
pub mod embedded;
mod none;
mod store;

pub use embedded::{EmbeddedStore, OpenStoreError};
pub use none::NoneStore;
pub use store::{ApplyError, Row, Store, StoreBatch, StoreError, StoredMessage};
