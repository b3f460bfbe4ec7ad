//! The admin HTTP port: metrics, liveness, readiness and one status document. For operators; never
//! published through a proxy.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::net::TcpListener;

use super::lifecycle::{Lifecycle, Phase};
use super::moves;
use crate::transfer::Asker;

/// What the admin port asks the broker.
pub trait Report: fmt::Debug + Send + Sync + 'static {
    /// Every series in Prometheus' text format.
    fn metrics(&self) -> String;
    /// The status document.
    fn status(&self) -> serde_json::Value;
    /// Parts that are not ready, with the reason; empty when all are.
    fn parts(&self) -> Vec<Part>;
    /// Moves slots to other nodes; None without a cluster, or before the broker is open.
    fn mover(&self) -> Option<Asker>;
}

/// A part of the broker in `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name: a room.
    pub name: &'static str,
    /// Whether it does its work.
    pub ready: bool,
    /// What it is doing.
    pub state: String,
}

#[derive(Debug, Clone)]
pub(super) struct Admin {
    pub(super) report: Arc<dyn Report>,
    pub(super) lifecycle: Lifecycle,
}

/// Serves until `stop` is done.
///
/// # Errors
/// The error of the socket.
pub async fn serve(
    listener: TcpListener,
    report: Arc<dyn Report>,
    lifecycle: Lifecycle,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/cluster/move", post(moves::give))
        .with_state(Admin { report, lifecycle });
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.report.metrics()).into_response()
}

/// Alive unless it has failed: a broker that starts or drains needs time, not a restart.
async fn live(State(admin): State<Admin>) -> Response {
    let phase = admin.lifecycle.phase();
    let code = if phase == Phase::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(serde_json::json!({ "phase": phase.name() }))).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let phase = admin.lifecycle.phase();
    let parts = admin.report.parts();
    let ready = phase == Phase::Serving && parts.iter().all(|part| part.ready);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(serde_json::json!({ "ready": ready, "phase": phase.name(), "parts": parts }))).into_response()
}

async fn status(State(admin): State<Admin>) -> Response {
    Json(admin.report.status()).into_response()
}
