//! The projector: from the log to the history store, and the contract that every store keeps.
//!
//! Owns the cursor, batching, retry and the [`Store`] implementations.
//!
//! Must never be in the path of an ack or of live delivery, and never take messages from anywhere but the log.

mod store;

pub use store::{ApplyError, Row, Store, StoreBatch, StoreError, StoredMessage};
