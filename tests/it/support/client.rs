//! Clients of the wire contract, generated from the proto.

use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt as _;
use walcast::proto::client::broker_client::BrokerClient;
use walcast::proto::client::{FetchRequest, MessageResponse, PublishRequest, SubscribeRequest};

use super::{PATIENCE, within_patience};

/// A client; a clone shares the connection.
#[derive(Debug, Clone)]
pub struct Client {
    grpc: BrokerClient<Channel>,
    channel: Channel,
}

/// A client's own transport ends a connection on which unread small frames cost more than half its window
/// (256 bytes each), so one that leaves thousands of streams unread needs a large one.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// What one stream may send unread.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// The least that HTTP/2 allows to announce without a fight: its initial value.
const NARROW_WINDOW_BYTES: u32 = 65_535;

impl Client {
    /// Connects to `HOST:PORT`.
    pub async fn connect(address: &str) -> Self {
        Self::connect_with_window(address, STREAM_WINDOW_BYTES).await
    }

    /// Connects so that little of an unread stream is on the way.
    pub async fn connect_narrow(address: &str) -> Self {
        Self::connect_with_window(address, NARROW_WINDOW_BYTES).await
    }

    /// Connects, unless the broker goes away meanwhile.
    pub async fn try_connect(address: &str) -> Option<Self> {
        Self::try_connect_with_window(address, STREAM_WINDOW_BYTES).await.ok()
    }

    /// Both: narrow, unless the broker goes away meanwhile.
    pub async fn try_connect_narrow(address: &str) -> Option<Self> {
        Self::try_connect_with_window(address, NARROW_WINDOW_BYTES).await.ok()
    }

    async fn connect_with_window(address: &str, stream_window: u32) -> Self {
        Self::try_connect_with_window(address, stream_window).await.expect("the broker accepts")
    }

    async fn try_connect_with_window(address: &str, stream_window: u32) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect_timeout(PATIENCE)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(stream_window);
        let channel = endpoint.connect().await?;
        let grpc = BrokerClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        Ok(Self { grpc, channel })
    }

    /// The connection.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The generated client.
    pub fn grpc(&self) -> BrokerClient<Channel> {
        self.grpc.clone()
    }

    /// Publishes; gives the id.
    pub async fn publish(&self, subject: &str, body: impl Into<Bytes>, expiration_seconds: i32) -> Result<i32, Status> {
        let request = PublishRequest {
            subject: subject.to_owned(),
            body: body.into(),
            expiration_seconds,
            ..PublishRequest::default()
        };
        self.grpc.clone().publish(request).await.map(|answer| answer.into_inner().id)
    }

    /// Publishes a request with metadata; gives the id.
    pub async fn publish_request(&self, request: Request<PublishRequest>) -> Result<i32, Status> {
        self.grpc.clone().publish(request).await.map(|answer| answer.into_inner().id)
    }

    /// Publishes what must be accepted, kept for an hour.
    pub async fn publish_kept(&self, subject: &str, body: impl Into<Bytes>) -> i32 {
        self.publish(subject, body, 3_600).await.unwrap_or_else(|status| panic!("publish on {subject:?}: {status}"))
    }

    /// Fetches.
    pub async fn fetch(&self, subject: &str, id: i32) -> Result<MessageResponse, Status> {
        let request = FetchRequest { subject: subject.to_owned(), id };
        self.grpc.clone().fetch(request).await.map(Response::into_inner)
    }

    /// Fetches what must be found; gives the body.
    pub async fn fetch_body(&self, subject: &str, id: i32) -> Bytes {
        self.fetch(subject, id).await.unwrap_or_else(|status| panic!("fetch {subject:?} {id}: {status}")).body
    }

    /// Subscribes; returns when the headers have come.
    pub async fn try_subscribe(&self, subject: &str) -> Result<Subscription, Status> {
        self.try_resume(subject, None).await
    }

    /// Subscribes after an id; returns when the headers have come.
    pub async fn try_resume(&self, subject: &str, after_id: Option<i32>) -> Result<Subscription, Status> {
        let request = SubscribeRequest { subject: subject.to_owned(), after_id };
        let mut grpc = self.grpc.clone();
        let answer = within_patience("subscription headers", grpc.subscribe(request)).await?;
        Ok(Subscription { stream: answer.into_inner() })
    }

    /// Subscribes where that must be accepted.
    pub async fn subscribe(&self, subject: &str) -> Subscription {
        self.try_subscribe(subject).await.unwrap_or_else(|status| panic!("subscribe to {subject:?}: {status}"))
    }

    /// Subscribes after an id where that must be accepted.
    pub async fn resume(&self, subject: &str, after_id: i32) -> Subscription {
        let resumed = self.try_resume(subject, Some(after_id)).await;
        resumed.unwrap_or_else(|status| panic!("resume {subject:?} after {after_id}: {status}"))
    }
}

/// An open subscription.
#[derive(Debug)]
pub struct Subscription {
    stream: Streaming<MessageResponse>,
}

impl Subscription {
    /// The next message, or how the stream ended.
    pub async fn try_next(&mut self) -> Result<Option<MessageResponse>, Status> {
        within_patience("a delivery", self.stream.message()).await
    }

    /// The next message, which must come.
    pub async fn next(&mut self) -> MessageResponse {
        self.try_next().await.expect("the stream goes on").expect("the stream has not ended")
    }

    /// The ids of the next `count` messages.
    pub async fn next_ids(&mut self, count: usize) -> Vec<i32> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            ids.push(self.next().await.id);
        }
        ids
    }

    /// Reads to the end; gives the ids and the status of the end.
    pub async fn drain(&mut self) -> (Vec<i32>, Option<Status>) {
        let mut ids = Vec::new();
        loop {
            match self.try_next().await {
                Ok(Some(message)) => ids.push(message.id),
                Ok(None) => return (ids, None),
                Err(status) => return (ids, Some(status)),
            }
        }
    }

    /// Whether nothing comes for a moment. It can only miss a delivery, never invent one.
    pub async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.stream.message()).await.is_err()
    }
}

/// The reason of a status's `google.rpc.ErrorInfo`.
pub fn error_reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}")).reason
}

/// A body that tells its subject, so that a mix-up shows.
pub fn body_of(subject: &str, number: u64) -> Bytes {
    Bytes::from(format!("{subject}#{number}"))
}

/// The same random bytes for the same seed.
pub fn random_bytes(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    Bytes::from(bytes)
}
