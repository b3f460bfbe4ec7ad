//! The way between a store and its node: what goes over it is counted, it can be slow, and answers can be held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::Node;

/// A way to a node, beside its own address.
#[derive(Debug, Clone)]
pub struct Wire {
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    held: watch::Sender<bool>,
    /// Bytes a second that go to the node, each connection for itself; 0 for as many as there are.
    rate: Arc<AtomicU64>,
}

impl Wire {
    /// A way to `node`; gone when the runtime is.
    pub async fn to(node: &Node) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let wire = Self {
            address,
            asked: Arc::default(),
            answered: Arc::default(),
            held: watch::channel(false).0,
            rate: Arc::default(),
        };
        let (made, node) = (wire.clone(), node.address());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&node).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(ask(from_client, to_server, made.clone()));
                tokio::spawn(answer(from_server, to_client, made.clone()));
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

    /// Lets so many bytes a second to the node.
    pub fn slow_down(&self, bytes_a_second: u64) {
        self.rate.store(bytes_a_second, Ordering::SeqCst);
    }
}

async fn ask(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, wire: Wire) {
    let mut bytes = vec![0; 8_192];
    while let Ok(length @ 1..) = client.read(&mut bytes).await {
        let length_bytes = length as u64;
        if let Some(micros) = (length_bytes * 1_000_000).checked_div(wire.rate.load(Ordering::SeqCst)) {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        wire.asked.fetch_add(length_bytes, Ordering::SeqCst);
        if server.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

async fn answer(mut server: OwnedReadHalf, mut client: OwnedWriteHalf, wire: Wire) {
    let (mut bytes, mut held) = (vec![0; 65_536], wire.held.subscribe());
    while let Ok(length @ 1..) = server.read(&mut bytes).await {
        held.wait_for(|held| !held).await.expect("the wire is there");
        wire.answered.fetch_add(length as u64, Ordering::SeqCst);
        if client.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
