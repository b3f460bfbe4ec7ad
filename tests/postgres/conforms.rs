//! The contract of a store, on one server with a database for each check.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use walcast::projector::Store;
use walcast::projector::conformance::{self, Harness, Place};

use crate::server::{self, Server};

/// Makes a database a place.
pub struct Databases {
    server: Arc<Server>,
    /// The port that the stores connect to: the server's, or that of what stands before it.
    port: u16,
}

impl Databases {
    pub fn behind(server: Arc<Server>, port: u16) -> Self {
        Self { server, port }
    }
}

struct Database {
    url: String,
    epoch: AtomicU64,
}

#[async_trait]
impl Harness for Databases {
    async fn create(&self) -> Result<Box<dyn Place>, String> {
        let database = self.server.database().await;
        Ok(Box::new(Database { url: server::url_at(self.port, &database), epoch: AtomicU64::new(1) }))
    }
}

#[async_trait]
impl Place for Database {
    async fn open(&self, log_id: u128) -> Result<Box<dyn Store>, String> {
        let store = server::store(&self.url, log_id, self.epoch.fetch_add(1, Ordering::Relaxed));
        store.prepare().await.map_err(|error| error.to_string())?;
        Ok(Box::new(store))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_store() {
    let server = Arc::new(Server::start());
    let port = server.port();
    let failures = conformance::failures(&Databases::behind(server, port)).await;
    assert!(failures.is_empty(), "{failures:#?}");
}
