//! The way between a store and its node: what goes over it is counted, and answers can be held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Node;

/// A way to a node, beside its own address.
#[derive(Debug, Clone)]
pub struct Wire {
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    held: watch::Sender<bool>,
}

impl Wire {
    /// A way to `node`; gone when the runtime is.
    pub async fn to(node: &Node) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let wire = Self { address, asked: Arc::default(), answered: Arc::default(), held: watch::channel(false).0 };
        let (made, node) = (wire.clone(), node.address());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&node).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let never = watch::channel(false).1;
                tokio::spawn(forward(from_client, to_server, Arc::clone(&made.asked), never));
                tokio::spawn(forward(from_server, to_client, Arc::clone(&made.answered), made.held.subscribe()));
            }
        });
        wire
    }

    /// What a store names as its node.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Bytes that went to the node.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Bytes that came from the node.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Holds answers back, or lets them go.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: Arc<AtomicU64>, held: watch::Receiver<bool>) {
    let (mut held, mut bytes) = (held, vec![0; 65_536]);
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        // A way whose sender is gone is never held.
        drop(held.wait_for(|held| !held).await);
        count.fetch_add(length as u64, Ordering::SeqCst);
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
