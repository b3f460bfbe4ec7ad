//! From settings to a running broker and back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::announce::Start;
use super::connect::{Connected, Moves, Surroundings, connect};
use super::descriptors;
use super::error::{Error, ErrorKind};
use super::failures::{self, Failures};
use super::open::{self, OpenData};
use super::report::Reporter;
use super::shutdown::{Running, Signals, until_stopped};
use super::supervisor::{Supervisor, tasks};
use crate::api::{self, Connections, Lifecycle, Phase, ServerConfig, admin};
use crate::config::Settings;
use crate::telemetry::metrics::Limit;
use crate::telemetry::{Metrics, Traces, logging, traces};
use crate::transfer::Transfer;

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
    logging::count_lines(&metrics.node.lines);
    // Before the first scrape: one that finds 0 and then the number of before looks as if the log had just failed.
    let Failures { count, last } = failures::before(&settings.data_dir);
    metrics.wal.failures.add(count, f64::from(last));
    let reporter = Arc::new(Reporter::new(metrics.clone(), settings.clone(), lifecycle.clone()));
    let grpc = listener.local_addr().map_err(Error::System)?;
    let admin = admin_listener.local_addr().map_err(Error::System)?;

    let mut supervisor = Supervisor::default();
    let admin_stop = CancellationToken::new();
    let report = Arc::clone(&reporter) as Arc<dyn admin::Report>;
    let stopped = admin_stop.clone().cancelled_owned();
    supervisor.task(tasks::ADMIN, admin::serve(admin_listener, report, lifecycle.clone(), stopped));

    // Before anybody can know of the process and tell it to stop.
    let mut signals = Signals::new().map_err(Error::System)?;
    // Recovery reads files for up to two seconds; the admin port answers meanwhile.
    let for_open = settings.clone();
    let data = tokio::task::spawn_blocking(move || tokio::runtime::Handle::current().block_on(open::open(&for_open)));
    let data = tokio::select! {
        data = data => data,
        name = signals.next() => {
            // What recovery has done so far is what a crash would have left.
            tracing::info!(signal = name, "stopped before it was ready");
            return Ok(());
        }
    };
    let data = data.map_err(|panicked| {
        let reason = panicked.to_string();
        Error::Task { name: "recovery", reason, kind: ErrorKind::Failed }
    })??;

    let found = Start::of(&settings, &data);
    let traces_stop = traces::Stop::default();
    let traces = start_traces(&settings, &data, &metrics, &traces_stop, &mut supervisor)?;
    let surroundings = Surroundings {
        settings: &settings,
        metrics: &metrics,
        lifecycle: &lifecycle,
        reporter: &reporter,
        traces: &traces,
    };
    let connected = connect(&surroundings, data);
    let transfer = connected.moves.as_ref().map(|moves| moves.transfer.clone());
    let running = start(&surroundings, connected, listener, supervisor, (admin_stop, traces_stop))?;
    let serve = async {
        if let Some(transfer) = transfer {
            hear_of_moves(&transfer).await;
        }
        lifecycle.advance(Phase::Serving);
        found.announce(grpc, admin);
        tracing::info!(
            %grpc,
            %admin,
            store = settings.store.kind.name(),
            data_dir = %settings.data_dir.display(),
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
    };
    until_stopped(running, signals, serve).await
}

/// A node that was set back takes slots for its own that it gave away since. The others know better, so they are asked before it serves.
async fn hear_of_moves(transfer: &Transfer) {
    let silent = transfer.has_asked().await;
    if !silent.is_empty() {
        // No warning: the first node of a cluster to start finds nobody, and one that is alone with its volume has to serve.
        let silent = silent.join(",");
        tracing::info!(silent, "serves without having heard from these nodes whether its slots have moved");
    }
}

/// Traces, and the thread that sends them, if there is a collector.
fn start_traces(
    settings: &Settings,
    data: &OpenData,
    metrics: &Metrics,
    stop: &traces::Stop,
    supervisor: &mut Supervisor,
) -> Result<Traces, Error> {
    let Some(endpoint) = &settings.telemetry.otlp_endpoint else { return Ok(Traces::off()) };
    let config = traces::Config {
        endpoint: endpoint.clone(),
        ratio: settings.telemetry.sample_ratio,
        // The log is what stays of a broker across restarts, so it tells the instance.
        instance: data.tail.log.log_id().to_string(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let (traces, exporter) = Traces::new(config, metrics.traces.clone(), stop);
    supervisor.thread(tasks::TRACES, || exporter.run()).map_err(Error::System)?;
    Ok(traces)
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { setting, address, source })
}

/// Starts the tasks and threads of the connected rooms.
fn start(
    surroundings: &Surroundings<'_>,
    connected: Connected,
    listener: TcpListener,
    mut supervisor: Supervisor,
    (admin_stop, traces_stop): (CancellationToken, traces::Stop),
) -> Result<Running, Error> {
    let Surroundings { settings, metrics, lifecycle, .. } = *surroundings;
    let Connected {
        publisher,
        committer,
        releaser,
        delivery,
        fanout,
        readers,
        projector,
        housekeeper,
        index,
        indexer,
        service,
        forward,
        moves,
    } = connected;
    let (grpc_stop, projector_stop) = (CancellationToken::new(), CancellationToken::new());
    let log = housekeeper.log.clone();
    supervisor.thread(tasks::COMMITTER, || committer.run()).map_err(Error::System)?;
    supervisor.thread(tasks::HOUSEKEEPER, || housekeeper.run()).map_err(Error::System)?;
    supervisor.thread(tasks::INDEXER, || indexer.run()).map_err(Error::System)?;
    supervisor.task(tasks::RELEASER, finish(releaser.run()));
    supervisor.task(tasks::FANOUT, finish(fanout.run()));
    supervisor.task(tasks::READERS, finish(readers.run()));
    supervisor.task(tasks::PROJECTOR, projector.run(projector_stop.clone()));
    let connections_max = descriptors::connections(settings.limits.connections);
    metrics.node.limit(Limit::Connections, connections_max as u64);
    let connections = Connections {
        listener,
        connections_max,
        handshake_timeout: settings.limits.handshake_timeout,
        metrics: metrics.api.clone(),
    };
    let moves_stop = CancellationToken::new();
    let transfer = moves.as_ref().map(|moves| moves.transfer.clone());
    if let Some(Moves { transfer, worker, tell }) = moves {
        supervisor.task(tasks::LAYOUT, transfer.run(tell, moves_stop.clone()));
        supervisor.task(tasks::MOVES, worker.run(moves_stop.clone()));
    }
    let serving =
        api::serve(server_config(settings), connections, service, transfer, metrics.api.clone(), grpc_stop.clone());
    supervisor.task(tasks::GRPC, serving);
    Ok(Running {
        supervisor,
        lifecycle: lifecycle.clone(),
        log,
        data_dir: settings.data_dir.clone(),
        log_failures: metrics.wal.failures.clone(),
        publisher,
        index,
        delivery,
        forward,
        grpc_stop,
        moves_stop,
        projector_stop,
        admin_stop,
        traces_stop,
        grace: settings.shutdown.grace,
    })
}

async fn finish(task: impl Future<Output = ()>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

fn server_config(settings: &Settings) -> ServerConfig {
    let limits = &settings.limits;
    ServerConfig {
        body_bytes_max: limits.body_bytes,
        frame_bytes_max: open::frame_bytes_max(settings),
        request_bytes_max: limits.request_bytes,
        answer_bytes_max: limits.answer_bytes,
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
