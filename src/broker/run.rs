//! From settings to a running broker and back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::{Error, ErrorKind};
use super::housekeeping::Housekeeper;
use super::open::{self, OpenData, OpenDataError};
use super::report::{Reporter, Rooms};
use super::shutdown::{Running, Signals, until_stopped};
use super::sink::Sink;
use super::supervisor::{Supervisor, tasks};
use crate::api::{self, BrokerService, Connections, Lifecycle, Phase, ServerConfig, admin};
use crate::config::Settings;
use crate::delivery::{self, Delivery};
use crate::fetch::{Fetch, HotTail};
use crate::ingest::{CheckpointTrigger, Committer, CommitterMetrics};
use crate::projector::{self, ProjectionSink, Projector};
use crate::telemetry::Metrics;

/// A checkpoint of many subjects is large: it is due after this many times its own size of log.
const CHECKPOINT_RATIO: u64 = 4;

/// Runs the broker until a signal or a failure.
///
/// # Errors
/// [`Error`]; an orderly stop is none.
pub async fn run(settings: Settings) -> Result<(), Error> {
    // Everything that can be refused without leaving a trace comes first.
    let listener = listen("listen", settings.listen).await?;
    let admin_listener = listen("admin_listen", settings.admin_listen).await?;
    let lifecycle = Lifecycle::default();
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
    let reporter = Arc::new(Reporter::new(metrics.clone(), settings.clone(), lifecycle.clone()));
    let grpc = listener.local_addr().map_err(Error::System)?;
    let admin = admin_listener.local_addr().map_err(Error::System)?;

    let mut supervisor = Supervisor::default();
    let admin_stop = CancellationToken::new();
    let report = Arc::clone(&reporter) as Arc<dyn admin::Report>;
    let stopped = admin_stop.clone().cancelled_owned();
    supervisor.task(tasks::ADMIN, admin::serve(admin_listener, report, lifecycle.clone(), stopped));

    // Recovery reads files for up to two seconds; the admin port answers meanwhile.
    let for_open = settings.clone();
    let data = tokio::task::spawn_blocking(move || tokio::runtime::Handle::current().block_on(open::open(&for_open)));
    let data = data.await.map_err(|panicked| {
        let reason = panicked.to_string();
        Error::Task { name: "recovery", reason, kind: ErrorKind::Failed }
    })??;

    let surroundings =
        Surroundings { settings: &settings, metrics: &metrics, lifecycle: &lifecycle, reporter: &reporter, admin_stop };
    let running = start(surroundings, data, listener, supervisor).await?;
    // Before anybody can know that it is ready and tell it to stop.
    let signals = Signals::new().map_err(Error::System)?;
    lifecycle.advance(Phase::Serving);
    tracing::info!(
        %grpc,
        %admin,
        store = settings.store.kind.name(),
        data_dir = %settings.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    until_stopped(running, signals).await
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { setting, address, source })
}

/// What [`start`] connects to.
struct Surroundings<'a> {
    settings: &'a Settings,
    metrics: &'a Metrics,
    lifecycle: &'a Lifecycle,
    reporter: &'a Reporter,
    admin_stop: CancellationToken,
}

/// Connects the rooms and starts their tasks and threads.
async fn start(
    surroundings: Surroundings<'_>,
    data: OpenData,
    listener: TcpListener,
    mut supervisor: Supervisor,
) -> Result<Running, Error> {
    let Surroundings { settings, metrics, lifecycle, reporter, admin_stop } = surroundings;
    let (durable, durable_seen) = watch::channel(data.tail.log.durable());
    let (projected, projected_seen) = watch::channel(data.tail.projected);
    let (wake, woken) = flume::bounded(1);
    let hot = Arc::new(HotTail::new(settings.limits.hot_tail_bytes));
    let (delivery, fanout) = Delivery::new(delivery_config(settings), durable_seen.clone(), metrics.delivery.clone());

    let trigger = CheckpointTrigger {
        wake,
        every_bytes: settings
            .log
            .segment_bytes
            .max(CHECKPOINT_RATIO * data.checkpoint_bytes)
            .min(settings.log.max_bytes / CHECKPOINT_RATIO),
        since_bytes: 0,
    };
    let observed = CommitterMetrics { ingest: metrics.ingest.clone(), wal: metrics.wal.clone() };
    let (publisher, committer, releaser) = Committer::new(
        &open::ingest_config(settings),
        data.writer,
        Arc::clone(&data.tail.subjects),
        durable,
        trigger,
        observed,
    );
    let sink = Arc::new(Sink {
        hot: Arc::clone(&hot),
        delivery: delivery.clone(),
        admission: publisher.admission().clone(),
        projected,
    });
    let mut tail = data.tail;
    let (projector, progress) = Projector::new(
        projector::Config::default(),
        tail.log.clone(),
        Arc::clone(&tail.store),
        durable_seen,
        Arc::clone(&sink) as Arc<dyn ProjectionSink>,
        metrics.projector.clone(),
    );
    let in_memory_max = settings.limits.in_flight_bytes as u64;
    tail.projected = projector.catch_up(in_memory_max).await.map_err(OpenDataError::CatchUp)?;
    open::fill_hot_tail(&tail, &hot, publisher.admission())?;
    let fetch =
        Fetch::new(Arc::clone(&tail.subjects), Arc::clone(&hot), Arc::clone(&tail.store), metrics.fetch.clone());
    let housekeeper = Housekeeper {
        checkpointer: data.checkpointer,
        subjects: Arc::clone(&tail.subjects),
        log: tail.log.clone(),
        projected: projected_seen.clone(),
        checkpointed: data.checkpointed,
        pressed_bytes: settings.log.max_bytes.saturating_sub(2 * settings.log.segment_bytes),
        failed: false,
        wake: woken,
    };
    reporter.set_rooms(Rooms {
        log: tail.log,
        subjects: tail.subjects,
        publisher: publisher.clone(),
        hot,
        delivery: delivery.clone(),
        projected: projected_seen,
        projector: progress,
        store: tail.store.kind(),
    });

    let service = BrokerService {
        publisher: publisher.clone(),
        delivery: delivery.clone(),
        fetch,
        lifecycle: lifecycle.clone(),
        body_bytes_max: settings.limits.body_bytes,
        metrics: metrics.ingest.clone(),
    };
    let (grpc_stop, projector_stop) = (CancellationToken::new(), CancellationToken::new());
    supervisor.thread(tasks::COMMITTER, || committer.run()).map_err(Error::System)?;
    supervisor.thread(tasks::HOUSEKEEPER, || housekeeper.run()).map_err(Error::System)?;
    supervisor.task(tasks::RELEASER, finish(releaser.run(sink)));
    supervisor.task(tasks::FANOUT, finish(fanout.run()));
    supervisor.task(tasks::PROJECTOR, projector.run(projector_stop.clone()));
    let connections = Connections {
        listener,
        connections_max: settings.limits.connections,
        handshake_timeout: settings.limits.handshake_timeout,
        metrics: metrics.api.clone(),
    };
    let stopped = grpc_stop.clone().cancelled_owned();
    supervisor
        .task(tasks::GRPC, api::serve(server_config(settings), connections, service, metrics.api.clone(), stopped));
    Ok(Running {
        supervisor,
        lifecycle: lifecycle.clone(),
        publisher,
        delivery,
        grpc_stop,
        projector_stop,
        admin_stop,
        grace: settings.shutdown.grace,
    })
}

async fn finish(task: impl Future<Output = ()>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

fn delivery_config(settings: &Settings) -> delivery::Config {
    delivery::Config {
        subscribers_max: settings.limits.subscribers,
        subscriber_bytes_max: settings.limits.subscriber_bytes,
        delivery_bytes_max: settings.limits.delivery_bytes,
    }
}

fn server_config(settings: &Settings) -> ServerConfig {
    let limits = &settings.limits;
    ServerConfig {
        body_bytes_max: limits.body_bytes,
        streams_per_connection: limits.streams_per_connection,
        connection_window_bytes: limits.connection_window_bytes,
        stream_window_bytes: limits.stream_window_bytes,
        header_list_bytes: limits.header_list_bytes,
        pending_accept_reset_streams: limits.pending_accept_reset_streams,
        local_error_reset_streams: limits.local_error_reset_streams,
        keepalive_interval: limits.keepalive_interval,
        keepalive_timeout: limits.keepalive_timeout,
    }
}
