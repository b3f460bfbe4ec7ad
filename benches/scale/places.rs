//! Where history goes: the databases, and an empty place in them for each broker.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::Failure;
use crate::axis::System;
use crate::databases;
use crate::harness::Node;
use crate::server::Server;

/// The databases, if they are wanted.
#[derive(Debug, Default)]
pub struct Places {
    running: Option<(Server, Node)>,
    settings: Vec<(&'static str, String)>,
    keyspaces: AtomicU32,
}

impl Places {
    /// Starts both.
    ///
    /// # Errors
    /// One does not say how it is set up, or Postgres does not sync.
    pub async fn start() -> Result<Self, Failure> {
        let (postgres, cassandra) = tokio::task::block_in_place(|| (databases::postgres(), databases::cassandra()));
        let of_postgres = databases::postgres_settings(&postgres).await?;
        if !of_postgres.contains("fsync on") {
            return Err(format!("Postgres does not sync what it commits: {of_postgres}").into());
        }
        let settings = vec![
            ("embedded", format!("fjall {}, default settings", databases::fjall_version())),
            ("postgres", of_postgres),
            ("cassandra", databases::cassandra_settings(&cassandra)?),
        ];
        Ok(Self { running: Some((postgres, cassandra)), settings, keyspaces: AtomicU32::new(0) })
    }

    /// The settings of a broker that begins with nothing.
    ///
    /// # Errors
    /// There is no such database.
    pub async fn new_place(&self, system: System) -> Result<Vec<(&'static str, String)>, Failure> {
        let kind = ("STORE__KIND", system.name().to_owned());
        let running = || self.running.as_ref().ok_or("there is no database");
        Ok(match system {
            System::Noop => Vec::new(),
            System::NoStore | System::Embedded => vec![kind],
            System::Postgres => {
                let server = &running()?.0;
                vec![kind, ("STORE__POSTGRES__URL", server.url(&server.database().await))]
            }
            System::Cassandra => {
                let keyspace = format!("scale{}", self.keyspaces.fetch_add(1, Ordering::Relaxed));
                let address = running()?.1.address();
                vec![kind, ("STORE__CASSANDRA__NODES", address), ("STORE__CASSANDRA__KEYSPACE", keyspace)]
            }
        })
    }

    /// The process that all others of a system's database descend from.
    pub fn pid(&self, system: System) -> Option<u32> {
        let (postgres, cassandra) = self.running.as_ref()?;
        match system {
            System::Postgres => Some(postgres.pid()),
            System::Cassandra => Some(cassandra.pid()),
            System::Noop | System::NoStore | System::Embedded => None,
        }
    }

    /// The first line of a block, and what the databases say of themselves.
    pub fn settings(&self, first: String) -> String {
        let mut text = format!("{first}\n\n");
        if !self.settings.is_empty() {
            text.push_str("| store | version and settings |\n|---|---|\n");
            text.extend(self.settings.iter().map(|(store, says)| format!("| {store} | {says} |\n")));
            text.push('\n');
        }
        text
    }
}
