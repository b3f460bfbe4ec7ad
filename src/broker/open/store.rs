//! Which store it is, and the first contact with it.

use std::sync::Arc;

use super::OpenDataError;
use crate::cluster::{Layout, LayoutError};
use crate::config::{PostgresSettings, Settings, StoreKind};
use crate::event::{Durable, Projected};
use crate::projector::{
    CassandraConfigError, CassandraStore, EmbeddedStore, Membership, MovedSlots, NoneStore, Opening,
    PostgresConfigError, PostgresStore, Store, StoreError, cassandra, embedded, postgres,
};
use crate::wal::{Log, LogId};

/// Where the password for Postgres is if the settings have none: as `psql` takes it.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

/// The log that a store is of.
#[derive(Debug, Clone, Copy)]
pub struct StoreOf {
    /// Its identity.
    pub log_id: LogId,
    /// How often it was opened. A local store is locked, and does not ask.
    pub epoch: u64,
    /// Its end.
    pub durable: Durable,
}

impl StoreOf {
    pub(super) fn log(log: &Log) -> Self {
        Self { log_id: log.log_id(), epoch: log.epoch(), durable: log.durable() }
    }

    /// Its end; None where only its identity is known.
    fn known_end(&self) -> Option<Projected> {
        (self.durable > Durable::default()).then_some(Projected(self.durable.sequence()))
    }
}

/// Opens the store that the settings name, for a node of the layout if there is one. Waits for no server. A local one is always taken: a lock keeps others from it.
///
/// # Errors
/// [`OpenDataError`] if a local one does not open, or the settings of a remote one do not read.
pub fn open(
    settings: &Settings,
    layout: Option<&Layout>,
    of: StoreOf,
    opening: Opening,
) -> Result<Arc<dyn Store>, OpenDataError> {
    let log_id = u128::from_be_bytes(*of.log_id.as_bytes());
    let membership = settings.cluster.node.as_ref().zip(layout).map(|(node, layout)| membership(node, layout));
    match settings.store.kind {
        StoreKind::Embedded => {
            let config = embedded::Config {
                cache_bytes: settings.store.embedded.cache_bytes,
                write_buffer_bytes: settings.store.embedded.write_buffer_bytes,
                journal_bytes: embedded::Config::default().journal_bytes,
            };
            Ok(Arc::new(EmbeddedStore::open(&settings.store_dir(), log_id, &config)?))
        }
        StoreKind::Postgres => {
            let store = open_postgres(&settings.store.postgres, log_id, of.epoch, opening)?;
            let store = of.known_end().into_iter().fold(store, PostgresStore::of_a_log_up_to);
            Ok(match membership {
                Some(membership) => Arc::new(store.shared_by(membership)),
                None => Arc::new(store),
            })
        }
        StoreKind::Cassandra => {
            let store = open_cassandra(settings, log_id, of.epoch, opening)?;
            let store = of.known_end().into_iter().fold(store, CassandraStore::of_a_log_up_to);
            Ok(match membership {
                Some(membership) => Arc::new(store.shared_by(membership)),
                None => Arc::new(store),
            })
        }
        // It keeps nothing, so it lacks nothing of what is durable already.
        StoreKind::None => Ok(Arc::new(NoneStore::starting_at(Projected(of.durable.sequence())))),
    }
}

/// The layout of the settings.
pub(super) fn layout(settings: &Settings) -> Result<Layout, LayoutError> {
    Layout::new(settings.cluster.version, &settings.cluster.nodes, &settings.cluster.slots)
}

/// What a node of this layout says of itself to a database that all nodes share.
pub fn membership(node: &str, layout: &Layout) -> Membership {
    let slots = layout.nodes().iter().enumerate();
    let slots = slots.map(|(at, node)| (node.name.clone(), layout.configured_slots(at).to_string())).collect();
    let moved = layout.moved().into_iter().map(|moved| MovedSlots {
        slots: moved.slots.to_string(),
        to: moved.to,
        number: moved.number,
    });
    Membership { node: node.to_owned(), version: layout.version().configured, slots, moved: moved.collect() }
}

fn open_postgres(
    settings: &PostgresSettings,
    log_id: u128,
    epoch: u64,
    opening: Opening,
) -> Result<PostgresStore, PostgresConfigError> {
    let config = postgres::Config {
        url: settings.url.as_ref().map(|url| url.expose().to_owned()).unwrap_or_default(),
        password_file: settings.password_file.clone(),
        password: std::env::var(PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty()),
        root_certificate: settings.root_certificate.clone(),
        connect_timeout: settings.connect_timeout,
        read_timeout: settings.read_timeout,
        write_timeout: settings.write_timeout,
        readers: settings.readers,
    };
    PostgresStore::new(&config, log_id, epoch, opening)
}

fn open_cassandra(
    settings: &Settings,
    log_id: u128,
    epoch: u64,
    opening: Opening,
) -> Result<CassandraStore, CassandraConfigError> {
    CassandraStore::new(cassandra_config(settings)?, log_id, epoch, opening)
}

/// The store's configuration of these settings.
///
/// # Errors
/// [`CassandraConfigError`] names the setting that breaks a rule.
pub fn cassandra_config(settings: &Settings) -> Result<cassandra::Config, CassandraConfigError> {
    let body_bytes = settings.limits.body_bytes;
    let settings = &settings.store.cassandra;
    let consistency = cassandra::Consistency::from_name(&settings.consistency);
    Ok(cassandra::Config {
        nodes: settings.nodes.clone(),
        keyspace: settings.keyspace.clone(),
        replication_factor: settings.replication_factor,
        datacenter: settings.datacenter.clone(),
        consistency: consistency.ok_or_else(|| CassandraConfigError {
            key: "consistency",
            rule: "it must be LOCAL_QUORUM, QUORUM or ALL: with less a Fetch could miss a message that is there"
                .to_owned(),
        })?,
        username: settings.username.clone(),
        password: settings.password.as_ref().map(|password| password.expose().to_owned()),
        tls_ca_file: settings.tls_ca_file.clone(),
        request_timeout: settings.request_timeout,
        in_flight: settings.in_flight,
        body_bytes,
    })
}

/// Makes first contact; gives the store's position, or None if its server cannot be reached now: the broker serves without
/// it, and the projector waits for it.
pub(super) async fn first_contact(store: &dyn Store) -> Result<Option<Projected>, StoreError> {
    let position = async {
        store.prepare().await?;
        store.projected().await
    };
    match position.await {
        Ok(projected) => Ok(Some(projected)),
        Err(error) if error.retryable() => {
            // The projector warns as long as that lasts.
            tracing::info!(%error, "the broker starts without its store");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
