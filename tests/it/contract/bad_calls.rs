//! Clients' mistakes: the code of each, and a connection that is usable afterwards.

use std::time::Duration;

use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tonic::{Code, Request};
use walcast::proto::client::broker_client::BrokerClient;
use walcast::proto::client::{FetchRequest, PublishRequest, SubscribeRequest};

use crate::support::raw::{self, Frames};
use crate::support::{Broker, Client, random_bytes};

const PUBLISH: &str = "/broker.Broker/Publish";
const SUBSCRIBE: &str = "/broker.Broker/Subscribe";
const FETCH: &str = "/broker.Broker/Fetch";
const UNARY: [&str; 2] = [PUBLISH, FETCH];
const MIB: usize = 1024 * 1024;

/// The code that each method answers to these message bytes.
async fn codes(client: &Client, message: &[u8]) -> [(&'static str, Code); 3] {
    let mut codes = [(PUBLISH, Code::Ok), (FETCH, Code::Ok), (SUBSCRIBE, Code::Ok)];
    for (method, code) in &mut codes {
        let message = message.to_vec();
        let status = match *method {
            SUBSCRIBE => raw::server_streaming(client.channel(), SUBSCRIBE, message).await.map(drop),
            unary => raw::unary(client.channel(), unary, message).await.map(drop),
        };
        *code = status.err().map_or(Code::Ok, |status| status.code());
    }
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_protobuf_message_are_an_invalid_argument() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for bytes in [
        &b"\xff"[..],
        b"\x0a",                                             // a subject without a length
        b"\x0a\x05abc",                                      // a subject shorter than its length
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a varint of eleven bytes
        b"\x0d\x01\x02\x03\x04",                             // a subject of the wrong wire type
        b"\x00",                                             // field number 0
        b"\x0c",                                             // an end of a group that never began
    ] {
        for (method, code) in codes(&client, bytes).await {
            assert_eq!(code, Code::InvalidArgument, "{method}: {bytes:x?}");
        }
    }
    assert_eq!(client.publish_kept("s", "x").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_is_not_utf_8_and_an_empty_request_are_invalid_arguments() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for bytes in [&b""[..], b"\x0a\x00", b"\x0a\x02\xc3\x28", b"\x0a\x01\xff", b"\x0a\x03\xed\xa0\x80"] {
        for (method, code) in codes(&client, bytes).await {
            assert_eq!(code, Code::InvalidArgument, "{method}: {bytes:x?}");
        }
    }
    assert_eq!(client.publish_kept("s", "x").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_passed_over() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let request = PublishRequest {
        subject: "s".to_owned(),
        body: "x".into(),
        expiration_seconds: 60,
        ..PublishRequest::default()
    };
    let mut message = request.encode_to_vec();
    // Field 1000, length-delimited, 40,000 bytes.
    message.extend_from_slice(&[0xc2, 0x3e, 0xc0, 0xb8, 0x02]);
    message.resize(message.len() + 40_000, 7);
    raw::unary(client.channel(), PUBLISH, message).await.expect("accepted");
    assert_eq!(client.fetch_body("s", 1).await, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_at_the_limit_is_taken_and_one_over_it_is_resource_exhausted() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for (length, code) in [
        (MIB, Code::Ok),
        (MIB + 1, Code::ResourceExhausted),
        (2 * MIB, Code::ResourceExhausted),
        (4 * MIB, Code::ResourceExhausted),
        (5 * MIB, Code::ResourceExhausted),
        (32 * MIB, Code::ResourceExhausted),
    ] {
        for expiration_seconds in [0, 60] {
            let answer = client.publish("s", random_bytes(1, length), expiration_seconds).await;
            assert_eq!(answer.as_ref().err().map_or(Code::Ok, tonic::Status::code), code, "{length}: {answer:?}");
        }
        // The same connection goes on.
        client.publish_kept("after", "x").await;
    }
    assert_eq!(client.publish_kept("s", "x").await, 3, "refused publishes took no id");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_does_not_harm_other_calls_of_its_connection() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("s").await;
    let floods: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.publish("s", vec![0; 5 * MIB], 0).await })
        })
        .collect();
    for _ in 0..50 {
        client.publish_kept("s", "x").await;
    }
    for flood in floods {
        assert_eq!(flood.await.expect("no panic").expect_err("too long").code(), Code::ResourceExhausted);
    }
    assert_eq!(subscription.next_ids(50).await, (1..=50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_length_over_the_limit_is_resource_exhausted_before_any_of_it_arrives() {
    let broker = Broker::start().await;
    let before = broker.resident_bytes();
    for claimed in [5 * MIB as u32, 100 * MIB as u32, u32::MAX] {
        for method in [PUBLISH, FETCH, SUBSCRIBE] {
            let status = Frames::to(method).message(0, claimed, b"\x0a\x01s").send(broker.grpc()).await;
            assert_eq!(status.code(), Code::ResourceExhausted, "{method}, {claimed}: {status:?}");
        }
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB as u64, "claims alone cost {grown} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_grpc_framing_is_an_invalid_argument() {
    let broker = Broker::start().await;
    let good = FetchRequest { subject: "s".to_owned(), id: 1 }.encode_to_vec();
    let length = good.len() as u32;
    for method in [PUBLISH, FETCH, SUBSCRIBE] {
        let nothing_at_all = Frames::to(method);
        let no_message = Frames::to(method).data("");
        let half_a_prefix = Frames::to(method).data(&b"\0\0\0"[..]);
        let longer_than_its_data = Frames::to(method).message(0, length + 10, &good);
        let bad_flag = Frames::to(method).message(2, length, &good);
        let flag_255 = Frames::to(method).message(255, length, &good);
        for frames in [nothing_at_all, no_message, half_a_prefix, longer_than_its_data, bad_flag, flag_255] {
            let status = frames.clone().send(broker.grpc()).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{frames:?}: {status:?}");
        }
        // Said to be compressed with something this server does not have, or with nothing at all.
        for frames in [
            Frames::to(method).header("grpc-encoding", "br").message(1, length, &good),
            Frames::to(method).message(1, length, &good),
        ] {
            let code = frames.clone().send(broker.grpc()).await.code();
            assert!(matches!(code, Code::InvalidArgument | Code::Unimplemented), "{frames:?}: {code:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_unimplemented() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for path in ["/broker.Broker/Delete", "/broker.Other/Publish", "/broker.Broker/", "/x", "/broker.Broker/publish"] {
        let status = raw::unary(client.channel(), path, "").await.expect_err("unknown");
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    assert_eq!(client.publish_kept("s", "x").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_already_past_is_harmless() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut grpc = BrokerClient::new(client.channel());
    for turn in 0..100 {
        let publish = PublishRequest {
            subject: "s".to_owned(),
            body: "x".into(),
            expiration_seconds: 60,
            ..PublishRequest::default()
        };
        let mut request = Request::new(publish);
        request.set_timeout(Duration::from_nanos(turn % 2));
        // A publish may be faster than any deadline; what matters is that nothing else comes.
        if let Err(status) = grpc.publish(request).await {
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
        }
    }
    // By a header of our own, so that it is the server that decides.
    let message = PublishRequest {
        subject: "t".to_owned(),
        body: "x".into(),
        expiration_seconds: 60,
        ..PublishRequest::default()
    }
    .encode_to_vec();
    for timeout in ["0n", "00000000H", "0S"] {
        let frames = Frames::to(PUBLISH).header("grpc-timeout", timeout).message(0, message.len() as u32, &message);
        assert_eq!(frames.send(broker.grpc()).await.code(), Code::DeadlineExceeded, "{timeout}");
    }
    assert_eq!(client.publish_kept("t", "the first").await, 1, "what was past its deadline was not begun");
    let mut subscription = client.subscribe("s").await;
    let id = client.publish_kept("s", "after").await;
    assert_eq!(subscription.next().await.id, id);
    // Ids stay dense, whichever of the calls above were carried out.
    for earlier in 1..id {
        assert_eq!(client.fetch_body("s", earlier).await, "x");
    }
}

/// A few hundred random messages: whatever the answer is, it blames the client.
#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_make_the_broker_answer_unknown_or_internal() {
    let seed: u64 =
        std::env::var("WALCAST_FUZZ_SEED").ok().map_or_else(rand::random, |seed| seed.parse().expect("u64"));
    println!("WALCAST_FUZZ_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let broker = Broker::start().await;
    let client = broker.client().await;
    let samples = [
        PublishRequest {
            subject: "s".to_owned(),
            body: vec![0xff; 40].into(),
            expiration_seconds: 60,
            ..PublishRequest::default()
        }
        .encode_to_vec(),
        FetchRequest { subject: "größe".to_owned(), id: 1 }.encode_to_vec(),
        SubscribeRequest { subject: "s".to_owned(), after_id: Some(1) }.encode_to_vec(),
    ];
    for turn in 0..300 {
        let mut message = if turn % 3 == 0 {
            let mut noise = vec![0; random.random_range(0..64)];
            random.fill_bytes(&mut noise);
            noise
        } else {
            samples[turn % samples.len()].clone()
        };
        for _ in 0..random.random_range(0..4) {
            if !message.is_empty() {
                let at = random.random_range(0..message.len());
                message[at] = random.random();
            }
        }
        for method in UNARY {
            if let Err(status) = raw::unary(client.channel(), method, message.clone()).await {
                assert_eq!(status.code(), Code::InvalidArgument, "{method} {message:x?}: {status:?}");
            }
        }
    }
    client.publish_kept("still here", "x").await;
    broker.stop().await;
}
