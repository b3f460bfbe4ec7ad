//! A collector that takes every span and throws it away.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::Failure;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A running collector.
pub struct Collector {
    /// `http://ADDRESS`.
    pub endpoint: String,
    calls: Arc<AtomicU64>,
}

impl Collector {
    /// How often it was called.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// Starts one at `HOST:PORT` (port 0: any that is free) that lasts as long as this runtime.
pub async fn start_at(address: &str) -> Result<Collector, Failure> {
    let listener = TcpListener::bind(address).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let export = move |request: axum::extract::Request| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<(), ()>::default());
            Ok::<_, Infallible>(grpc.unary(Discard, request).await)
        }
    };
    let routes = Routes::from(Router::new().route(EXPORT, post(export)));
    let serving = tonic::transport::Server::builder().add_routes(routes);
    #[expect(clippy::disallowed_methods, reason = "it ends with this process")]
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(Collector { endpoint, calls })
}

/// Of a message without fields every field is passed over.
struct Discard;

impl tower::Service<Request<()>> for Discard {
    type Response = Response<()>;
    type Error = Status;
    type Future = Ready<Result<Response<()>, Status>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        ready(Ok(Response::new(())))
    }
}
