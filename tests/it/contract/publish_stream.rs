//! PublishStream: answers in order, refusals in their place, and how a stream ends.

use bytes::Bytes;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;
use walcast::proto::client::{FetchRequest, PublishRequest};

use crate::support::publish_stream::request;
use crate::support::{Broker, Setup, body_of, broker_on_a_small_disk, error_reason, eventually, random_bytes, raw};

const PATH: &str = "/broker.Broker/PublishStream";
const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_order_of_the_requests_and_so_do_the_ids() {
    const MESSAGES: usize = 30_000;
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut subscription = client.subscribe("subject-1").await;
    let requests = (0..MESSAGES).map(|number| {
        let subject = format!("subject-{}", number % 3);
        let body = body_of(&subject, (number / 3 + 1) as u64);
        request(&subject, body, 60)
    });
    let mut answers = client.publish_all(requests).await.expect("it begins");
    let ids = answers.next_ids(MESSAGES).await;
    assert_eq!(ids, (0..MESSAGES).map(|number| (number / 3 + 1) as i32).collect::<Vec<_>>());
    assert_eq!(answers.try_next().await.expect("OK"), None, "the client has closed its side");
    for id in 1..=MESSAGES / 3 {
        let message = subscription.next().await;
        assert_eq!((message.id, message.body), (id as i32, body_of("subject-1", id as u64)));
    }
    assert_eq!(client.fetch_body("subject-2", 10_000).await, body_of("subject-2", 10_000));
    assert_eq!(broker.metric("walcast_stream_publishes_total").await, MESSAGES as f64);
    eventually("no stream", || async { (broker.metric("walcast_publish_streams").await == 0.0).then_some(()) }).await;
    let ended = r#"method_count{method="PublishStream",status="OK"}"#;
    assert_eq!(broker.metric(ended).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_while_the_stream_stays_open_and_shares_its_connection() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut stream = client.publish_stream().await;
    for id in 1..=20 {
        stream.send("s", "x", 60).await;
        assert_eq!(stream.answers.next().await, Ok(2 * id - 1));
        assert_eq!(client.publish_kept("s", "y").await, 2 * id, "read your own write");
    }
    drop(stream.requests);
    assert_eq!(stream.answers.drain().await.1.map(|status| status.code()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_requests_are_answered_in_their_place_and_take_no_id() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let requests = [
        (request("s", "first", 60), ""),
        (request("", "x", 60), "INVALID_SUBJECT"),
        (request("s\n", "x", 60), "INVALID_SUBJECT"),
        (request("s", "x", -1), "INVALID_EXPIRATION"),
        (request("s", "second", 60), ""),
        (request("s", random_bytes(1, MIB + 1), 60), "BODY_TOO_LARGE"),
        (request("s", random_bytes(1, MIB), 60), ""),
        (request("s", "", 0), ""),
    ];
    let sent = requests.clone().map(|(request, _)| request).into_iter();
    let (answers, end) = client.publish_all(sent).await.expect("it begins").drain().await;
    assert!(end.is_none(), "{end:?}");
    let mut next = 1;
    for ((request, reason), answer) in requests.into_iter().zip(answers) {
        let error = match answer {
            Ok(id) => {
                assert_eq!((id, reason), (next, ""));
                next += 1;
                continue;
            }
            Err(error) => error,
        };
        let status = client.publish(&request.subject, request.body, request.expiration_seconds).await;
        let status = status.expect_err("alone it is refused, too");
        assert_eq!((error.code, error.message.as_str()), (status.code() as i32, status.message()));
        let info = status.get_details_error_info().expect("details");
        assert_eq!((error.reason.as_str(), info.reason.as_str()), (reason, reason));
        assert_eq!((error.metadata, error.retry_after_ms), (info.metadata, 0));
    }
    assert_eq!(next, 5, "as many were published");
    assert_eq!(client.publish_kept("s", "x").await, 5);
    let rejected = r#"walcast_publishes_rejected_total{reason="invalid"}"#;
    assert_eq!(broker.metric(rejected).await, 6.0, "in the stream and alone");
}

/// A request with an idempotency key.
fn keyed(subject: &str, body: &'static str, key: &str) -> PublishRequest {
    PublishRequest { idempotency_key: key.to_owned(), ..request(subject, body, 60) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_in_a_stream_gets_the_id_of_the_first_and_another_body_is_refused_in_its_place() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let requests = || {
        [
            keyed("s", "one", "k1"),
            request("s", "no key", 60),
            keyed("s", "one", "k1"),
            keyed("s", "two", "k2"),
            keyed("s", "another", "k1"),
            keyed("t", "one", "k1"),
            keyed("s", "one", "a\nb"),
        ]
    };
    // In one batch or in several, on one stream and on the next: the same.
    for ids in [[1, 2, 1, 3, 0, 1, 0], [1, 4, 1, 3, 0, 1, 0]] {
        let (answers, end) = client.publish_all(requests().into_iter()).await.expect("it begins").drain().await;
        assert!(end.is_none(), "{end:?}");
        let given: Vec<i32> = answers.iter().map(|answer| *answer.as_ref().unwrap_or(&0)).collect();
        assert_eq!(given, ids, "{answers:?}");
        let [taken, invalid] = [4, 6].map(|at: usize| answers[at].clone().expect_err("refused"));
        assert_eq!((taken.code, &*taken.reason), (Code::AlreadyExists as i32, "IDEMPOTENCY_KEY_TAKEN"));
        assert_eq!(taken.metadata["id"], "1");
        assert_eq!(invalid.reason, "INVALID_IDEMPOTENCY_KEY");
    }
    let alone = client.grpc().publish(keyed("s", "two", "k2")).await.expect("a retry of a message of a stream");
    assert_eq!(alone.get_ref().id, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_a_stream_gives_its_messages_a_traceparent_and_no_key() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let broker = Broker::start().await;
    let client = broker.client().await;
    let mut grpc = client.grpc();
    let mut traced = tonic::Request::new(tokio_stream::iter([request("s", "x", 60), request("s", "y", 60)]));
    traced.metadata_mut().insert("traceparent", TRACE.parse().expect("metadata"));
    let mut answers = grpc.publish_stream(traced).await.expect("it begins").into_inner();
    for id in 1..=2 {
        assert_eq!(answers.message().await.expect("an answer").expect("not the end").id, id);
        let fetched = grpc.fetch(FetchRequest { subject: "s".to_owned(), id }).await.expect("there").into_inner();
        assert_eq!(fetched.traceparent, TRACE);
    }
    let mut keyed = tonic::Request::new(tokio_stream::iter([request("s", "x", 60)]));
    keyed.metadata_mut().insert("idempotency-key", "k".parse().expect("metadata"));
    let refused = grpc.publish_stream(keyed).await.expect_err("one key for all messages");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(error_reason(&refused), "INVALID_IDEMPOTENCY_KEY");
    assert_eq!(client.publish_kept("s", "z").await, 3, "nothing of it was published");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refusals_between_good_requests_are_answered_in_order() {
    const REQUESTS: usize = 20_000;
    let broker = Broker::start().await;
    let client = broker.client().await;
    let is_good = |number: usize| !(number / 100).is_multiple_of(3) && !number.is_multiple_of(7);
    let requests = (0..REQUESTS).map(move |number| request(if is_good(number) { "s" } else { "" }, "x", 0));
    let (answers, end) = client.publish_all(requests).await.expect("it begins").drain().await;
    assert!(end.is_none() && answers.len() == REQUESTS, "{end:?}");
    let mut id = 0;
    for (number, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(given) => {
                id += 1;
                assert!(is_good(number) && given == id, "{number}");
            }
            Err(error) => assert!(!is_good(number) && error.reason == "INVALID_SUBJECT", "{number}: {error:?}"),
        }
    }
}

fn encoded(subject: &str, body: impl Into<Bytes>) -> Bytes {
    request(subject, body, 60).encode_to_vec().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_end_the_stream_after_the_answers_before_them() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let messages = vec![encoded("s", "a"), encoded("s", "b"), Bytes::from_static(b"\x0a\x05abc"), encoded("s", "c")];
    let (answers, end) = raw::bidirectional(client.channel(), PATH, messages).await;
    assert_eq!(answers.len(), 2, "{answers:x?}");
    let status = end.expect("it does not go on");
    assert_eq!((status.code(), error_reason(&status).as_str()), (Code::InvalidArgument, "MALFORMED_REQUEST"));
    assert_eq!(client.publish_kept("s", "x").await, 3, "nothing after them was published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_transports_limit_ends_the_stream_as_too_large() {
    let broker = Broker::start().await;
    let client = broker.client().await;
    for length in [MIB + 100_000, 5 * MIB] {
        let messages = vec![encoded("s", "a"), encoded("s", vec![0; length])];
        let (answers, end) = raw::bidirectional(client.channel(), PATH, messages).await;
        assert_eq!(answers.len(), 1);
        let status = end.expect("it does not go on");
        assert_eq!((status.code(), error_reason(&status).as_str()), (Code::ResourceExhausted, "BODY_TOO_LARGE"));
        // The same connection goes on.
        client.publish_kept("after", "x").await;
    }
    assert_eq!(client.publish_kept("s", "x").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_more_than_the_bound_of_unfinished_requests_goes_on_and_an_unfinished_one_counts() {
    let broker = Setup::new().set("limits.request_bytes", "2MiB").start().await;
    let client = broker.client().await;
    let bodies: Vec<_> = (0..20).map(|seed| random_bytes(seed, 700_000)).collect();
    let requests = bodies.clone().into_iter().map(|body| request("s", body, 60));
    let ids = client.publish_all(requests).await.expect("it begins").next_ids(20).await;
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
    assert!(client.fetch_body("s", 20).await == bodies[19]);
    // The headers have come by the time a stream is refused, so only the end tells.
    let calls = raw::unfinished(broker.grpc(), PATH, 1_000_000, 300_000, 20).await;
    let refused: Vec<_> = calls.into_iter().flatten().filter(|status| status.code() != Code::Ok).collect();
    assert!((13..=16).contains(&refused.len()), "{} of 20 are refused", refused.len());
    assert!(refused.iter().all(|status| error_reason(status) == "TOO_MANY_REQUEST_BYTES"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_publish_at_once_and_one_too_many_is_told_to_come_back() {
    const STREAMS: usize = 1_000;
    let broker = Setup::new().set("limits.publish_streams", "1000").start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(broker.client().await);
    }
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        streams.push(clients[number % clients.len()].publish_stream().await);
    }
    let refused = clients[0].try_publish_stream().await.expect_err("one too many");
    assert_eq!(
        (refused.code(), error_reason(&refused).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_PUBLISH_STREAMS")
    );
    assert!(refused.get_details_retry_info().is_some());
    let mut tasks = JoinSet::new();
    for (number, mut stream) in streams.into_iter().enumerate() {
        tasks.spawn(async move {
            let subject = format!("of-{number}");
            for message in 1..=20 {
                stream.send(&subject, body_of(&subject, message), 60).await;
            }
            assert_eq!(stream.answers.next_ids(20).await, (1..=20).collect::<Vec<_>>());
            drop(stream.requests);
            assert!(stream.answers.drain().await.1.is_none());
        });
    }
    tasks.join_all().await;
    assert_eq!(clients[3].fetch_body("of-777", 20).await, body_of("of-777", 20));
    eventually("no stream", || async { (broker.metric("walcast_publish_streams").await == 0.0).then_some(()) }).await;
    clients[0].publish_stream().await;
}

/// The disk fills up under an open stream, and is emptied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_the_messages_and_not_the_stream() {
    let (_disk, broker, ballast) = broker_on_a_small_disk().await;
    let client = broker.client().await;
    let mut stream = client.publish_stream().await;
    let body = random_bytes(1, 60 * 1024);
    let mut last = 0;
    std::fs::write(&ballast, vec![1; 64 << 20]).expect_err("the disk is full");
    let error = loop {
        stream.send("s", body.clone(), 3_600).await;
        match stream.answers.next().await {
            Ok(id) => {
                assert_eq!(id, last + 1);
                last = id;
            }
            Err(error) => break error,
        }
    };
    assert_eq!((error.code, error.reason.as_str()), (Code::ResourceExhausted as i32, "LOG_FULL"));
    assert!(error.retry_after_ms > 0, "{error:?}");
    std::fs::remove_file(&ballast).expect("removed");
    let next = loop {
        stream.send("s", body.clone(), 3_600).await;
        match stream.answers.next().await {
            Ok(id) => break id,
            Err(error) => assert_eq!(error.reason, "LOG_FULL"),
        }
    };
    assert_eq!(next, last + 1, "refused messages took no id");
}
