//! Postgres and Cassandra with their default durability and the sizes that comparisons use.

use crate::Failure;
use crate::harness::{Node, Setup};
use crate::server::Server;

/// fsync is on unless somebody turns it off, as the tests do.
const POSTGRES: [&str; 3] = ["fsync=on", "shared_buffers=256MB", "max_wal_size=4GB"];

/// The sizes of Cassandra's defaults, where the tests have smaller ones.
const CASSANDRA: [&str; 3] =
    ["commitlog_segment_size: 32MiB", "commitlog_total_space: 1024MiB", "memtable_heap_space: 256MiB"];

/// A Postgres server, started.
pub fn postgres() -> Server {
    Server::with(&POSTGRES)
}

/// A Cassandra node, started.
pub fn cassandra() -> Node {
    CASSANDRA.iter().fold(Setup::lasting(), |setup, line| setup.yaml(line)).start()
}

/// Its version, and the settings that its durability and its rate hang on, as it says itself.
///
/// # Errors
/// It does not say.
pub async fn postgres_settings(server: &Server) -> Result<String, Failure> {
    let admin = server.client("postgres").await;
    let names = "SELECT string_agg(name || ' ' || current_setting(name), ', ' ORDER BY name) FROM pg_settings \
                 WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size')";
    let version: String = admin.query_one("SHOW server_version", &[]).await?.get(0);
    let settings: String = admin.query_one(names, &[]).await?.get(0);
    Ok(format!("{version}; {settings}; everything else as it comes"))
}

/// Its version, and the settings that its durability and its rate hang on.
///
/// # Errors
/// Its files cannot be read.
pub fn cassandra_settings(node: &Node) -> Result<String, Failure> {
    let yaml = std::fs::read_to_string(node.folder().join("conf/cassandra.yaml"))?;
    let wanted = ["commitlog_sync", "commitlog_segment_size", "commitlog_total_space", "memtable_heap_space"];
    let lines = yaml.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key)));
    let settings: Vec<String> = lines.map(|line| line.replacen(':', "", 1)).collect();
    let log = std::fs::read_to_string(node.folder().join("system.log"))?;
    let version = log.split("Cassandra version: ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or("unknown");
    Ok(format!("{version}, one node, one copy, heap 1 GiB, Java 17; {}", settings.join(", ")))
}

/// The version of the embedded store, in the lock file.
pub fn fjall_version() -> String {
    let lock = include_str!("../../Cargo.lock");
    let after = lock.split("name = \"fjall\"\nversion = \"").nth(1);
    after.and_then(|rest| rest.split('"').next()).unwrap_or("unknown").to_owned()
}
