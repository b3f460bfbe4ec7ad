//! What the broker says at its start: where it listens, what it keeps where, and within which limits.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use bytesize::ByteSize;

use super::disk::{self, Disk};
use super::open::{OpenData, Tail};
use crate::cluster::Ownership;
use crate::config::{Settings, StoreKind};
use crate::telemetry::{self, logging};

/// What a start found, to be told once everything listens.
#[derive(Debug)]
pub(super) struct Start<'a> {
    settings: &'a Settings,
    disk: Option<Disk>,
    log_bytes: u64,
    log_files: usize,
    durable: u64,
    projected: u64,
    trimmed: u64,
    subjects: usize,
    /// Of a node of a cluster.
    ownership: Option<Ownership>,
}

impl<'a> Start<'a> {
    /// Of a data directory that was just opened.
    pub fn of(settings: &'a Settings, data: &OpenData) -> Self {
        let Tail { log, projected, subjects, .. } = &data.tail;
        Self {
            settings,
            disk: disk::of(&settings.data_dir),
            log_bytes: log.bytes(),
            log_files: log.files(),
            durable: log.durable().sequence().get(),
            projected: projected.sequence().get(),
            trimmed: log.trimmed().sequence().get(),
            subjects: subjects.len(),
            ownership: data.ownership.clone(),
        }
    }

    /// Says it: a block for people, a line for programs.
    pub fn announce(&self, grpc: SocketAddr, admin: SocketAddr) {
        if logging::is_text() {
            // Nobody may read standard error, which is no reason not to serve.
            drop(io::stderr().write_all(self.block(grpc, admin).as_bytes()));
            return;
        }
        let Settings { limits, log, telemetry, .. } = self.settings;
        // What is None has no field in the line.
        let of_a_cluster = self.ownership.as_ref();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            store = self.settings.store.kind.name(),
            store_at = self.store_at(),
            data_dir = %self.settings.data_dir.display(),
            disk_free_bytes = self.disk.unwrap_or_default().free,
            disk_total_bytes = self.disk.unwrap_or_default().total,
            log_bytes = self.log_bytes,
            log_bytes_max = log.max_bytes,
            log_files = self.log_files,
            durable = self.durable,
            projected = self.projected,
            trimmed = self.trimmed,
            subjects = self.subjects,
            body_bytes_max = limits.body_bytes,
            in_flight_bytes_max = limits.in_flight_bytes,
            delivery_bytes_max = limits.delivery_bytes,
            connections_max = limits.connections,
            subscribers_max = limits.subscribers,
            subjects_max = limits.subjects,
            log_filter = telemetry.log_filter,
            otlp_endpoint = telemetry.otlp_endpoint.as_deref().unwrap_or("none"),
            sample_ratio = telemetry.sample_ratio,
            cluster_node = of_a_cluster.map(|it| it.node()),
            layout_version = of_a_cluster.map(|it| tracing::field::display(it.layout().version())),
            layout_digest = of_a_cluster.map(|it| format!("{:016x}", it.layout().digest())),
            slots = of_a_cluster.map(|it| it.slots().to_string()),
            "what this broker serves"
        );
    }

    fn block(&self, grpc: SocketAddr, admin: SocketAddr) -> String {
        let Settings { limits, log, telemetry: settings, .. } = self.settings;
        let mut block = format!("walcast {}\n", env!("CARGO_PKG_VERSION"));
        let mut row = |name: &str, text: String| {
            block.push_str(&format!("  {name:<10} {text}\n"));
        };
        row("gRPC", grpc.to_string());
        if let Some(own) = &self.ownership {
            let (layout, slots) = (own.layout(), own.slots());
            let slots = if slots.is_empty() { "none".to_owned() } else { slots.to_string() };
            let (version, digest, nodes) = (layout.version(), layout.digest(), layout.nodes().len());
            row("node", format!("{} of {nodes}, layout {version} (digest {digest:016x}), slots {slots}", own.node()));
        }
        row("admin", format!("http://{admin}  /metrics /status /readyz /livez"));
        let disk = self.disk.map_or_else(
            || "the system does not tell how much is free".to_owned(),
            |disk| format!("{} free of {}", size(disk.free), size(disk.total)),
        );
        row("data", format!("{}  ({disk})", self.settings.data_dir.display()));
        row("log", format!("{} of at most {} in {} files", size(self.log_bytes), size(log.max_bytes), self.log_files));
        let Self { durable, projected, trimmed, subjects, .. } = self;
        row("records", format!("durable {durable}, in the store {projected}, trimmed {trimmed}; {subjects} subjects"));
        row("store", format!("{}  ({})", self.settings.store.kind.name(), self.store_at()));
        row(
            "limits",
            format!(
                "{} a body, {} not durable yet, {} not read by subscribers; {} connections, {} subscribers, {} subjects",
                size(limits.body_bytes as u64),
                size(limits.in_flight_bytes as u64),
                size(limits.delivery_bytes as u64),
                limits.connections,
                limits.subscribers,
                limits.subjects
            ),
        );
        let traces = match &settings.otlp_endpoint {
            _ if telemetry::OFF => "no metrics and no traces: a build for measuring".to_owned(),
            Some(endpoint) => format!("traces to {endpoint}, {} of the calls", settings.sample_ratio),
            None => "no traces".to_owned(),
        };
        row("telemetry", format!("log lines: {}; {traces}", settings.log_filter));
        block
    }

    /// Where the history is, without passwords.
    fn store_at(&self) -> String {
        let store = &self.settings.store;
        match store.kind {
            StoreKind::Embedded => self.settings.store_dir().display().to_string(),
            StoreKind::Postgres => store.postgres.url.as_ref().map(|url| url.redacted()).unwrap_or_default(),
            StoreKind::Cassandra => {
                format!("{}, keyspace {}", store.cassandra.nodes.join(","), store.cassandra.keyspace)
            }
            StoreKind::None => "messages are kept in the log only".to_owned(),
        }
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}
