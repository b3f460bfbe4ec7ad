//! Connections: how one is made, how many readers there are, and how one is given up.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use super::config::{self, Config, PostgresConfigError};
use super::{errors, reads, tls};
use crate::projector::StoreError;

/// How long the server is asked to give up a statement that took too long. Best effort: the server may be gone.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    driver: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    password_file: Option<PathBuf>,
    timeout: Duration,
}

impl Connector {
    /// Reads the URL, the certificates, and the password file for a first time.
    pub(super) fn new(config: &Config) -> Result<Self, PostgresConfigError> {
        let config::Target { mut driver, check, root_certificate } = config::read(&config.url)?;
        let root_certificate = root_certificate.as_deref().or(config.root_certificate.as_deref());
        let tls = tls::connector(check, root_certificate)?;
        if driver.get_password().is_none()
            && let Some(password) = &config.password
        {
            driver.password(password);
        }
        // A password in the URL is the one that was meant.
        let password_file = config.password_file.clone().filter(|_| driver.get_password().is_none());
        // Of several hosts the first one that is away must leave time for the others.
        let hosts = u32::try_from(driver.get_hosts().len()).unwrap_or(u32::MAX).max(1);
        let share = config.connect_timeout / hosts;
        if driver.get_connect_timeout().is_none_or(|set| *set > share) {
            driver.connect_timeout(share);
        }
        let connector = Self { driver, tls, password_file, timeout: config.connect_timeout };
        connector.password()?;
        Ok(connector)
    }

    /// Where it connects to, for people.
    pub(super) fn place(&self) -> String {
        config::place(&self.driver)
    }

    /// A new connection, within the bound.
    pub(super) async fn connect(&self) -> Result<Connection, StoreError> {
        let connected = timeout(self.timeout, self.try_connect()).await;
        let connected = connected.unwrap_or_else(|_| Err(errors::late("connecting", self.timeout)));
        connected.map_err(|error| name_place(error, &self.place()))
    }

    async fn try_connect(&self) -> Result<Connection, StoreError> {
        let mut driver = self.driver.clone();
        if let Some(password) = self.password().map_err(|error| errors::unavailable(error.to_string()))? {
            driver.password(password);
        }
        let (client, connection) = driver.connect(self.tls.clone()).await.map_err(|error| errors::store(&error))?;
        let driving = async {
            // Whoever waits for an answer is told; an idle connection is replaced when it is needed.
            if let Err(error) = connection.await {
                debug!(error = errors::chain(&error), "a connection to Postgres ended");
            }
        };
        #[expect(clippy::disallowed_methods, reason = "ends with its connection, which owns and aborts it")]
        let driving = tokio::spawn(driving);
        Ok(Connection { client, driving })
    }

    fn password(&self) -> Result<Option<String>, PostgresConfigError> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let wrong = |reason: String| PostgresConfigError::PasswordFile { path: path.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Some(line.to_owned())),
            _ => Err(wrong("its first line is empty".to_owned())),
        }
    }

    /// Gives up a connection on which a statement took too long, and tells the server, which would go on with it: a
    /// statement that waits for a lock does not notice that its client has gone. PgBouncer passes that on only to a driver
    /// that waits for an answer, as this one does not: behind it a `statement_timeout` of the role has to do it.
    pub(super) async fn abandon(&self, connection: Connection) {
        let token = connection.client.cancel_token();
        drop(connection);
        if let Ok(Err(error)) = timeout(CANCEL_TIMEOUT, token.cancel_query(self.tls.clone())).await {
            debug!(error = errors::chain(&error), "the statement could not be cancelled");
        }
    }
}

fn name_place(error: StoreError, place: &str) -> StoreError {
    let named = |reason: String| format!("{place}: {reason}");
    match error {
        StoreError::Unavailable { store, reason } => StoreError::Unavailable { store, reason: named(reason) },
        StoreError::Refused { store, reason } => StoreError::Refused { store, reason: named(reason) },
        other => other,
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").field("place", &self.place()).finish_non_exhaustive()
    }
}

/// A connection with the task that drives it. The task ends with it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    driving: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // At once, whatever the server does: its socket is closed.
        self.driving.abort();
    }
}

/// A value of a statement with its type, so that the server need not be asked for it.
pub(super) type Value<'a> = (&'a (dyn ToSql + Sync), Type);

/// The connections of readers.
#[derive(Debug)]
pub(super) struct Readers {
    pool: Pool<Manager>,
    connector: Connector,
    timeout: Duration,
    /// Half of the connections: those who read many rows leave the others to Fetch.
    for_many: Semaphore,
}

/// A connection for many rows.
#[derive(Debug)]
pub(super) struct ForMany<'a> {
    connection: Object<Manager>,
    _permit: SemaphorePermit<'a>,
}

impl ForMany<'_> {
    /// Its client.
    pub(super) fn client(&self) -> &Client {
        &self.connection.client
    }
}

/// What surrounds a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    /// Nothing: it is a transaction by itself.
    Nothing,
    /// A transaction that lets rows come in the order of an index.
    InOrder,
}

/// How often a read is tried: a server that was restarted is noticed only when a connection of before is used.
const READ_ATTEMPTS: usize = 2;

impl Readers {
    /// No connection is made before the first read.
    pub(super) fn new(connector: Connector, config: &Config) -> Self {
        let pool = Pool::builder(Manager(connector.clone())).max_size(config.readers).build();
        let pool = pool.expect("the bounds are ours, not the pool's, so it needs no timer");
        let for_many = Semaphore::new((config.readers / 2).max(1));
        Self { pool, connector, timeout: config.read_timeout, for_many }
    }

    /// Which database it is: its servers and its name.
    pub(super) fn database(&self) -> String {
        self.connector.place()
    }

    /// How long a read may take.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks with a connection of the pool, within the bound, waiting for one included.
    pub(super) async fn ask(&self, question: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.ask_around(Around::Nothing, question, values).await
    }

    /// The same for rows that come in the order of an index.
    pub(super) async fn ask_in_order(&self, question: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.ask_around(Around::InOrder, question, values).await
    }

    async fn ask_around(&self, around: Around, question: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let mut taken = None;
        match timeout(self.timeout, self.try_ask(&mut taken, around, question, values)).await {
            Ok(answer) => answer,
            Err(_) => {
                if let Some(connection) = taken {
                    self.connector.abandon(Object::take(connection)).await;
                }
                Err(errors::late("a read", self.timeout))
            }
        }
    }

    /// A connection for many rows, once one is free. Unbounded.
    pub(super) async fn for_many(&self) -> Result<ForMany<'_>, StoreError> {
        let permit = self.for_many.acquire().await.map_err(|closed| errors::unavailable(closed.to_string()))?;
        Ok(ForMany { connection: self.pool.get().await.map_err(of_pool)?, _permit: permit })
    }

    /// Gives up a connection on which rows are still to come.
    pub(super) async fn abandon(&self, connection: ForMany<'_>) {
        self.connector.abandon(Object::take(connection.connection)).await;
    }

    async fn try_ask(
        &self,
        taken: &mut Option<Object<Manager>>,
        around: Around,
        question: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let _permit = match around {
            Around::Nothing => None,
            Around::InOrder => self.for_many.acquire().await.ok(),
        };
        let mut attempts = READ_ATTEMPTS;
        loop {
            let connection = taken.insert(self.pool.get().await.map_err(of_pool)?);
            attempts -= 1;
            // Unnamed: a pooler may give each statement another connection.
            let answer = match around {
                Around::Nothing => connection.client.query_typed(question, values).await,
                Around::InOrder => in_order(&connection.client, question, values).await,
            };
            let error = match answer {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            let broken = error.as_db_error().is_none() || connection.client.is_closed();
            if broken {
                // Not back into the pool.
                drop(taken.take().map(Object::take));
            }
            if !broken || attempts == 0 {
                return Err(errors::at_run_time(errors::store(&error)));
            }
        }
    }
}

/// Runs a statement whose rows come in the order of an index. All goes out together, so it is one round trip.
async fn in_order(client: &Client, question: &str, values: &[Value<'_>]) -> Result<Vec<Row>, tokio_postgres::Error> {
    let (begun, rows, ended) = futures_util::join!(
        client.batch_execute(reads::BEGIN_IN_ORDER),
        client.query_typed(question, values),
        client.batch_execute("COMMIT"),
    );
    begun?;
    let rows = rows?;
    ended?;
    Ok(rows)
}

fn of_pool(error: PoolError<StoreError>) -> StoreError {
    match error {
        PoolError::Backend(error) => errors::at_run_time(error),
        other => errors::unavailable(other.to_string()),
    }
}

/// Makes and checks the connections of the pool.
#[derive(Debug)]
struct Manager(Connector);

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = StoreError;

    async fn create(&self) -> Result<Connection, StoreError> {
        self.0.connect().await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<StoreError> {
        if connection.client.is_closed() { Err(RecycleError::message("it is closed")) } else { Ok(()) }
    }
}
