//! A peer that sends raw HTTP/2 frames.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within_patience;

/// What a client's connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The error code of a peer that is asked to stop.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// Enough of anything: ten times what any limit of the broker allows.
pub const FLOOD: u32 = 20_000;

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The id of a client's stream.
pub fn stream(turn: u32) -> u32 {
    2 * turn + 1
}

/// A good call of Publish in HPACK without the dynamic table.
pub fn publish_headers() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in
        [(&[0x04][..], "/broker.Broker/Publish"), (&[0x01], "walcast"), (&[0x0f, 0x10], "application/grpc")]
    {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block.extend(b"\x00\x02te\x08trailers");
    block
}

/// A connection of which every byte is the test's.
#[derive(Debug)]
pub struct Peer {
    /// What the test writes to.
    pub socket: TcpStream,
    read: Vec<u8>,
}

impl Peer {
    /// Speaks HTTP/2 as far as the preface and empty SETTINGS.
    pub async fn connect(address: &str) -> Self {
        let mut peer = Self::silent(address).await;
        peer.socket.write_all(PREFACE).await.expect("sent");
        peer.socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("sent");
        peer
    }

    /// A TCP connection, nothing more.
    pub async fn silent(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("it accepts");
        Self { socket, read: Vec::new() }
    }

    /// The next frame: kind and payload; None when the other side has closed.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [a, b, c, kind, _, _, _, _, _, ..] = self.read[..] {
                let end = 9 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
                if self.read.len() >= end {
                    let payload = self.read[9..end].to_vec();
                    self.read.drain(..end);
                    return Some((kind, payload));
                }
            }
            match self.socket.read_buf(&mut self.read).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Sends `flood` again and again while reading; gives the error code of the GOAWAY that ends it.
    pub async fn until_goaway(self, mut flood: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> u32 {
        let (mut incoming, mut outgoing) = self.socket.into_split();
        let sending = tokio::spawn(async move {
            for turn in 0..FLOOD {
                if outgoing.write_all(&flood(turn)).await.is_err() {
                    return;
                }
            }
        });
        let reading = async {
            let mut bytes = self.read;
            loop {
                while let [a, b, c, kind, ..] = bytes[..] {
                    let end = 9 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
                    if bytes.len() < end {
                        break;
                    }
                    if kind == GOAWAY {
                        return u32::from_be_bytes(*bytes[13..].first_chunk().expect("GOAWAY has eight bytes"));
                    }
                    bytes.drain(..end);
                }
                let read = incoming.read_buf(&mut bytes).await.expect("GOAWAY comes before the end");
                assert!(read > 0, "GOAWAY comes before the end");
            }
        };
        let code = within_patience("GOAWAY", reading).await;
        sending.abort();
        code
    }
}
