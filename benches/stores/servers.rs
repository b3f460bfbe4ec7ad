//! The servers of a run: one Postgres and one Cassandra node, started once, both with their default durability.

use std::path::Path;

use crate::Failure;
use crate::figures::Kind;
use crate::harness::{Node, Setup};
use crate::page::machine;
use crate::processes;
use crate::server::Server;

/// fsync is on unless somebody turns it off, as the tests do.
const POSTGRES: [&str; 3] = ["fsync=on", "shared_buffers=256MB", "max_wal_size=4GB"];

/// The sizes of Cassandra's defaults, where the tests have smaller ones.
const CASSANDRA: [&str; 3] =
    ["commitlog_segment_size: 32MiB", "commitlog_total_space: 1024MiB", "memtable_heap_space: 256MiB"];

/// What runs beside the broker.
#[derive(Debug)]
pub struct Servers {
    postgres: Option<Server>,
    cassandra: Option<Node>,
}

impl Servers {
    /// Starts those that the stores need.
    pub fn start(stores: &[Kind]) -> Self {
        let postgres = stores.contains(&Kind::Postgres).then(|| Server::with(&POSTGRES));
        let cassandra = stores.contains(&Kind::Cassandra).then(|| {
            let setup = CASSANDRA.iter().fold(Setup::lasting(), |setup, line| setup.yaml(line));
            setup.start()
        });
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
        found.push(("Embedded".to_owned(), format!("fjall {}, default settings", fjall_version())));
        if let Some(server) = &self.postgres {
            found.push(("Postgres".to_owned(), postgres_settings(server).await?));
        }
        if let Some(node) = &self.cassandra {
            found.push(("Cassandra".to_owned(), cassandra_settings(node)?));
        }
        Ok(found)
    }
}

async fn postgres_settings(server: &Server) -> Result<String, Failure> {
    let admin = server.client("postgres").await;
    let names = "SELECT string_agg(name || ' ' || current_setting(name), ', ' ORDER BY name) FROM pg_settings \
                 WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size')";
    let version: String = admin.query_one("SHOW server_version", &[]).await?.get(0);
    let settings: String = admin.query_one(names, &[]).await?.get(0);
    Ok(format!("{version}; {settings}; everything else as it comes"))
}

fn cassandra_settings(node: &Node) -> Result<String, Failure> {
    let yaml = std::fs::read_to_string(node.folder().join("conf/cassandra.yaml"))?;
    let wanted = ["commitlog_sync", "commitlog_segment_size", "commitlog_total_space", "memtable_heap_space"];
    let lines = yaml.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key)));
    let settings: Vec<String> = lines.map(|line| line.replacen(':', "", 1)).collect();
    let log = std::fs::read_to_string(node.folder().join("system.log"))?;
    let version = log.split("Cassandra version: ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or("unknown");
    Ok(format!("{version}, one node, one copy, heap 1 GiB, Java 17; {}", settings.join(", ")))
}

/// The version in the lock file.
fn fjall_version() -> String {
    let lock = include_str!("../../Cargo.lock");
    let after = lock.split("name = \"fjall\"\nversion = \"").nth(1);
    after.and_then(|rest| rest.split('"').next()).unwrap_or("unknown").to_owned()
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
