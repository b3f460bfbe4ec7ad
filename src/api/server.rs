//! The gRPC server: every limit of HTTP/2 set by us, none left to a library's default.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use super::BrokerService;
use super::edge::{Edge, EdgeConfig};
use super::framing::PREFIX_BYTES;
use super::lifecycle::{Lifecycle, Phase};
use super::meter::Meter;
use super::nodes::NodesService;
use super::transport::{self, Connections, Deadline, Http2, Threads};
use super::unary::Unary;
use crate::event::limits::BODY_BYTES_CEILING;
use crate::proto::DESCRIPTORS;
use crate::proto::nodes::nodes_server::NodesServer;
use crate::proto::server::broker_server::BrokerServer;
use crate::telemetry::metrics::ApiMetrics;
use crate::transfer::Transfer;

/// What a request message may have beside its body: subject, numbers, and fields this version does not know.
const REQUEST_OVERHEAD_BYTES: usize = 64 * 1024;

/// What a response message has beside its body at most.
const RESPONSE_OVERHEAD_BYTES: usize = 1024;

/// The longest answer to a unary call in bytes, with its prefix.
pub const ANSWER_BYTES_MAX: usize = PREFIX_BYTES + BODY_BYTES_CEILING + RESPONSE_OVERHEAD_BYTES;

/// The smallest that RFC 9113 allows: a large message must not hold up the others of its connection.
const FRAME_BYTES: u32 = 16 * 1024;

/// What one stream may have waiting for the socket: a chunk of gathered messages, or the begin of a larger one. Beyond it the
/// stream is not asked for more. Together the streams of a connection are bounded by the peer's window.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Limits of the transport. Operators set these as `limits.*`, where the reasons stand.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Largest body in bytes.
    pub body_bytes_max: usize,
    /// Bytes of a frame of the log: the most that another node hands over at once.
    pub frame_bytes_max: usize,
    /// Bytes of requests that are not whole yet, all calls together.
    pub request_bytes_max: usize,
    /// Bytes of answers that wait for their readers, all calls together.
    pub answer_bytes_max: usize,
    /// Streams on one connection.
    pub streams_per_connection: u32,
    /// Flow-control window of a connection in bytes.
    pub connection_window_bytes: u32,
    /// Flow-control window of a stream in bytes.
    pub stream_window_bytes: u32,
    /// Largest header list in bytes.
    pub header_list_bytes: u32,
    /// Streams that a connection may have reset before they were accepted.
    pub pending_accept_reset_streams: usize,
    /// Streams of a connection that were reset for its own mistakes.
    pub local_error_reset_streams: usize,
    /// How often a silent connection is pinged.
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The contract's descriptors do not make a reflection service: a broken build.
    #[error("build the reflection service: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The system gives no descriptors for the threads of connections.
    #[error("start the threads of connections: {0}")]
    Threads(#[from] std::io::Error),
}

/// Serves until `stop` is cancelled and every connection has ended.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    config: ServerConfig,
    connections: Connections,
    service: BrokerService,
    transfer: Option<Transfer>,
    metrics: ApiMetrics,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let lifecycle = service.lifecycle.clone();
    let nodes = transfer.map(|transfer| NodesService { broker: service.clone(), transfer });
    let service = Arc::new(service);
    let request_bytes_max = config.body_bytes_max + REQUEST_OVERHEAD_BYTES;
    let broker = BrokerServer::from_arc(Arc::clone(&service))
        .max_decoding_message_size(request_bytes_max)
        // A message may have been published when the limit was higher.
        .max_encoding_message_size(BODY_BYTES_CEILING + RESPONSE_OVERHEAD_BYTES);
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    // The error details too, so that a client without the proto can read an ErrorInfo.
    let reflection_descriptors = || {
        reflection()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let nodes = nodes.map(|nodes| {
        NodesServer::new(nodes).max_decoding_message_size(config.frame_bytes_max + REQUEST_OVERHEAD_BYTES)
    });
    let routes = Routes::new(broker)
        .add_service(health)
        .add_service(reflection_descriptors().build_v1()?)
        .add_service(reflection_descriptors().build_v1alpha()?);
    let routes = match nodes {
        Some(nodes) => routes.add_service(nodes),
        None => routes,
    }
    .prepare();
    let edge = EdgeConfig {
        metrics,
        traces: service.traces.clone(),
        body_bytes_max: config.body_bytes_max,
        requests: Meter::new(config.request_bytes_max),
        answers: Meter::new(config.answer_bytes_max),
        stop: stop.clone(),
    };
    let http2 = http2(&config);
    let calls = Unary { service, request_bytes_max, others: routes };
    let threads = Threads::start()?;
    let edge = Edge::new(Deadline(calls), edge);
    let serving = transport::serve(&http2, &threads, connections.accept(), edge, stop);
    let health = report_health(reporter, lifecycle);
    tokio::pin!(serving, health);
    tokio::select! {
        () = &mut serving => {}
        () = &mut health => serving.await,
    }
    Ok(())
}

fn http2(config: &ServerConfig) -> Http2 {
    Http2 {
        streams_max: config.streams_per_connection,
        connection_window_bytes: config.connection_window_bytes,
        stream_window_bytes: config.stream_window_bytes,
        header_list_bytes: config.header_list_bytes,
        frame_bytes: FRAME_BYTES,
        send_buffer_bytes: SEND_BUFFER_BYTES,
        pending_accept_reset_streams: config.pending_accept_reset_streams,
        local_error_reset_streams: config.local_error_reset_streams,
        keepalive_interval: config.keepalive_interval,
        keepalive_timeout: config.keepalive_timeout,
    }
}

/// Follows the lifecycle until it ends: `""` and `broker.Broker` are SERVING in the phase of that name only.
async fn report_health(reporter: HealthReporter, lifecycle: Lifecycle) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let mut phases = lifecycle.watch();
    loop {
        let phase = *phases.borrow_and_update();
        let status = if phase == Phase::Serving { Serving } else { NotServing };
        for name in ["", "broker.Broker"] {
            reporter.set_service_status(name, status).await;
        }
        if phases.changed().await.is_err() {
            return;
        }
    }
}
