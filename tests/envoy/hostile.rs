//! Clients that mean harm, or are broken: cut, while others go on.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;

use crate::envoy::Plan;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOOD, GOAWAY, HEADERS, PREFACE, Peer, RST_STREAM, SETTINGS, frame,
    publish_headers, stream,
};
use crate::support::{Broker, Client, random_bytes, within_patience};

/// A tenth of what is shipped.
fn hasty(plan: Plan) -> Plan {
    let plan = plan.edit("listener_filters_timeout: 5s", "listener_filters_timeout: 0.5s");
    let plan = plan.edit("request_headers_timeout: 10s", "request_headers_timeout: 1s");
    plan.edit("interval: 30s, timeout: 10s", "interval: 3s, timeout: 1s")
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_do_not_speak_are_closed() {
    let broker = Broker::start().await;
    let envoy = hasty(Plan::before([&broker])).start().await;
    let client = Client::connect(envoy.grpc()).await;
    let mut subscription = client.subscribe("s").await;
    let block = publish_headers();
    let slow_headers = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, 0, 1, &block)].concat();
    let never_pongs = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for (what, beginning, within) in [
        ("silent", Vec::new(), 2),
        ("half a preface", PREFACE[..10].to_vec(), 2),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 2),
        ("headers that do not end", slow_headers, 4),
        ("answers no ping", never_pongs, 8),
    ] {
        let begun = Instant::now();
        let mut peer = Peer::silent(envoy.grpc()).await;
        peer.socket.write_all(&beginning).await.expect("sent");
        let end = async {
            loop {
                match peer.frame().await {
                    // A stream that is reset is as good.
                    None | Some((RST_STREAM | GOAWAY, _)) => return,
                    Some(_) => {}
                }
            }
        };
        within_patience(what, end).await;
        println!("{what}: cut after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(within), "{what}: {:?}", begun.elapsed());
    }
    let id = client.publish_kept("s", "others go on").await;
    assert_eq!(subscription.next().await.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_are_ended_and_others_go_on() {
    let broker = Broker::start().await;
    let envoy = Plan::before([&broker]).start().await;
    let client = Client::connect(envoy.grpc()).await;
    let mut subscription = client.subscribe("s").await;
    let rapid_reset: fn(u32) -> Vec<u8> = |turn| {
        let cancel = frame(RST_STREAM, 0, stream(turn), &8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream(turn), &publish_headers()), cancel].concat()
    };
    let malformed: fn(u32) -> Vec<u8> = |turn| frame(HEADERS, END_HEADERS | END_STREAM, stream(turn), &[]);
    let continuations: fn(u32) -> Vec<u8> = |turn| match turn {
        0 => frame(HEADERS, 0, 1, &publish_headers()),
        _ => frame(CONTINUATION, 0, 1, &[]),
    };
    let empty_data: fn(u32) -> Vec<u8> = |turn| match turn {
        0 => frame(HEADERS, END_HEADERS, 1, &publish_headers()),
        _ => frame(DATA, 0, 1, &[]),
    };
    for (what, flood) in
        [("reset", rapid_reset), ("malformed", malformed), ("continuation", continuations), ("empty", empty_data)]
    {
        let ended = ended(Peer::connect(envoy.grpc()).await, flood).await;
        println!("{what}: {ended:?}");
        let id = client.publish_kept("s", what).await;
        assert_eq!(subscription.next().await.id, id, "{what}");
    }
}

/// Sends a flood until the connection ends; gives the code of its GOAWAY if it came, and how much was sent.
async fn ended(peer: Peer, mut flood: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> (Option<u32>, u32) {
    let mut peer = peer;
    let mut code = None;
    for turn in 0..FLOOD {
        if peer.socket.write_all(&flood(turn)).await.is_err() {
            return (code, turn);
        }
        while let Ok(Some((kind, payload))) = tokio::time::timeout(Duration::ZERO, peer.frame()).await {
            if kind == GOAWAY {
                code = Some(u32::from_be_bytes(*payload[4..].first_chunk().expect("four bytes")));
            }
        }
    }
    panic!("a flood of {FLOOD} did not end the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_too_large_or_too_many_are_refused() {
    let broker = Broker::start().await;
    let envoy = Plan::before([&broker]).start().await;
    let client = Client::connect(envoy.grpc()).await;
    for (count, length, passes) in [(1, 20_000, false), (200, 1, false), (1, 12_000, true), (70, 1, true)] {
        let before = broker.metric("method_count").await;
        let mut request = tonic::Request::new(walcast::proto::client::FetchRequest::default());
        for number in 0..count {
            let name = format!("x-{number}").parse::<tonic::metadata::AsciiMetadataKey>().expect("a name");
            request.metadata_mut().insert(name, "x".repeat(length).parse().expect("a value"));
        }
        let refused = client.grpc().fetch(request).await.expect_err("there is no subject");
        let said = format!("{count} headers of {length} bytes: {:?} {}", refused.code(), refused.message());
        println!("{said}");
        assert_eq!(broker.metric("method_count").await > before, passes, "{said}");
    }
    client.publish_kept("s", "others go on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_a_connection_may_have_are_refused_and_others_go_on() {
    const MAY: usize = 100;
    let broker = Broker::start().await;
    let plan = Plan::before([&broker]).edit_all(2, "max_concurrent_streams: 65536", "max_concurrent_streams: 100");
    let envoy = plan.start().await;
    let client = Client::connect(envoy.grpc()).await;
    // Does not wait for leave, as h2 and every good client does.
    let mut peer = Peer::connect(envoy.grpc()).await;
    for turn in 0..MAY as u32 + 50 {
        peer.socket.write_all(&frame(HEADERS, END_HEADERS, stream(turn), &publish_headers())).await.expect("sent");
    }
    let mut refused = 0;
    let mut gone = false;
    while let Ok(next) = tokio::time::timeout(Duration::from_millis(500), peer.frame()).await {
        match next {
            None | Some((GOAWAY, _)) => {
                gone = true;
                break;
            }
            Some((RST_STREAM, _)) => refused += 1,
            Some(_) => {}
        }
    }
    println!("150 streams where 100 may be: {refused} refused, connection ended: {gone}");
    assert!(gone || refused == 50, "{refused}");
    client.publish_kept("s", "others go on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_do_not_read_stop_nobody_else() {
    const STALLED: usize = 40;
    let broker = Broker::start().await;
    let plan = Plan::before([&broker]);
    // The control: with the window of a connection that guides for edges name, they stop everybody.
    let narrow =
        plan.clone().edit("initial_connection_window_size: 2147483647", "initial_connection_window_size: 1048576");
    for (envoy, stops) in [(plan.start().await, false), (narrow.start().await, true)] {
        let stalled = Client::connect_narrow(envoy.grpc()).await;
        let mut unread = Vec::new();
        for _ in 0..STALLED {
            unread.push(stalled.subscribe("large").await);
        }
        let publisher = broker.client().await;
        for seed in 0..4 {
            publisher.publish("large", random_bytes(seed, 200_000), 60).await.expect("published");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let client = Client::connect(envoy.grpc()).await;
        let answer = tokio::time::timeout(Duration::from_secs(3), client.publish("s", "x", 0)).await;
        assert_eq!(answer.is_err(), stops, "{answer:?}");
        drop(unread);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_the_number_of_connections_is_not_let_in() {
    let broker = Broker::start().await;
    let plan = Plan::before([&broker])
        .edit("max_active_downstream_connections: 10000", "max_active_downstream_connections: 20");
    let envoy = plan.start().await;
    let client = Client::connect(envoy.grpc()).await;
    client.publish_kept("s", "x").await;
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(TcpStream::connect(envoy.grpc()).await.expect("the kernel accepts"));
    }
    let listener = format!("listener.{}.downstream_global_cx_overflow", envoy.grpc().replace(':', "_"));
    crate::support::eventually("connections over the limit", || async {
        (envoy.stat(&listener).await? >= 21).then_some(())
    })
    .await;
    client.publish_kept("s", "who is in stays in").await;
    let refused = Client::try_connect(envoy.grpc()).await;
    let refused = match refused {
        None => true,
        Some(client) => client.publish("s", "x", 0).await.is_err_and(|status| status.code() != Code::Ok),
    };
    assert!(refused, "it was one too many");
}
