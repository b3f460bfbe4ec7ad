//! The settings with their meanings and defaults. Bounds stand in [`super::keys`], rules between keys in
//! [`super::rules`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const MIB_ON_DISK: u64 = 1024 * 1024;
const GIB_ON_DISK: u64 = 1024 * MIB_ON_DISK;

/// Everything that an operator can set. Built by [`super::load`], or from the default in tests.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where gRPC is served: an IP address and a port, 0 for any free one. Default 127.0.0.1:50051, because
    /// nothing authenticates callers yet.
    pub listen: SocketAddr,
    /// Where the admin HTTP port (metrics, health, status) is served. Default 127.0.0.1:9464: it is not for clients.
    pub admin_listen: SocketAddr,
    /// The folder of everything that is kept, created if absent. Default `./data`.
    pub data_dir: PathBuf,
    /// `store.*`: the history store.
    pub store: StoreSettings,
    /// `log.*`: the log on the local disk.
    pub log: LogSettings,
    /// `limits.*`: the bounds that protect the node.
    pub limits: LimitSettings,
    /// `telemetry.*`: logging and traces.
    pub telemetry: TelemetrySettings,
    /// `shutdown.*`.
    pub shutdown: ShutdownSettings,
    /// `cluster.*`: the nodes that act as one broker (docs/cluster.md). Default none: one node owns everything.
    pub cluster: ClusterSettings,
}

impl Settings {
    /// Where the segments of the log are: `data_dir/log`.
    pub fn log_dir(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    /// Where each subject's last id is kept: `data_dir/ids`.
    pub fn ids_dir(&self) -> PathBuf {
        self.data_dir.join("ids")
    }

    /// Where the log's index is: `data_dir/index`. It can be built again from the log.
    pub fn index_dir(&self) -> PathBuf {
        self.data_dir.join("index")
    }

    /// Where messages are that the store did not take: `data_dir/dead-letters`.
    pub fn dead_letters_dir(&self) -> PathBuf {
        self.data_dir.join("dead-letters")
    }

    /// Where a node of a cluster keeps its layout: `data_dir/cluster`.
    pub fn cluster_dir(&self) -> PathBuf {
        self.data_dir.join("cluster")
    }

    /// Where the embedded store is: `data_dir/store`.
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            data_dir: PathBuf::from("./data"),
            store: StoreSettings::default(),
            log: LogSettings::default(),
            limits: LimitSettings::default(),
            telemetry: TelemetrySettings::default(),
            shutdown: ShutdownSettings::default(),
            cluster: ClusterSettings::default(),
        }
    }
}

/// `cluster.*`: which node this is, and the layout that all nodes are given alike (docs/cluster.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// The name of this node, one of `cluster.nodes`. Default none: no cluster.
    pub node: Option<String>,
    /// Each node's name and the `HOST:PORT` of its gRPC port: a table in the file, `a=HOST:PORT,b=HOST:PORT` elsewhere.
    /// Default none, at most 64.
    pub nodes: BTreeMap<String, String>,
    /// The slots of each node, such as `0-341+400`: a table in the file, `a=0-511,b=512-1023` elsewhere. Default none: equal
    /// shares in the order of the names.
    pub slots: BTreeMap<String, String>,
    /// The version of the layout, 1 to 2^53; raised with every change of nodes or slots. Default 1.
    pub version: u64,
    /// How long another node may be silent before calls on its subjects fail. Default 3s, 100ms to 5m: longer than a stall of
    /// its disk or network, shorter than the deadlines of clients. A start waits as long for other nodes to say what has moved.
    pub owner_timeout: Duration,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            node: None,
            nodes: BTreeMap::new(),
            slots: BTreeMap::new(),
            version: 1,
            owner_timeout: Duration::from_secs(3),
        }
    }
}

/// Which store keeps the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreKind {
    /// In the process, files under `data_dir/store`.
    #[default]
    Embedded,
    /// A Postgres database.
    Postgres,
    /// A cluster of the CQL protocol: Apache Cassandra or ScyllaDB.
    Cassandra,
    /// No history: pure publish and subscribe; Fetch finds what the log keeps.
    None,
}

impl StoreKind {
    /// The word of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
            Self::Cassandra => "cassandra",
            Self::None => "none",
        }
    }
}

/// `store.*`: where the history is kept that Fetch reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreSettings {
    /// `embedded` (default), `postgres`, `cassandra` or `none`.
    pub kind: StoreKind,
    /// `store.embedded.*`.
    pub embedded: EmbeddedSettings,
    /// `store.postgres.*`.
    pub postgres: PostgresSettings,
    /// `store.cassandra.*`.
    pub cassandra: CassandraSettings,
}

/// `store.embedded.*`: memory and disk of the embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// Cache of blocks read from disk, in bytes. Default 16MiB, 1MiB to 64GiB: recent messages come from the
    /// hot tail and the log, so the cache serves old ones only.
    pub cache_bytes: u64,
    /// Rows in memory that are not in a table yet, in bytes over all tables. Default 32MiB, 1MiB to 16GiB:
    /// more makes fewer, larger tables and a longer start.
    pub write_buffer_bytes: u64,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self { cache_bytes: 16 * MIB_ON_DISK, write_buffer_bytes: 32 * MIB_ON_DISK }
    }
}

/// `store.postgres.*`: the database, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?OPTIONS]`, with `sslmode` and `sslrootcert` as libpq has them. It may
    /// hold a password, so it is never shown whole. Default none.
    pub url: Option<Secret>,
    /// File with the password in its first line, if the URL has none; read for every connection, so that a new password
    /// needs no restart. Default none: then `PGPASSWORD`.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that may have signed the server's certificate. Default none: those of the system.
    pub root_certificate: Option<PathBuf>,
    /// How long a connection may take, login included. Default 5s, 100ms to 5m: many round trips of a slow network.
    pub connect_timeout: Duration,
    /// How long Fetch waits for an answer. Default 5s, 100ms to 5m: below the deadlines of clients.
    pub read_timeout: Duration,
    /// How long a batch may take. Default 30s, 1s to 1h: it takes some 50 ms, the rest is patience with locks and
    /// checkpoints. A server that stands still is noticed after this long.
    pub write_timeout: Duration,
    /// Connections for reads; one more is for writes. Default 8, 1 to 1000: a server takes 100 by default.
    pub readers: usize,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            root_certificate: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            readers: 8,
        }
    }
}

/// `store.cassandra.*`: any server of the CQL protocol, Apache Cassandra and ScyllaDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CassandraSettings {
    /// Contact points, `host:port` each; a list in the file, separated by commas elsewhere. Default none, at most 64.
    pub nodes: Vec<String>,
    /// Keyspace of the tables: 1 to 48 of `a-z`, `0-9` and `_`, the first a letter. Default `walcast`.
    pub keyspace: String,
    /// Copies of each row in each data centre, used when the keyspace is created. Default 1, 1 to 9.
    pub replication_factor: u32,
    /// Consistency level of reads and writes: `LOCAL_QUORUM` (default), `QUORUM` or `ALL`. Weaker ones could miss a row that is
    /// there, and call its message expired.
    pub consistency: String,
    /// The data centre whose nodes are used; must be set where a cluster has several. Default none.
    pub datacenter: Option<String>,
    /// Name to log in with. Default none: without logging in.
    pub username: Option<String>,
    /// Password of `username`; never shown. Default none.
    pub password: Option<Secret>,
    /// PEM file of the authorities that may have signed the nodes' certificates. Default none: without TLS.
    pub tls_ca_file: Option<PathBuf>,
    /// How long one request may take. Default 5s, 100ms to 5m: above the 2 s after which a server says itself which nodes
    /// are missing, below the deadlines of clients.
    pub request_timeout: Duration,
    /// Writes in flight at once, and as many reads. Default 256, 1 to 8192: twice the threads that a
    /// node has for clients by default.
    pub in_flight: usize,
}

impl Default for CassandraSettings {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            keyspace: "walcast".to_owned(),
            replication_factor: 1,
            consistency: "LOCAL_QUORUM".to_owned(),
            datacenter: None,
            username: None,
            password: None,
            tls_ca_file: None,
            request_timeout: Duration::from_secs(5),
            in_flight: 256,
        }
    }
}

/// `log.*`: the log on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Size of a segment file, in bytes. Default 64MiB, 64KiB to 1GiB: the unit in which space is prepared
    /// and given back. It must hold the largest frame.
    pub segment_bytes: u64,
    /// Space of all segments, in bytes; publishes get RESOURCE_EXHAUSTED beyond it. Default 10GiB, 128KiB to
    /// 1PiB: reached before the disk is full, so that delivery and projection go on.
    pub max_bytes: u64,
    /// Free space of the disk that the log leaves to the store, the ids and the index, in bytes; publishes get
    /// RESOURCE_EXHAUSTED when it would be used. Default 512MiB, 0 to 1PiB: twice what the embedded store keeps free. On a
    /// small disk at most a quarter of it.
    pub reserve_bytes: u64,
    /// Log kept for replay after its projection, in bytes at most. Default 1GiB, 0 to 1PiB; 0 keeps none.
    pub keep_bytes: u64,
    /// How long log is kept for replay after its projection, at most. Default 24h, 0 to 10 years. What comes
    /// first of this and `keep_bytes` frees a segment.
    pub keep_for: Duration,
    /// How long a start goes on to check closed segments, the newest first. Default 1200ms, 0 to 1h: a start may take two
    /// seconds, in which a usual disk delivers more than 1 GiB. The rest is checked once the broker serves, a segment a
    /// second; damage ends it with exit code 3.
    pub verify_for: Duration,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * MIB_ON_DISK,
            max_bytes: 10 * GIB_ON_DISK,
            reserve_bytes: 512 * MIB_ON_DISK,
            keep_bytes: GIB_ON_DISK,
            keep_for: Duration::from_secs(24 * 3600),
            verify_for: Duration::from_millis(1_200),
        }
    }
}

/// `limits.*`: the bounds that protect the node. The subject's limit of 255 bytes is part of the contract
/// and not a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// Largest body of a publish, in bytes. Default 1MiB, 1 to 16MiB: a reader of the log holds one whole.
    pub body_bytes: usize,
    /// Requests that have begun and are not whole, all calls together, in bytes. Default 256MiB, 1MiB to 64GiB: the windows of
    /// HTTP/2 do not bound them.
    pub request_bytes: usize,
    /// Answers that wait for their readers, all calls together, in bytes; beyond it Fetch is refused. Default 256MiB, 1MiB
    /// to 64GiB.
    pub answer_bytes: usize,
    /// Publishes that were admitted and are not yet durable, fanned out and projected, in bytes. Default
    /// 256MiB, 1MiB to 64GiB: the memory that a burst may take before publishers have to wait.
    pub in_flight_bytes: usize,
    /// The same as a number of publishes. Default 65536, 32768 to 16777216: a flood of 32,768 small calls on
    /// one connection must succeed, so bytes are the first bound to be met.
    pub in_flight_publishes: usize,
    /// Publishes of one stream that are taken and not answered, in bytes; beyond it the stream is not read, and its client waits.
    /// Default 1MiB, 64KiB to 1GiB: some 2,000 messages of 256 bytes, more than a stream can send during an fdatasync.
    pub stream_in_flight_bytes: usize,
    /// Streams of publishes at a time. Default 1024, 1 to 10000000: one whose client does not read its answers holds up to
    /// `limits.stream_window_bytes` of requests.
    pub publish_streams: usize,
    /// How long a publish waits for a permit before RESOURCE_EXHAUSTED. Default 1s, 0 to 60s: longer than a
    /// stall of the disk, shorter than the deadlines of clients.
    pub admission_wait: Duration,
    /// Recent messages kept in memory for Fetch, in bytes. Default 64MiB, 1MiB to 64GiB.
    pub hot_tail_bytes: usize,
    /// Subjects that may have ids. Default 5000000, 1 to 1000000000: up to 200 bytes of memory each, for ever,
    /// so 1 GB at most.
    pub subjects: usize,
    /// How long the key of a publish is known, so that a retry gets the id of the first. Default 10m, 1s to 7d: longer than
    /// clients and proxies retry, and than a restart takes.
    pub idempotency_window: Duration,
    /// Keys that are known at a time; beyond it the oldest are forgotten before their time. Default 1000000, 1 to 16777216: up
    /// to 67 bytes of memory each, so 67 MB at most, and 1,600 keyed publishes a second for the whole of the default window.
    pub idempotency_keys: usize,
    /// Subscribers at a time. Default 100000, 1 to 10000000: each costs a stream and a queue.
    pub subscribers: usize,
    /// Unread bytes that a subscriber may be behind before it is served from the log. Default 8MiB, 64KiB to 4GiB.
    pub subscriber_bytes: usize,
    /// Unread messages of all subscribers together, in bytes. Default 256MiB, 1MiB to 64GiB: what slow
    /// readers may cost the node.
    pub delivery_bytes: usize,
    /// Calls that are on their way to one other node of a cluster, streams included. Default 32768, 1 to 10000000: as many small
    /// calls as one connection may bring at once.
    pub forward_calls: usize,
    /// Requests and answers on their way to and from one other node, in bytes. Default 64MiB, 1MiB to 64GiB: what a node that
    /// does not answer may cost this one.
    pub forward_bytes: usize,
    /// Client connections at a time. Default 10000, 1 to 1000000: half of a usual open-files limit of 20,000.
    pub connections: usize,
    /// Concurrent calls and streams on one connection. Default 65536, 1 to 2147483647: a client that opens
    /// thousands of subscriptions on its only connection must not wait for ever.
    pub streams_per_connection: u32,
    /// How long a new connection may take until it speaks HTTP/2. Default 10s, 100ms to 5m: a silent peer
    /// holds a descriptor no longer.
    pub handshake_timeout: Duration,
    /// Pause between HTTP/2 pings to a peer. Default 20s, 1s to 1h: below the idle timeouts of usual proxies.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered before the connection is closed. Default 10s, 1s to 10m.
    pub keepalive_timeout: Duration,
    /// HTTP/2 flow-control window of a connection, in bytes. Default 32MiB, 65535 to 2147483647. The transport ends
    /// a connection whose unread small frames cost more than half of it, at 256 bytes each: a small call in
    /// each of 65,536 streams must fit twice.
    pub connection_window_bytes: u32,
    /// HTTP/2 flow-control window of a stream, in bytes. Default 1MiB, 65535 to 2147483647: one body of the
    /// default size goes without a pause.
    pub stream_window_bytes: u32,
    /// Header list of a call, in bytes. Default 16KiB, 4KiB to 1MiB: metadata, tokens and traces fit.
    pub header_list_bytes: u32,
    /// Streams that the server reset for a peer's protocol errors before it closes the connection. Default
    /// 1024, 1 to 1000000: below a flood, above any honest client.
    pub local_error_reset_streams: usize,
    /// Streams that a peer reset before they were taken up, at a time, before it is closed. Default
    /// 1024, 1 to 100000: a burst of calls whose short deadlines pass at once must not take the connection, and
    /// all its other streams, with it; the rapid-reset attack still ends here.
    pub pending_accept_reset_streams: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            body_bytes: MIB,
            request_bytes: 256 * MIB,
            answer_bytes: 256 * MIB,
            in_flight_bytes: 256 * MIB,
            in_flight_publishes: 65_536,
            stream_in_flight_bytes: 1024 * 1024,
            publish_streams: 1024,
            admission_wait: Duration::from_secs(1),
            hot_tail_bytes: 64 * MIB,
            subjects: 5_000_000,
            idempotency_window: Duration::from_secs(600),
            idempotency_keys: 1_000_000,
            subscribers: 100_000,
            subscriber_bytes: 8 * MIB,
            delivery_bytes: 256 * MIB,
            forward_calls: 32_768,
            forward_bytes: 64 * MIB,
            connections: 10_000,
            streams_per_connection: 65_536,
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            connection_window_bytes: 32 * 1024 * 1024,
            stream_window_bytes: 1024 * 1024,
            header_list_bytes: 16 * 1024,
            local_error_reset_streams: 1024,
            pending_accept_reset_streams: 1024,
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// `telemetry.*`: log lines and traces.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetrySettings {
    /// `auto` (default: text on a terminal, JSON elsewhere), `text` or `json`.
    pub log_format: LogFormat,
    /// What is logged, as directives such as `info,walcast::wal=debug`. Default `info`.
    pub log_filter: String,
    /// Where traces are sent: `http://HOST:PORT` of a collector of OTLP over gRPC. Default none: nothing is traced.
    pub otlp_endpoint: Option<String>,
    /// Share of the calls without a `traceparent` that are traced; with one its caller decides. Default 0.01, 0 to 1: at 50,000
    /// calls a second one in a hundred is plenty.
    pub sample_ratio: f64,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { log_format: LogFormat::Auto, log_filter: "info".to_owned(), otlp_endpoint: None, sample_ratio: 0.01 }
    }
}

/// `shutdown.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// How long an orderly stop may take. Default 25s, 1s to 1h: below the 30 s that Kubernetes grants.
    pub grace: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { grace: Duration::from_secs(25) }
    }
}
