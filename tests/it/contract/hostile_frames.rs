//! HTTP/2 as raw frames: which limits are announced, and what becomes of a peer that abuses the protocol.
//!
//! Not limited by the transport, and left to a proxy in front: floods of PING, SETTINGS and unknown frames.

use std::collections::HashMap;

use tokio::io::AsyncWriteExt as _;

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PREFACE, Peer, RST_STREAM, SETTINGS,
    frame, publish_headers, stream,
};
use crate::support::{Broker, Setup, within_patience};

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_are_announced() {
    let broker = Broker::start().await;
    let mut peer = Peer::connect(broker.grpc()).await;
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
        let code = Peer::connect(broker.grpc()).await.until_goaway(flood).await;
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
        let mut peer = Peer::silent(broker.grpc()).await;
        peer.socket.write_all(beginning).await.expect("sent");
        within_patience("the end of a silent connection", async { while peer.frame().await.is_some() {} }).await;
    }
    client.publish_kept("s", "who speaks stays").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_answers_no_ping_is_closed() {
    let setup = Setup::new().set("limits.keepalive_interval", "1s").set("limits.keepalive_timeout", "1s");
    let broker = setup.start().await;
    let mut peer = Peer::connect(broker.grpc()).await;
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
