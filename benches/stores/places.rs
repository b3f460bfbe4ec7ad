//! Where one store lives for one round: a directory, a database, a keyspace.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use walcast::projector::embedded::Config;
use walcast::projector::{EmbeddedStore, Store};

use crate::Failure;
use crate::figures::Kind;
use crate::harness;
use crate::processes;
use crate::server;
use crate::servers::{Servers, blocking};

/// The log that the stores belong to.
const LOG: u128 = 0x5EED_0005;

/// An empty place, and later what a workload has left there.
#[derive(Debug)]
pub struct Place<'a> {
    servers: &'a Servers,
    home: Home,
    epoch: AtomicU64,
}

#[derive(Debug)]
enum Home {
    Directory(TempDir),
    Database(String),
    Keyspace(harness::Place),
}

impl<'a> Place<'a> {
    /// A new one.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn new(kind: Kind, servers: &'a Servers) -> Result<Self, Failure> {
        let home = match kind {
            Kind::Embedded => {
                Home::Directory(tempfile::Builder::new().prefix("stores-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
            }
            Kind::Postgres => Home::Database(servers.postgres()?.database().await),
            Kind::Cassandra => Home::Keyspace(harness::Place::on(servers.cassandra()?)),
        };
        Ok(Self { servers, home, epoch: AtomicU64::new(0) })
    }

    /// The store here, ready.
    ///
    /// # Errors
    /// It does not open.
    pub async fn open(&self) -> Result<Arc<dyn Store>, Failure> {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let store: Arc<dyn Store> = match &self.home {
            Home::Directory(folder) => {
                Arc::new(blocking(|| EmbeddedStore::open(&store_of(folder.path()), LOG, &Config::default()))?)
            }
            Home::Database(name) => Arc::new(server::store(&self.servers.postgres()?.url(name), LOG, epoch)),
            Home::Keyspace(place) => Arc::new(place.store_of_epoch(epoch)),
        };
        store.prepare().await?;
        Ok(store)
    }

    /// Bytes on the disk of rows and indexes, of the marks and of the position, without the database's own log, whose size
    /// does not follow from the number of messages. Everything is in the tables: the server was stopped in order.
    ///
    /// # Errors
    /// The disk's or the server's.
    pub async fn table_bytes(&self) -> Result<u64, Failure> {
        match &self.home {
            Home::Directory(folder) => processes::disk_bytes(&store_of(folder.path()), &is_no_journal),
            Home::Database(name) => {
                let admin = self.servers.postgres()?.client(name).await;
                let all = "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c \
                           WHERE relnamespace = 'walcast'::regnamespace AND relkind = 'r'";
                Ok(u64::try_from(admin.query_one(all, &[]).await?.get::<_, i64>(0))?)
            }
            Home::Keyspace(place) => {
                let keyspace = self.servers.cassandra()?.folder().join("data/data").join(&place.config.keyspace);
                processes::disk_bytes(&keyspace, &|_| true)
            }
        }
    }

    /// Makes the closed embedded store write what is in its journals into its tables, as an orderly stop of the servers does.
    ///
    /// # Errors
    /// It does not open.
    pub fn flush_embedded(&self) -> Result<(), Failure> {
        let Home::Directory(folder) = &self.home else { return Ok(()) };
        blocking(|| {
            let database = fjall::Database::builder(store_of(folder.path())).open()?;
            for name in database.list_keyspace_names() {
                database.keyspace(&name, fjall::KeyspaceCreateOptions::default)?.rotate_memtable_and_wait()?;
            }
            Ok(())
        })
    }
}

fn store_of(folder: &Path) -> PathBuf {
    folder.join("store")
}

/// Whether a file of the embedded store is not a journal, which is there in full whatever it holds.
fn is_no_journal(path: &Path) -> bool {
    path.extension().is_none_or(|extension| extension != "jnl")
}
