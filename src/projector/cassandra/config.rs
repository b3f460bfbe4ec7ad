//! The settings of a store, and what they must keep.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use scylla::statement::{Consistency as Level, SerialConsistency};

use super::read::QUERY_BYTES;

/// Longest name of a keyspace: the server's own bound.
const KEYSPACE_LENGTH_MAX: usize = 48;

/// Most copies of a row: no cluster keeps more.
const REPLICATION_FACTOR_MAX: u32 = 9;

/// Most requests in flight that may be configured: a quarter of the stream ids of one connection.
const IN_FLIGHT_MAX: usize = 8_192;

/// Bytes that the answers of reads may take at once: an eighth of what a small machine has, and room for 64 of the largest
/// default body, which is more reads than a cluster has threads for.
const READS_BYTES: usize = 64 * 1024 * 1024;

/// How many nodes must have answered. Weaker levels are not offered: with them a `Fetch` could ask a node that does not
/// have a row yet, and call the message expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Most copies of the data centre that [`Config::datacenter`] names, or of the only one.
    #[default]
    LocalQuorum,
    /// Most copies of all data centres together.
    Quorum,
    /// Every copy: nothing works while one node is away.
    All,
}

impl Consistency {
    /// The word of the configuration, which is CQL's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalQuorum => "LOCAL_QUORUM",
            Self::Quorum => "QUORUM",
            Self::All => "ALL",
        }
    }

    /// The level that a word of the configuration names, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::LocalQuorum, Self::Quorum, Self::All].into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }

    pub(super) const fn level(self) -> Level {
        match self {
            Self::LocalQuorum => Level::LocalQuorum,
            Self::Quorum => Level::Quorum,
            Self::All => Level::All,
        }
    }

    /// The level of lightweight transactions that goes with it.
    pub(super) const fn serial(self) -> SerialConsistency {
        match self {
            Self::LocalQuorum => SerialConsistency::LocalSerial,
            Self::Quorum | Self::All => SerialConsistency::Serial,
        }
    }
}

/// How a cluster is reached and what is made there.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `HOST` or `HOST:PORT` (9042) of some nodes, to find the others by. At least one.
    pub nodes: Vec<String>,
    /// The keyspace, 1 to 48 of `a-z`, `0-9` and `_`, the first a letter. Default `walcast`.
    pub keyspace: String,
    /// Copies of each row, in each data centre, if the keyspace is made here. Default 1, 1 to 9.
    pub replication_factor: u32,
    /// The data centre whose nodes are talked to; needed where a cluster has several. Default none.
    pub datacenter: Option<String>,
    /// Default [`Consistency::LocalQuorum`].
    pub consistency: Consistency,
    /// Name to log in with. Default none: without logging in.
    pub username: Option<String>,
    /// Password of [`Self::username`]. Never in a log line, an error or `Debug`.
    pub password: Option<String>,
    /// A PEM file with the authorities that sign the nodes' certificates, which must carry the nodes' IP addresses. Default
    /// none: without TLS.
    pub tls_ca_file: Option<PathBuf>,
    /// How long one request may take, in all its attempts. Default 5s, 100ms to 5m: above the server's own bound of 2 s
    /// for a write, so that it is the server that says what is missing.
    pub request_timeout: Duration,
    /// Requests in flight at once: rows being written, and at most as many reads ([`Self::reads_at_once`]). Default 256, 1 to
    /// 8192: twice the write and read threads that a node has by default for clients, so that it never waits for us and never
    /// has a long queue.
    pub in_flight: usize,
    /// The largest body that is published, in bytes: `limits.body_bytes`. Default 1 MiB. Reads are counted by it.
    pub body_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            keyspace: "walcast".to_owned(),
            replication_factor: 1,
            datacenter: None,
            consistency: Consistency::default(),
            username: None,
            password: None,
            tls_ca_file: None,
            request_timeout: Duration::from_secs(5),
            in_flight: 256,
            body_bytes: 1024 * 1024,
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store.cassandra.{key}: {rule}")]
pub struct ConfigError {
    /// The setting, without `store.cassandra.`.
    pub key: &'static str,
    /// The rule that it broke.
    pub rule: String,
}

impl Config {
    /// Checks what does not need a server.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that breaks a rule.
    pub fn check(&self) -> Result<(), ConfigError> {
        let broken = |key, rule: &str| Err(ConfigError { key, rule: rule.to_owned() });
        if self.nodes.is_empty() || self.nodes.iter().any(|node| node.trim().is_empty()) {
            return broken("nodes", "name at least one node as HOST or HOST:PORT");
        }
        let word = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
        let name = self.keyspace.as_bytes();
        if !name.iter().all(|letter| word(*letter))
            || !name.first().is_some_and(u8::is_ascii_lowercase)
            || name.len() > KEYSPACE_LENGTH_MAX
        {
            return broken("keyspace", "it must be 1 to 48 of a-z, 0-9 and _, and begin with a letter");
        }
        if self.replication_factor == 0 || self.replication_factor > REPLICATION_FACTOR_MAX {
            return broken("replication_factor", "it must be 1 to 9");
        }
        // It goes into a statement, between quotes.
        if self.datacenter.as_ref().is_some_and(|name| name.is_empty() || name.contains(['\'', '\\'])) {
            return broken("datacenter", "it must be the name of a data centre, without quotes");
        }
        if self.username.is_some() != self.password.is_some() {
            return broken("username", "username and password belong together");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(300)).contains(&self.request_timeout) {
            return broken("request_timeout", "it must be 100ms to 5m");
        }
        if self.in_flight == 0 || self.in_flight > IN_FLIGHT_MAX {
            return broken("in_flight", "it must be 1 to 8192");
        }
        Ok(())
    }

    /// How many reads may be under way at once: as many answers as have room in 64 MiB, and one at least. An answer
    /// has one body, or bodies of 1 MiB together. One that was published under a larger limit than today's takes more room, 16 MiB at
    /// most, as no configuration allows more.
    pub(super) fn reads_at_once(&self) -> usize {
        (READS_BYTES / self.body_bytes.max(QUERY_BYTES)).clamp(1, self.in_flight)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("nodes", &self.nodes)
            .field("keyspace", &self.keyspace)
            .field("replication_factor", &self.replication_factor)
            .field("datacenter", &self.datacenter)
            .field("consistency", &self.consistency)
            .field("username", &self.username)
            .field("tls_ca_file", &self.tls_ca_file)
            .field("request_timeout", &self.request_timeout)
            .field("in_flight", &self.in_flight)
            .field("body_bytes", &self.body_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { nodes: vec!["127.0.0.1".to_owned()], ..Config::default() }
    }

    fn broken(change: impl FnOnce(&mut Config)) -> Option<&'static str> {
        let mut config = config();
        change(&mut config);
        config.check().err().map(|error| error.key)
    }

    #[test]
    fn each_rule_names_its_setting() {
        assert_eq!(broken(|_| {}), None);
        assert_eq!(broken(|config| config.nodes.clear()), Some("nodes"));
        assert_eq!(broken(|config| config.nodes.push(" ".to_owned())), Some("nodes"));
        for name in ["", "Upper", "1st", "_a", "a-b", "a\"; drop", &"x".repeat(49)] {
            assert_eq!(broken(|config| config.keyspace = name.to_owned()), Some("keyspace"), "{name}");
        }
        assert_eq!(broken(|config| config.replication_factor = 0), Some("replication_factor"));
        assert_eq!(broken(|config| config.datacenter = Some("a'b".to_owned())), Some("datacenter"));
        assert_eq!(broken(|config| config.username = Some("u".to_owned())), Some("username"));
        assert_eq!(broken(|config| config.request_timeout = Duration::ZERO), Some("request_timeout"));
        assert_eq!(broken(|config| config.in_flight = 0), Some("in_flight"));
    }

    #[test]
    fn reads_at_once_have_room_together() {
        let at_once = |body_bytes, in_flight| Config { body_bytes, in_flight, ..config() }.reads_at_once();
        assert_eq!(at_once(1, 256), 64);
        assert_eq!(at_once(1 << 20, 256), 64);
        assert_eq!(at_once((1 << 20) + 1, 256), 63);
        assert_eq!(at_once(16 << 20, 256), 4);
        assert_eq!(at_once(1 << 30, 256), 1);
        assert_eq!(at_once(1, 8), 8);
    }

    #[test]
    fn shows_no_password() {
        let config = Config { username: Some("u".to_owned()), password: Some("hunter2".to_owned()), ..config() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn knows_the_levels_by_name() {
        assert_eq!(Consistency::from_name("local_quorum"), Some(Consistency::LocalQuorum));
        assert_eq!(Consistency::from_name("ALL"), Some(Consistency::All));
        assert_eq!(Consistency::from_name("ONE"), None);
    }
}
