//! A node that is healthy and answers every call UNAVAILABLE, as a broker does whose neighbour is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};

/// Counts what it refuses.
#[derive(Debug)]
pub struct Refusing {
    address: String,
    calls: Arc<AtomicUsize>,
}

impl Refusing {
    /// Listens.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let calls = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&counting)));
            }
        });
        Self { address, calls }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Calls that came, health checks not counted.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn serve(socket: TcpStream, calls: Arc<AtomicUsize>) {
    let mut server = h2::server::Builder::new();
    // Thousands of calls that are not read yet are no attack here.
    server.initial_connection_window_size(32 * 1024 * 1024);
    let Ok(mut connection) = server.handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let health = request.uri().path().starts_with("/grpc.health.v1.Health/");
        calls.fetch_add(usize::from(!health), Ordering::SeqCst);
        tokio::spawn(answer(request.into_body(), respond, health));
    }
}

/// To the whole request, as brokers do.
async fn answer(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>, health: bool) {
    while let Some(Ok(data)) = body.data().await {
        drop(body.flow_control().release_capacity(data.len()));
    }
    let answer = Response::builder().header("content-type", "application/grpc");
    if !health {
        let refusal = answer.header("grpc-status", "14").body(()).expect("an answer");
        drop(respond.send_response(refusal, true));
        return;
    }
    let Ok(mut body) = respond.send_response(answer.body(()).expect("an answer"), false) else { return };
    // HealthCheckResponse { status: SERVING }
    drop(body.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false));
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    drop(body.send_trailers(trailers));
}

/// The gRPC status in the headers of the answer to an empty message.
pub async fn head_of(address: &str, path: &str) -> Option<String> {
    let socket = TcpStream::connect(address).await.expect("it accepts");
    let (mut connection, driver) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(driver);
    let request = Request::post(format!("http://{address}{path}")).header("content-type", "application/grpc");
    let request = request.header("te", "trailers").body(()).expect("a request");
    let (answer, mut body) = connection.send_request(request, false).expect("headers are sent");
    body.send_data(Bytes::from_static(&[0; 5]), true).expect("an empty message");
    let answer = answer.await.expect("an answer");
    answer.headers().get("grpc-status").map(|status| status.to_str().expect("digits").to_owned())
}
