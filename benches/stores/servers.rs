//! The servers of a run: one Postgres and one Cassandra node, started once, both with their default durability.

use std::path::Path;

use crate::figures::Kind;
use crate::harness::Node;
use crate::page::machine;
use crate::server::Server;
use crate::{Failure, databases, processes};

/// What runs beside the broker.
#[derive(Debug)]
pub struct Servers {
    postgres: Option<Server>,
    cassandra: Option<Node>,
}

impl Servers {
    /// Starts those that the stores need.
    pub fn start(stores: &[Kind]) -> Self {
        let postgres = stores.contains(&Kind::Postgres).then(databases::postgres);
        let cassandra = stores.contains(&Kind::Cassandra).then(databases::cassandra);
        Self { postgres, cassandra }
    }

    /// The Postgres server.
    ///
    /// # Errors
    /// It was not wanted.
    pub fn postgres(&self) -> Result<&Server, Failure> {
        self.postgres.as_ref().ok_or_else(|| "there is no Postgres in this run".into())
    }

    /// The Cassandra node.
    ///
    /// # Errors
    /// It was not wanted.
    pub fn cassandra(&self) -> Result<&Node, Failure> {
        self.cassandra.as_ref().ok_or_else(|| "there is no Cassandra in this run".into())
    }

    /// The process of a store that all others of it descend from; for the embedded one this process, which has it.
    ///
    /// # Errors
    /// It was not wanted.
    pub fn pid(&self, kind: Kind) -> Result<u32, Failure> {
        match kind {
            Kind::Embedded => Ok(std::process::id()),
            Kind::Postgres => Ok(self.postgres()?.pid()),
            Kind::Cassandra => Ok(self.cassandra()?.pid()),
        }
    }

    /// Stops the server of a store in order, so that everything is in its tables. The embedded one is closed by its owner.
    ///
    /// # Errors
    /// It was not wanted.
    pub fn stop(&self, kind: Kind) -> Result<(), Failure> {
        match kind {
            Kind::Embedded => {}
            Kind::Postgres => self.postgres()?.stop(),
            Kind::Cassandra => self.cassandra()?.stop(),
        }
        Ok(())
    }

    /// Kills the server of a store: `kill -9` to all its processes.
    ///
    /// # Errors
    /// It was not wanted.
    pub fn kill(&self, kind: Kind) -> Result<(), Failure> {
        match kind {
            Kind::Embedded => {}
            Kind::Postgres => self.postgres()?.kill_nine(),
            Kind::Cassandra => self.cassandra()?.kill(),
        }
        Ok(())
    }

    /// Starts a server that was stopped or killed, and waits until it takes connections.
    ///
    /// # Errors
    /// It was not wanted.
    pub fn start_again(&self, kind: Kind) -> Result<(), Failure> {
        match kind {
            Kind::Embedded => {}
            Kind::Postgres => self.postgres()?.start_again(),
            Kind::Cassandra => self.cassandra()?.restart(),
        }
        Ok(())
    }

    /// Machine, versions and settings, for the report.
    ///
    /// # Errors
    /// A server does not say.
    pub async fn settings(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut found = vec![("Machine".to_owned(), machine(Path::new(env!("CARGO_TARGET_TMPDIR")))?)];
        found.push(("Embedded".to_owned(), format!("fjall {}, default settings", databases::fjall_version())));
        if let Some(server) = &self.postgres {
            found.push(("Postgres".to_owned(), databases::postgres_settings(server).await?));
        }
        if let Some(node) = &self.cassandra {
            found.push(("Cassandra".to_owned(), databases::cassandra_settings(node)?));
        }
        Ok(found)
    }
}

/// Runs what blocks, such as the start of a server, beside the tasks of the runtime.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Empties the page cache.
///
/// # Errors
/// The right is missing.
pub fn forget_page_cache() -> Result<(), Failure> {
    blocking(processes::forget_page_cache)
}
