//! Where one store lives for one round: a directory, a database, a keyspace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use walcast::projector::embedded::Config;
use walcast::projector::{EmbeddedStore, Store};

use crate::Failure;
use crate::broker::{self, Broker};
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

    /// Lets a broker have its history here.
    ///
    /// # Errors
    /// The server was not wanted.
    pub fn configure(&self, command: &mut Command) -> Result<(), Failure> {
        command.arg("--store").arg(self.kind().name());
        match &self.home {
            Home::Directory(_) => {}
            Home::Database(name) => {
                command.arg("--postgres-url").arg(self.servers.postgres()?.url(name));
            }
            Home::Keyspace(place) => {
                command.arg("--cassandra-nodes").arg(self.servers.cassandra()?.address());
                command.env("WALCAST_STORE__CASSANDRA__KEYSPACE", &place.config.keyspace);
            }
        }
        Ok(())
    }

    /// Which kind of store lives here.
    pub const fn kind(&self) -> Kind {
        match self.home {
            Home::Directory(_) => Kind::Embedded,
            Home::Database(_) => Kind::Postgres,
            Home::Keyspace(_) => Kind::Cassandra,
        }
    }

    /// Stops the broker, and looks whether the store has each of the `published` messages: counted in the database, and
    /// compared with the log where the store is the broker's own.
    ///
    /// # Errors
    /// It does not.
    pub async fn must_have_all(&self, broker: Broker, published: u64) -> Result<(), Failure> {
        let folder = blocking(|| broker.stop())?;
        let found = match &self.home {
            Home::Directory(_) => {
                let mut check = Command::new(env!("CARGO_BIN_EXE_walcast"));
                broker::without_settings(check.args(["store", "check", "--data-dir"]).arg(folder.path()));
                let output = blocking(|| check.output())?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                if !output.status.success() {
                    return Err(format!("`walcast store check`: {said}").into());
                }
                let compared = said.lines().last().and_then(|line| line.split(' ').next()?.parse().ok());
                compared.ok_or_else(|| format!("`walcast store check` does not say how many it compared: {said}"))?
            }
            Home::Database(name) => {
                let admin = self.servers.postgres()?.client(name).await;
                admin.query_one("SELECT count(*) FROM walcast.messages", &[]).await?.get::<_, i64>(0)
            }
            Home::Keyspace(place) => {
                let session = harness::operator(&place.config).await;
                let count = format!("SELECT count(*) FROM {}.messages", place.config.keyspace);
                harness::query::<(i64,)>(&session, &count).await.first().ok_or("no count")?.0
            }
        };
        if u64::try_from(found)? != published {
            return Err(format!("{} has {found} messages of {published}", self.kind()).into());
        }
        Ok(())
    }

    /// Bytes on the disk of everything that belongs to the rows here, as it is now.
    ///
    /// # Errors
    /// The disk's or the server's.
    pub async fn disk_bytes(&self) -> Result<u64, Failure> {
        let folder = match &self.home {
            Home::Directory(folder) => store_of(folder.path()),
            Home::Database(name) => {
                let server = self.servers.postgres()?;
                let oid = "SELECT oid::text FROM pg_database WHERE datname = $1";
                let oid: String = server.client("postgres").await.query_one(oid, &[name]).await?.get(0);
                server.folder().join("data/base").join(oid)
            }
            Home::Keyspace(place) => self.servers.cassandra()?.folder().join("data/data").join(&place.config.keyspace),
        };
        processes::disk_bytes(&folder, &is_no_journal)
    }

    /// The keyspace here.
    ///
    /// # Errors
    /// It is another kind of store.
    pub fn keyspace(&self) -> Result<&harness::Place, Failure> {
        match &self.home {
            Home::Keyspace(place) => Ok(place),
            Home::Directory(_) | Home::Database(_) => Err("this is no keyspace".into()),
        }
    }

    /// The database here.
    ///
    /// # Errors
    /// It is another kind of store.
    pub fn database(&self) -> Result<&str, Failure> {
        match &self.home {
            Home::Database(name) => Ok(name),
            Home::Directory(_) | Home::Keyspace(_) => Err("this is no database".into()),
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
