//! Keyspaces, stores in them, and messages for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use walcast::event::{Expiration, MessageId, Projected, Sequence, Subject, UnixMicros, clock};
use walcast::projector::cassandra::{CassandraStore, Config};
use walcast::projector::{Opening, Row, Store, StoreBatch, conformance};

use super::Node;

/// The log that the stores belong to.
pub const LOG: u128 = 0x5EED_0001;

/// A keyspace of its own on a node, and which epoch opens it next.
#[derive(Debug)]
pub struct Place {
    /// How a store here is set up.
    pub config: Config,
    epoch: AtomicU64,
}

impl Place {
    /// A keyspace that no other test uses. It is made by the first store.
    pub fn on(node: &Node) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let keyspace = format!("w{number}");
        let config = Config { nodes: vec![node.address()], keyspace, ..Config::default() };
        Self { config, epoch: AtomicU64::new(0) }
    }

    /// A store for the next epoch, not prepared.
    pub fn store(&self) -> CassandraStore {
        self.store_of_epoch(self.epoch.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A store for a certain epoch, not prepared.
    pub fn store_of_epoch(&self, epoch: u64) -> CassandraStore {
        CassandraStore::new(self.config.clone(), LOG, epoch, Opening::Take).expect("a good configuration")
    }

    /// A store of this log, or another, that only looks. Its start is newer than any.
    pub fn look(&self, log_id: u128) -> CassandraStore {
        CassandraStore::new(self.config.clone(), log_id, u64::MAX >> 1, Opening::Look).expect("a good configuration")
    }

    /// A store for the next epoch.
    pub async fn open(&self) -> CassandraStore {
        let store = self.store();
        store.prepare().await.expect("prepares");
        store
    }
}

#[async_trait]
impl conformance::Place for Place {
    async fn open(&self, log_id: u128) -> Result<Box<dyn Store>, String> {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let store = CassandraStore::new(self.config.clone(), log_id, epoch, Opening::Take)
            .map_err(|error| error.to_string())?;
        store.prepare().await.map_err(|error| error.to_string())?;
        Ok(Box::new(store))
    }
}

/// A subject.
pub fn subject(text: &str) -> Subject {
    Subject::new(text.to_owned()).expect("valid")
}

/// An id.
pub fn id(value: u64) -> MessageId {
    u32::try_from(value).ok().and_then(MessageId::new).expect("an id")
}

/// A row whose id is its sequence, published now, kept for an hour.
pub fn row(sequence: u64, text: &str, body: impl Into<Bytes>) -> Row {
    Row {
        sequence: Sequence::new(sequence),
        subject: subject(text),
        id: id(sequence),
        published_at: now(),
        expiration: Expiration::from_wire(3_600).expect("not negative"),
        body: body.into(),
    }
}

/// The wall clock.
pub fn now() -> UnixMicros {
    clock::now()
}

/// A batch from `previous` to the last of its rows, with their marks.
pub fn batch(previous: u64, rows: Vec<Row>) -> Arc<StoreBatch> {
    let projected = rows.last().map_or(previous, |row| row.sequence.get());
    conformance::batch(previous, projected, rows)
}

/// A position.
pub fn at(sequence: u64) -> Projected {
    Projected(Sequence::new(sequence))
}

/// `count` rows after `previous` on the subject `s`, whose bodies tell the sequence.
pub fn rows(previous: u64, count: u64) -> Vec<Row> {
    (previous + 1..=previous + count).map(|sequence| row(sequence, "s", format!("body {sequence}"))).collect()
}
