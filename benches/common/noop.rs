//! The yardstick: a tonic server that answers at once and stores nothing, as anyone would write it
//! (tonic's defaults and `tcp_nodelay`). Messages to subscribers are encoded before the first call; only where the time
//! until their delivery is measured, each is encoded once for all subscribers, for the time is in its body.

use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::Stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use walcast::event::record::Record;
use walcast::event::{EncodedMessage, Expiration, MessageId, clock};
use walcast::proto::server::broker_server::{Broker, BrokerServer};
use walcast::proto::server::{FetchRequest, PublishRequest, PublishResponse, PublishStreamResponse, SubscribeRequest};

use crate::Failure;
use crate::program::BODY_BYTES;

/// Messages that wait for one subscriber. The client keeps less than this many on the way.
const SUBSCRIBER_QUEUE: usize = 4096;

struct Noop {
    id: AtomicI32,
    /// Whether deliveries carry the body that was published.
    stamped: bool,
    message: EncodedMessage,
    subscribers: RwLock<Arc<Vec<mpsc::Sender<EncodedMessage>>>>,
}

/// Serves on a free port of the loopback and says which in the broker's own log line.
pub async fn serve(stamped: bool) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("{}", serde_json::json!({ "message": "listening", "grpc": listener.local_addr()?.to_string() }));
    let message = encoded(&[b'x'; BODY_BYTES])?;
    let noop = Noop { id: AtomicI32::new(0), stamped, message, subscribers: RwLock::new(Arc::default()) };
    let incoming = TcpListenerStream::new(listener).map(|accepted| {
        accepted.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    });
    // Envoy sends nothing to a server that does not say that it is well.
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<BrokerServer<Noop>>().await;
    let server = tonic::transport::Server::builder().add_service(health_service).add_service(BrokerServer::new(noop));
    server.serve_with_incoming(incoming).await?;
    Ok(())
}

fn encoded(body: &[u8]) -> Result<EncodedMessage, &'static str> {
    let record = Record {
        subject: "yardstick-00",
        id: MessageId::new(1_000).ok_or("an id out of range")?,
        published_at: clock::now(),
        expiration: Expiration::FIRE_AND_FORGET,
        idempotency_key: None,
        traceparent: None,
        body,
    };
    Ok(EncodedMessage::new(&record))
}

#[tonic::async_trait]
impl Broker for Noop {
    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let mut id = 0;
        let answers = request.into_inner().map(move |request| {
            id += 1;
            request.map(|_request| PublishStreamResponse { id, error: None })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<EncodedMessage, Status>> + Send>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let stamped;
        let message = if self.stamped {
            stamped = encoded(&request.get_ref().body).map_err(Status::internal)?;
            &stamped
        } else {
            &self.message
        };
        let subscribers = Arc::clone(&self.subscribers.read().unwrap_or_else(PoisonError::into_inner));
        for subscriber in subscribers.iter() {
            // A subscriber that left takes nothing; this process lives for one measurement.
            if subscriber.send(message.clone()).await.is_err() {
                continue;
            }
        }
        Ok(Response::new(PublishResponse { id: self.id.fetch_add(1, Ordering::Relaxed) }))
    }

    async fn subscribe(&self, _request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let (sender, receiver) = mpsc::channel(SUBSCRIBER_QUEUE);
        let mut subscribers = self.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = subscribers.as_ref().clone();
        all.push(sender);
        *subscribers = Arc::new(all);
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(Ok))))
    }

    async fn fetch(&self, _request: Request<FetchRequest>) -> Result<Response<EncodedMessage>, Status> {
        Ok(Response::new(self.message.clone()))
    }
}
