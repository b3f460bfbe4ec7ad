//! What all loads share: connections and requests.

use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};
use walcast::proto::client::broker_client::BrokerClient;
use walcast::proto::client::{PublishRequest, SubscribeRequest};

use crate::Failure;
use crate::system::ServerProcess;

/// Connections of most loads.
pub const CONNECTIONS: usize = 8;
/// Calls in flight on each of them.
pub const IN_FLIGHT: usize = 32;
/// Subjects of most loads.
pub const SUBJECTS: usize = 100;

/// One connection; a clone shares it.
pub type Client = BrokerClient<Channel>;

/// Opens connections, one after the other.
pub async fn connect(server: &ServerProcess, connections: usize) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        clients.push(BrokerClient::new(Endpoint::from_shared(server.uri.clone())?.connect().await?));
    }
    Ok(clients)
}

/// Opens one connection.
pub async fn connect_one(server: &ServerProcess) -> Result<Client, Failure> {
    Ok(BrokerClient::new(Endpoint::from_shared(server.uri.clone())?.connect().await?))
}

/// The names of so many subjects.
pub fn subjects(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("yardstick-{number:02}")).collect()
}

/// A publish.
pub fn publish(subject: String, body: Bytes, expiration_seconds: i32) -> PublishRequest {
    PublishRequest { subject, body, expiration_seconds, ..PublishRequest::default() }
}

/// A subscription to what is published from now on.
pub fn subscribe(subject: String) -> SubscribeRequest {
    SubscribeRequest { subject, after_id: None }
}
