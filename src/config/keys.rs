//! The table of keys: name, flag of `serve`, bounds, and how the field is set and shown.
//! The reasons for the bounds stand on the fields, in [`super::settings`].

use std::time::Duration;

use super::Settings;
use super::values::{
    Address, Collector, File, Filter, Folder, Format, Hidden, Kind as _, List, Pairs, Ratio, Reason, Store, Text, Word,
    bytes, count, span,
};
use crate::event::limits::BODY_BYTES_CEILING;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const PIB: u64 = 1024 * 1024 * GIB;
/// Largest HTTP/2 window and stream limit (RFC 9113): 2^31 - 1.
const HTTP2_MAX: u64 = i32::MAX as u64;
/// Smallest window that HTTP/2 starts with.
const HTTP2_WINDOW_MIN: u64 = 65_535;
const TENTH: Duration = Duration::from_millis(100);
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: Duration = Duration::from_secs(10 * 366 * 86_400);
/// Contact points are tried one after the other; more than this never helps.
const NODES_MAX: usize = 64;

/// Whole numbers up to here are the same in every JSON reader.
const VERSION_MAX: u64 = 1 << 53;

/// The prefix of the environment variables that are settings.
pub(super) const ENV_PREFIX: &str = "WALCAST_";

/// One setting.
#[derive(Debug)]
pub(super) struct Key {
    /// As in the file, sections separated by dots.
    pub name: &'static str,
    /// The flag of `serve` that sets it.
    pub flag: Option<&'static str>,
    /// Whether the value may hold a password.
    pub secret: bool,
    /// Reads the field from text.
    pub set: fn(&mut Settings, &str) -> Result<(), Reason>,
    /// The field as text, without passwords; empty for "none".
    pub show: fn(&Settings) -> String,
}

impl Key {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.replace('.', "__").to_ascii_uppercase())
    }

    /// A value as it may be shown.
    pub fn shown(&self, value: &str) -> String {
        if self.secret { super::Secret::new(value).redacted() } else { value.to_owned() }
    }
}

/// The key with this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

macro_rules! key {
    ($first:ident $(. $rest:ident)*, $kind:expr) => {
        key!(@ $first $(. $rest)*, $kind, None, false)
    };
    ($first:ident $(. $rest:ident)*, $kind:expr, flag $flag:literal) => {
        key!(@ $first $(. $rest)*, $kind, Some($flag), false)
    };
    ($first:ident $(. $rest:ident)*, $kind:expr, secret) => {
        key!(@ $first $(. $rest)*, $kind, None, true)
    };
    ($first:ident $(. $rest:ident)*, $kind:expr, secret flag $flag:literal) => {
        key!(@ $first $(. $rest)*, $kind, Some($flag), true)
    };
    (@ $first:ident $(. $rest:ident)*, $kind:expr, $flag:expr, $secret:expr) => {
        Key {
            name: concat!(stringify!($first) $(, ".", stringify!($rest))*),
            flag: $flag,
            secret: $secret,
            set: |settings, text| {
                settings.$first $(. $rest)* = $kind.parse(text)?;
                Ok(())
            },
            show: |settings| $kind.show(&settings.$first $(. $rest)*),
        }
    };
}

/// Every key, in the order in which they are shown.
pub(super) const KEYS: &[Key] = &[
    key!(listen, Address, flag "--listen"),
    key!(admin_listen, Address, flag "--admin-listen"),
    key!(data_dir, Folder, flag "--data-dir"),
    key!(store.kind, Store, flag "--store"),
    key!(store.embedded.cache_bytes, bytes(MIB, 64 * GIB)),
    key!(store.embedded.write_buffer_bytes, bytes(MIB, 16 * GIB)),
    key!(store.postgres.url, Hidden, secret flag "--postgres-url"),
    key!(store.postgres.password_file, File),
    key!(store.postgres.root_certificate, File),
    key!(store.postgres.connect_timeout, span(TENTH, FIVE_MINUTES)),
    key!(store.postgres.read_timeout, span(TENTH, FIVE_MINUTES)),
    key!(store.postgres.write_timeout, span(SECOND, HOUR)),
    key!(store.postgres.readers, count(1, 1_000)),
    key!(store.cassandra.nodes, List(NODES_MAX), flag "--cassandra-nodes"),
    key!(store.cassandra.keyspace, Word),
    key!(store.cassandra.replication_factor, count(1, 9)),
    key!(store.cassandra.consistency, Word),
    key!(store.cassandra.datacenter, Text),
    key!(store.cassandra.username, Text),
    key!(store.cassandra.password, Hidden, secret),
    key!(store.cassandra.tls_ca_file, File),
    key!(store.cassandra.request_timeout, span(TENTH, FIVE_MINUTES)),
    key!(store.cassandra.in_flight, count(1, 8_192)),
    key!(log.segment_bytes, bytes(64 * KIB, GIB)),
    key!(log.max_bytes, bytes(128 * KIB, PIB), flag "--log-max-bytes"),
    key!(log.reserve_bytes, bytes(0, PIB)),
    key!(log.keep_bytes, bytes(0, PIB)),
    key!(log.keep_for, span(Duration::ZERO, TEN_YEARS)),
    key!(log.verify_for, span(Duration::ZERO, HOUR)),
    key!(limits.body_bytes, bytes(1, BODY_BYTES_CEILING as u64)),
    key!(limits.request_bytes, bytes(MIB, 64 * GIB)),
    key!(limits.answer_bytes, bytes(MIB, 64 * GIB)),
    key!(limits.in_flight_bytes, bytes(MIB, 64 * GIB)),
    key!(limits.in_flight_publishes, count(32_768, 16_777_216)),
    key!(limits.stream_in_flight_bytes, bytes(64 * KIB, GIB)),
    key!(limits.publish_streams, count(1, 10_000_000)),
    key!(limits.admission_wait, span(Duration::ZERO, MINUTE)),
    key!(limits.hot_tail_bytes, bytes(MIB, 64 * GIB)),
    key!(limits.subjects, count(1, 1_000_000_000)),
    key!(limits.idempotency_window, span(SECOND, Duration::from_secs(7 * 24 * 3_600))),
    key!(limits.idempotency_keys, count(1, 16_777_216)),
    key!(limits.subscribers, count(1, 10_000_000)),
    key!(limits.subscriber_bytes, bytes(64 * KIB, 4 * GIB)),
    key!(limits.delivery_bytes, bytes(MIB, 64 * GIB)),
    key!(limits.forward_calls, count(1, 10_000_000)),
    key!(limits.forward_bytes, bytes(MIB, 64 * GIB)),
    key!(limits.connections, count(1, 1_000_000)),
    key!(limits.streams_per_connection, count(1, HTTP2_MAX)),
    key!(limits.handshake_timeout, span(TENTH, FIVE_MINUTES)),
    key!(limits.keepalive_interval, span(SECOND, HOUR)),
    key!(limits.keepalive_timeout, span(SECOND, Duration::from_secs(600))),
    key!(limits.connection_window_bytes, bytes(HTTP2_WINDOW_MIN, HTTP2_MAX)),
    key!(limits.stream_window_bytes, bytes(HTTP2_WINDOW_MIN, HTTP2_MAX)),
    key!(limits.header_list_bytes, bytes(4 * KIB, MIB)),
    key!(limits.local_error_reset_streams, count(1, 1_000_000)),
    key!(limits.pending_accept_reset_streams, count(1, 100_000)),
    key!(telemetry.log_format, Format),
    key!(telemetry.log_filter, Filter),
    key!(telemetry.otlp_endpoint, Collector, flag "--otlp-endpoint"),
    key!(telemetry.sample_ratio, Ratio),
    key!(shutdown.grace, span(SECOND, HOUR)),
    key!(cluster.node, Text),
    key!(cluster.nodes, Pairs(NODES_MAX)),
    key!(cluster.slots, Pairs(NODES_MAX)),
    key!(cluster.version, count(1, VERSION_MAX)),
    key!(cluster.owner_timeout, span(TENTH, FIVE_MINUTES)),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_is_within_its_bounds_and_reads_back() {
        let defaults = Settings::default();
        for key in KEYS.iter().filter(|key| !key.secret) {
            let mut copy = Settings::default();
            let shown = (key.show)(&defaults);
            assert_eq!((key.set)(&mut copy, &shown), Ok(()), "{} = {shown}", key.name);
            assert_eq!(copy, defaults, "{} = {shown}", key.name);
        }
    }

    #[test]
    fn the_table_names_every_key_that_operators_rely_on() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len(), "a name twice");
        for (name, flag) in [
            ("listen", Some("--listen")),
            ("admin_listen", Some("--admin-listen")),
            ("data_dir", Some("--data-dir")),
            ("store.kind", Some("--store")),
            ("store.postgres.url", Some("--postgres-url")),
            ("store.cassandra.nodes", Some("--cassandra-nodes")),
            ("store.cassandra.keyspace", None),
            ("store.cassandra.replication_factor", None),
            ("store.cassandra.consistency", None),
            ("log.segment_bytes", None),
            ("log.max_bytes", Some("--log-max-bytes")),
            ("log.keep_bytes", None),
            ("log.keep_for", None),
            ("telemetry.log_format", None),
            ("telemetry.otlp_endpoint", Some("--otlp-endpoint")),
            ("telemetry.sample_ratio", None),
            ("shutdown.grace", None),
        ] {
            let key = find(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(key.flag, flag, "{name}");
        }
    }

    #[test]
    fn variables_are_the_names_in_capitals() {
        assert_eq!(find("log.segment_bytes").map(Key::variable).as_deref(), Some("WALCAST_LOG__SEGMENT_BYTES"));
        assert_eq!(find("data_dir").map(Key::variable).as_deref(), Some("WALCAST_DATA_DIR"));
    }
}
