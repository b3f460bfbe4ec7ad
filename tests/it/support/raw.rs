//! Clients that send what no generated client would.

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request};
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};
use walcast::proto::client::FetchRequest;

use super::within_patience;

/// Sends message bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Calls a unary method with these bytes as its message.
pub async fn unary(channel: Channel, path: &'static str, message: impl Into<Bytes>) -> Result<Bytes, Status> {
    unary_at(channel, path.to_owned(), message).await
}

/// The same for a path that is made up.
pub async fn unary_at(channel: Channel, path: String, message: impl Into<Bytes>) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
    grpc.ready().await.expect("the connection is usable");
    let request = tonic::Request::new(message.into());
    let call = grpc.unary(request, path.parse::<PathAndQuery>().expect("a path"), RawCodec);
    within_patience("an answer", call).await.map(tonic::Response::into_inner)
}

/// Calls a server-streaming method with these bytes as its message; gives the first answer or the end.
pub async fn server_streaming(
    channel: Channel,
    path: &'static str,
    message: impl Into<Bytes>,
) -> Result<Option<Bytes>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("the connection is usable");
    let request = tonic::Request::new(message.into());
    let call = grpc.server_streaming(request, PathAndQuery::from_static(path), RawCodec);
    let mut stream = within_patience("headers", call).await?.into_inner();
    within_patience("an answer", stream.message()).await
}

/// Calls a bidirectional method with these bytes as its messages; gives the answers and the end.
pub async fn bidirectional(channel: Channel, path: &'static str, messages: Vec<Bytes>) -> (Vec<Bytes>, Option<Status>) {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("the connection is usable");
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let call = grpc.streaming(request, PathAndQuery::from_static(path), RawCodec);
    let mut stream = match within_patience("headers", call).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut answers = Vec::new();
    loop {
        match within_patience("an answer", stream.message()).await {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return (answers, None),
            Err(status) => return (answers, Some(status)),
        }
    }
}

/// One call as HTTP/2 frames: headers and DATA as given, nothing added but what gRPC demands.
#[derive(Debug, Clone)]
pub struct Frames {
    path: &'static str,
    headers: HeaderMap,
    data: Vec<Bytes>,
}

impl Frames {
    /// A call of `path` with no DATA yet.
    pub fn to(path: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/grpc".parse().expect("a value"));
        headers.insert("te", "trailers".parse().expect("a value"));
        Self { path, headers, data: Vec::new() }
    }

    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().expect("a value"));
        self
    }

    /// Adds DATA.
    #[must_use]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.data.push(data.into());
        self
    }

    /// Adds a gRPC message: flag and length as given, whatever follows.
    #[must_use]
    pub fn message(self, flag: u8, claimed: u32, message: &[u8]) -> Self {
        let mut data = vec![flag];
        data.put_u32(claimed);
        data.extend_from_slice(message);
        self.data(data)
    }

    /// Sends it on a connection of its own; then a second, good call on the same connection must be answered.
    pub async fn send(self, address: &str) -> Status {
        within_patience("an answer to raw frames", self.exchange(address)).await
    }

    async fn exchange(self, address: &str) -> Status {
        let socket = TcpStream::connect(address).await.expect("the broker accepts");
        let (mut connection, driver) = h2::client::handshake(socket).await.expect("HTTP/2");
        let driver = tokio::spawn(driver);
        let uri = format!("http://{address}{}", self.path);
        let mut request = Request::post(uri).body(()).expect("a request");
        *request.headers_mut() = self.headers;
        connection = connection.ready().await.expect("a stream");
        let (answer, mut body) = connection.send_request(request, self.data.is_empty()).expect("headers are sent");
        let last = self.data.len().saturating_sub(1);
        for (number, data) in self.data.into_iter().enumerate() {
            // The broker may answer and reset before it has read everything; its answer counts.
            if body.send_data(data, number == last).is_err() {
                break;
            }
        }
        let answer = answer.await.expect("an answer");
        let status = status_of(answer).await;
        let connection = connection.ready().await.expect("the connection is usable afterwards");
        health_answers(connection, address).await;
        driver.abort();
        status
    }
}

async fn status_of(answer: http::Response<h2::RecvStream>) -> Status {
    assert_eq!(answer.status(), 200, "gRPC answers are HTTP 200: {answer:?}");
    let (head, mut body) = answer.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return status;
    }
    while let Some(data) = body.data().await {
        let data = data.expect("the stream is whole");
        body.flow_control().release_capacity(data.len()).expect("it was received");
    }
    let trailers = body.trailers().await.expect("trailers").expect("a gRPC answer ends in trailers");
    Status::from_header_map(&trailers).expect("trailers carry a status")
}

async fn health_answers(mut connection: h2::client::SendRequest<Bytes>, address: &str) {
    let Frames { path, headers, .. } = Frames::to("/grpc.health.v1.Health/Check");
    let mut request = Request::post(format!("http://{address}{path}")).body(()).expect("a request");
    *request.headers_mut() = headers;
    let (answer, mut body) = connection.send_request(request, false).expect("a second call");
    body.send_data(Bytes::from_static(&[0; 5]), true).expect("an empty message");
    let status = status_of(answer.await.expect("the second call is answered")).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}

/// Begins `count` calls on one connection, each with a message that claims `claimed` bytes and sends `sent` of them. Gives
/// the statuses of those that were answered within a second.
pub async fn unfinished(
    address: &str,
    path: &'static str,
    claimed: u32,
    sent: usize,
    count: usize,
) -> Vec<Option<Status>> {
    let socket = TcpStream::connect(address).await.expect("the broker accepts");
    let (mut connection, driver) = h2::client::handshake(socket).await.expect("HTTP/2");
    let driver = tokio::spawn(driver);
    let Frames { headers, .. } = Frames::to(path);
    let mut calls = Vec::new();
    for _ in 0..count {
        let mut request = Request::post(format!("http://{address}{path}")).body(()).expect("a request");
        *request.headers_mut() = headers.clone();
        connection = connection.ready().await.expect("a stream");
        let (answer, mut body) = connection.send_request(request, false).expect("headers are sent");
        let mut data = vec![0];
        data.put_u32(claimed);
        data.resize(sent, 0);
        body.send_data(data.into(), false).expect("it is open");
        calls.push((answer, body));
    }
    let mut statuses = Vec::new();
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
    let mut open = Vec::new();
    for (answer, body) in calls {
        open.push(body);
        let status = async { status_of(answer.await.expect("an answer")).await };
        statuses.push(tokio::time::timeout_at(until, status).await.ok());
    }
    driver.abort();
    statuses
}

/// A connection that gives its streams no window.
#[derive(Debug)]
pub struct Reluctant {
    connection: h2::client::SendRequest<Bytes>,
    address: String,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
    answers: tokio::sync::Mutex<Vec<h2::client::ResponseFuture>>,
}

impl Reluctant {
    /// Speaks HTTP/2.
    pub async fn connect(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("the broker accepts");
        let mut builder = h2::client::Builder::new();
        let (connection, driver) = builder.initial_window_size(0).handshake(socket).await.expect("HTTP/2");
        let (driver, answers) = (tokio::spawn(driver), tokio::sync::Mutex::default());
        Self { connection, address: address.to_owned(), driver, answers }
    }

    /// Asks for a message and never reads it.
    pub async fn fetch(&self, subject: &str, id: i32) {
        let Frames { path, headers, .. } = Frames::to("/broker.Broker/Fetch");
        let message = FetchRequest { subject: subject.to_owned(), id }.encode_to_vec();
        let mut request = Request::post(format!("http://{}{path}", self.address)).body(()).expect("a request");
        *request.headers_mut() = headers;
        let mut connection = self.connection.clone().ready().await.expect("a stream");
        let (answer, mut body) = connection.send_request(request, false).expect("headers are sent");
        let mut data = vec![0];
        data.put_u32(message.len() as u32);
        data.extend(message);
        body.send_data(data.into(), true).expect("it is open");
        self.answers.lock().await.push(answer);
    }
}

impl Drop for Reluctant {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
