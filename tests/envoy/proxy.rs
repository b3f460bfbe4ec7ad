//! A proxy between Envoy and a broker that holds the broker's answers back, and breaks connections.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
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
    /// If answers are to be held: bytes of bodies that the broker is to hear before.
    first: Arc<Mutex<Option<usize>>>,
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

    /// Once the broker has heard a call to its end, of so many bytes at least, nothing of what it says arrives. Not before: it also says how
    /// much more may be sent.
    pub fn hold_answers_after(&self, bytes: usize) {
        *self.first.lock() = Some(bytes);
    }

    /// All connections end, with what is held; new ones are as they should be.
    pub fn cut(&self) {
        *self.first.lock() = None;
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
        let (mut bytes, mut frames) = (vec![0; 65_536], Frames::default());
        loop {
            let length = from.read(&mut bytes).await?;
            if length == 0 {
                return Ok(());
            }
            // Before the broker can answer.
            frames.read(&bytes[..length], |body_bytes, ends| self.hear(body_bytes, ends));
            to.write_all(&bytes[..length]).await?;
        }
    }

    /// A frame of a body, and whether the call ends with it.
    fn hear(&self, body_bytes: usize, ends: bool) {
        let mut first = self.first.lock();
        if let Some(left) = &mut *first {
            *left = left.saturating_sub(body_bytes);
            if ends && *left == 0 {
                *first = None;
                self.way.send_modify(|way| way.holds = true);
            }
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
            if way.borrow().holds {
                return way.wait_for(|way| way.cuts != cuts).await.map(drop).map_err(io::Error::other);
            }
            to.write_all(&bytes[..length]).await?;
        }
    }
}

/// Finds the frames of HTTP/2 in what a client sends (RFC 9113, 4.1).
#[derive(Debug)]
struct Frames {
    /// Bytes until the next frame.
    skip: usize,
    head: Vec<u8>,
}

impl Default for Frames {
    fn default() -> Self {
        // The preface of a connection.
        Self { skip: 24, head: Vec::with_capacity(9) }
    }
}

impl Frames {
    /// Tells of each frame of a body: its length, and whether it is the last one of its stream.
    fn read(&mut self, mut bytes: &[u8], mut body: impl FnMut(usize, bool)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let (head, rest) = bytes.split_at(bytes.len().min(9 - self.head.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if let [a, b, c, kind, flags, ..] = self.head[..]
                && self.head.len() == 9
            {
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                if kind == 0 {
                    body(self.skip, flags & 1 != 0);
                }
                self.head.clear();
            }
        }
    }
}
