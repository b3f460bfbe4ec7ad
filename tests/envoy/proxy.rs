//! A proxy between Envoy and a broker that holds the broker's answers back, and breaks connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::Broker;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Way {
    /// Raised when all connections are to end.
    cuts: usize,
    holds: bool,
}

/// Forwards to a broker until it is told otherwise.
#[derive(Debug, Clone)]
pub struct Proxy {
    address: String,
    way: Arc<watch::Sender<Way>>,
    /// What the broker is still to hear before its answers are held.
    first: Arc<AtomicUsize>,
}

impl Proxy {
    /// Before this broker.
    pub async fn before(broker: &Broker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let proxy = Self { address, way: Arc::default(), first: Arc::default() };
        let (accepting, broker) = (proxy.clone(), broker.grpc().to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&broker).await {
                    tokio::spawn(accepting.clone().forward(client, server));
                }
            }
        });
        proxy
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Once the broker has heard so many bytes, nothing of what it says arrives.
    pub fn hold_answers_after(&self, bytes: usize) {
        self.first.store(bytes, Ordering::SeqCst);
        self.way.send_modify(|way| way.holds = true);
    }

    /// All connections end, with what is held; new ones are as they should be.
    pub fn cut(&self) {
        self.way.send_modify(|way| *way = Way { cuts: way.cuts + 1, holds: false });
    }

    async fn forward(self, client: TcpStream, server: TcpStream) {
        let (client_reads, client_writes) = client.into_split();
        let (server_reads, server_writes) = server.into_split();
        let way = self.way.subscribe();
        // Either side may be gone; the other hears of it when this is over.
        let end: io::Result<()> = tokio::select! {
            end = self.there(client_reads, server_writes) => end,
            end = self.back(server_reads, client_writes, way) => end,
        };
        drop(end);
    }

    async fn there(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut bytes = vec![0; 65_536];
        loop {
            let length = from.read(&mut bytes).await?;
            let left = |first: usize| Some(first.saturating_sub(length));
            // Before the broker can answer.
            self.first.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).expect("left gives one always");
            if length == 0 {
                return Ok(());
            }
            to.write_all(&bytes[..length]).await?;
        }
    }

    async fn back(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut way: watch::Receiver<Way>,
    ) -> io::Result<()> {
        let mut bytes = vec![0; 65_536];
        let cuts = way.borrow_and_update().cuts;
        loop {
            let length = tokio::select! {
                length = from.read(&mut bytes) => length?,
                changed = way.wait_for(|way| way.cuts != cuts) => return changed.map(drop).map_err(io::Error::other),
            };
            if length == 0 {
                return Ok(());
            }
            if way.borrow().holds && self.first.load(Ordering::SeqCst) == 0 {
                return way.wait_for(|way| way.cuts != cuts).await.map(drop).map_err(io::Error::other);
            }
            to.write_all(&bytes[..length]).await?;
        }
    }
}
