//! HTTP/2 as raw frames: which limits are announced, and what becomes of a peer that abuses the protocol.
//!
//! Not limited by the transport, and left to a proxy in front: floods of PING, SETTINGS and unknown frames.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Broker, Setup, within_patience};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;

const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A good call of Publish in HPACK without the dynamic table.
fn publish_headers() -> Vec<u8> {
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

struct Peer {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Peer {
    /// Speaks HTTP/2 as far as the preface and empty SETTINGS.
    async fn connect(broker: &Broker) -> Self {
        let mut peer = Self::silent(broker).await;
        peer.socket.write_all(PREFACE).await.expect("sent");
        peer.socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("sent");
        peer
    }

    /// A TCP connection, nothing more.
    async fn silent(broker: &Broker) -> Self {
        let socket = TcpStream::connect(broker.grpc()).await.expect("the broker accepts");
        Self { socket, read: Vec::new() }
    }

    /// The next frame: kind and payload; None when the broker has closed.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
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
    async fn until_goaway(self, mut flood: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> u32 {
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

/// Enough of anything: ten times what any limit here allows.
const FLOOD: u32 = 20_000;

/// The id of a client's stream.
fn stream(turn: u32) -> u32 {
    2 * turn + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_are_announced() {
    let broker = Broker::start().await;
    let mut peer = Peer::connect(&broker).await;
    let (kind, payload) = within_patience("SETTINGS", peer.frame()).await.expect("SETTINGS come first");
    assert_eq!(kind, SETTINGS);
    let settings: HashMap<u16, u32> = payload
        .chunks_exact(6)
        .map(|entry| {
            (u16::from_be_bytes([entry[0], entry[1]]), u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
        })
        .collect();
    assert_eq!(settings.get(&MAX_CONCURRENT_STREAMS), Some(&65_536));
    assert_eq!(settings.get(&MAX_HEADER_LIST_SIZE), Some(&(16 * 1024)));
    assert_eq!(settings.get(&INITIAL_WINDOW_SIZE), Some(&(1024 * 1024)));
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_are_ended_with_enhance_your_calm_and_others_do_not_notice() {
    let broker = Setup::new().expect_log("streams reached limit").start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("s").await;
    // Headers without a method, a path or anything: each a stream error.
    let malformed: fn(u32) -> Vec<u8> = |turn| frame(HEADERS, END_HEADERS | END_STREAM, stream(turn), &[]);
    let rapid_reset: fn(u32) -> Vec<u8> = |turn| {
        let cancel = frame(RST_STREAM, 0, stream(turn), &8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream(turn), &publish_headers()), cancel].concat()
    };
    let continuations: fn(u32) -> Vec<u8> = |turn| match turn {
        0 => frame(HEADERS, 0, 1, &publish_headers()),
        _ => frame(CONTINUATION, 0, 1, &[]),
    };
    let empty_data: fn(u32) -> Vec<u8> = |turn| match turn {
        0 => frame(HEADERS, END_HEADERS, 1, &publish_headers()),
        _ => frame(DATA, 0, 1, &[]),
    };
    for (what, flood) in
        [("malformed", malformed), ("reset", rapid_reset), ("continuation", continuations), ("empty", empty_data)]
    {
        let code = Peer::connect(&broker).await.until_goaway(flood).await;
        assert_eq!(code, ENHANCE_YOUR_CALM, "{what}");
        let id = client.publish_kept("s", what).await;
        assert_eq!(subscription.next().await.id, id, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_speak_http_2_in_time_is_closed() {
    let broker = Setup::new().set("limits.handshake_timeout", "200ms").start().await;
    let client = broker.client().await;
    for beginning in [&b""[..], &PREFACE[..10], b"GET / HTTP/1.1\r\n"] {
        let mut peer = Peer::silent(&broker).await;
        peer.socket.write_all(beginning).await.expect("sent");
        within_patience("the end of a silent connection", async { while peer.frame().await.is_some() {} }).await;
    }
    client.publish_kept("s", "who speaks stays").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_answers_no_ping_is_closed() {
    let setup = Setup::new().set("limits.keepalive_interval", "1s").set("limits.keepalive_timeout", "1s");
    let broker = setup.start().await;
    let mut peer = Peer::connect(&broker).await;
    within_patience("the end of a dead connection", async { while peer.frame().await.is_some() {} }).await;
    broker.client().await.publish_kept("s", "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_list_over_the_limit_is_refused_and_the_connection_goes_on() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(client.channel());
    let mut request = tonic::Request::new(tonic_health::pb::HealthCheckRequest::default());
    request.metadata_mut().insert("x-long", "x".repeat(20_000).parse().expect("a value"));
    health.check(request).await.expect_err("too long");
    client.publish_kept("s", "x").await;
}
