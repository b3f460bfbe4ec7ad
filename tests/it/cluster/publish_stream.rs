//! One `PublishStream` with subjects of several owners.

use std::collections::HashMap;

use tonic::{Code, Request};
use walcast::cluster::LayoutVersion;
use walcast::forward::{MARKER, Marker};
use walcast::proto::client::PublishRequest;

use super::{setups, three};
use crate::support::nodes::{NODES, first_of, start_all, subject_of};
use crate::support::publish_stream::{Answer, Answers, PublishStream, request};
use crate::support::{Broker, Client, Setup, body_of, error_reason, eventually, random_bytes};

const ANSWERED: &str = r#"walcast_forwarded_calls_total{method="PublishStream",result="answered"}"#;

fn keyed(subject: &str, body: &'static str, key: &str) -> PublishRequest {
    PublishRequest { idempotency_key: key.to_owned(), ..request(subject, body, 60) }
}

async fn publish_all(client: &Client, requests: Vec<PublishRequest>) -> Vec<Answer> {
    let (answers, end) = client.publish_all(requests.into_iter()).await.expect("it begins").drain().await;
    assert!(end.is_none(), "{end:?}");
    answers
}

async fn ends_with(broker: &Broker, status: &str) {
    let name = format!("method_count{{method=\"PublishStream\",status=\"{status}\"}}");
    eventually(&name, || async { (broker.metric(&name).await > 0.0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_three_owners_are_dense_and_answers_in_the_order_of_the_requests() {
    const MESSAGES: usize = 10_000;
    let nodes = three().await;
    // Two subjects of each node, and no node's turn is foreseeable.
    let subjects: Vec<_> = (0..6).map(|at| subject_of(at % NODES.len(), 50 + at)).collect();
    let order = random_bytes(7, MESSAGES);
    let mut last = HashMap::<&str, i32>::new();
    let mut expected = Vec::new();
    let mut requests = Vec::new();
    for turn in &order {
        let subject = &subjects[usize::from(*turn) % subjects.len()];
        let id = last.entry(subject).or_default();
        *id += 1;
        expected.push(Ok(*id));
        requests.push(request(subject, body_of(subject, *id as u64), 600));
    }
    let answers = publish_all(&nodes[0].client().await, requests).await;
    assert!(answers == expected, "{:?}", answers.iter().zip(&expected).find(|(answer, expected)| answer != expected));
    for (at, node) in nodes.iter().enumerate() {
        let client = node.client().await;
        let mut published = 0;
        for subject in subjects.iter().skip(at).step_by(NODES.len()) {
            let mut all = client.resume(subject, 0).await;
            for id in 1..=last[subject.as_str()] {
                let message = all.next().await;
                assert_eq!((message.id, message.body), (id, body_of(subject, id as u64)));
            }
            published += last[subject.as_str()];
        }
        assert_eq!(node.metric("walcast_position{position=\"durable\"}").await, f64::from(published), "node {at}");
        assert_eq!(node.metric("walcast_stream_publishes_total").await, f64::from(published), "counted by its owner");
        ends_with(node, "OK").await;
    }
    eventually("both streams have ended", || async { (nodes[0].metric(ANSWERED).await == 2.0).then_some(()) }).await;
    for node in &nodes {
        assert_eq!(node.metric("walcast_forwarded_in_flight").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_while_the_stream_stays_open() {
    let nodes = three().await;
    // Of the first, which also ends first: one that lives longer would say that the owner of its stream is gone.
    let mut stream = nodes[0].client().await.publish_stream().await;
    for id in 1..=20 {
        for owner in 0..NODES.len() {
            stream.send(&subject_of(owner, 21), "x", 60).await;
            assert_eq!(stream.answers.next().await, Ok(id));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_refuses_is_answered_in_its_place_as_the_owner_says_it() {
    let mut setups = setups();
    setups[1] = setups[1].clone().set("limits.subjects", "1");
    let nodes = start_all(setups).await;
    let (subject, other) = (subject_of(1, 22), subject_of(2, 22));
    let invalid = first_of(1, (0..).map(|at| format!("a\nb{at}")));
    let too_many = subject_of(1, 23);
    let requests = |key: &str| {
        vec![
            keyed(&subject, "body", key),
            request(&other, "x", 60),
            request(&invalid, "x", 60),
            request(&subject, "x", -1),
            keyed(&subject, "another", key),
            request(&other, "x", 60),
            keyed(&subject, "x", "a\nb"),
            request(&subject, vec![0; 1024 * 1024 + 1], 60),
            request(&too_many, "x", 60),
            request(&subject, "x", 60),
        ]
    };
    let reasons = [
        "",
        "",
        "INVALID_SUBJECT",
        "INVALID_EXPIRATION",
        "IDEMPOTENCY_KEY_TAKEN",
        "",
        "INVALID_IDEMPOTENCY_KEY",
        "BODY_TOO_LARGE",
        "TOO_MANY_SUBJECTS",
        "",
    ];
    let direct = publish_all(&nodes[1].client().await, requests("k")).await;
    let passed_on = publish_all(&nodes[0].client().await, requests("k")).await;
    for (at, reason) in reasons.into_iter().enumerate() {
        match (&direct[at], &passed_on[at]) {
            (Ok(_), Ok(_)) => assert_eq!(reason, "", "{at}"),
            (Err(direct), Err(passed_on)) => assert_eq!((direct, &*direct.reason), (passed_on, reason), "{at}"),
            differ => panic!("{at}: {differ:?}"),
        }
    }
    let ids =
        |answers: &[Answer]| answers.iter().filter_map(|answer| answer.as_ref().ok().copied()).collect::<Vec<_>>();
    assert_eq!((ids(&direct), ids(&passed_on)), (vec![1, 1, 2, 2], vec![1, 3, 4, 3]), "a key is the owner's to know");
    let rejected = r#"walcast_publishes_rejected_total{reason="invalid"}"#;
    let counted = (nodes[0].metric(rejected).await, nodes[1].metric(rejected).await);
    assert_eq!(counted, (0.0, 6.0), "by who refuses");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_and_metadata_go_over_the_hop() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let nodes = three().await;
    let client = nodes[0].client().await;
    let subject = subject_of(2, 24);
    let bodies: Vec<_> = (0..8).map(|seed| random_bytes(seed, 1024 * 1024 - seed as usize)).collect();
    let requests: Vec<_> = bodies.iter().map(|body| request(&subject, body.clone(), 60)).collect();
    let mut traced = Request::new(tokio_stream::iter(requests));
    traced.metadata_mut().insert("traceparent", TRACE.parse().expect("ASCII"));
    let mut answers = client.grpc().publish_stream(traced).await.expect("it begins").into_inner();
    for (body, id) in bodies.iter().zip(1..) {
        assert_eq!(answers.message().await.expect("an answer").expect("not the end").id, id);
        let message = nodes[2].client().await.fetch(&subject, id).await.expect("there");
        assert_eq!((&message.body, &*message.traceparent), (body, TRACE));
    }
}

async fn marked(client: &Client, marker: &Marker, subjects: &[String]) -> (Vec<Answer>, Option<tonic::Status>) {
    let requests: Vec<_> = subjects.iter().map(|subject| request(subject, "x", 60)).collect();
    let mut marked = Request::new(tokio_stream::iter(requests));
    marked.metadata_mut().insert(MARKER, marker.to_string().parse().expect("ASCII"));
    match client.grpc().publish_stream(marked).await {
        Ok(answers) => Answers::of(answers.into_inner()).drain().await,
        Err(status) => (Vec::new(), Some(status)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_over_one_hop_only() {
    let nodes = three().await;
    let client = nodes[0].client().await;
    let status: serde_json::Value = nodes[0].get("/status").await.expect("it answers").json();
    let digest = u64::from_str_radix(status["cluster"]["digest"].as_str().expect("a digest"), 16).expect("hexadecimal");
    let subjects = [subject_of(0, 25), subject_of(1, 25), subject_of(0, 25)];
    let by = |version: u64, digest| Marker {
        node: "n2".to_owned(),
        version: LayoutVersion { configured: version, moves: 0 },
        digest,
    };
    let (answers, end) = marked(&client, &by(7, 0), &subjects).await;
    assert!(end.is_none(), "{end:?}");
    let [Ok(1), Err(refused), Ok(2)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((refused.code, &*refused.reason), (Code::Unavailable as i32, "NOT_OWNER"));
    assert_eq!(refused.retry_after_ms, 5_000);
    let said = |name: &str| refused.metadata[name].as_str();
    let versions = (said("layout_version"), said("forwarded_layout_version"), said("forwarded_by"), said("owner"));
    assert_eq!(versions, ("1", "7", "n2", "n1"));
    let rejected = r#"walcast_publishes_rejected_total{reason="not_owner"}"#;
    assert_eq!(nodes[0].metric(rejected).await, 1.0);
    let misdirected = r#"walcast_forwarded_refused_total{reason="not_owner"}"#;
    assert_eq!(nodes[0].metric(misdirected).await, 1.0);
    let (answers, end) = marked(&client, &by(1, digest ^ 1), &subjects).await;
    assert!(answers.is_empty());
    assert_eq!(error_reason(&end.expect("another layout 1")), "LAYOUTS_DIFFER");
    let alone = Broker::start().await;
    let (answers, end) = marked(&alone.client().await, &by(1, digest), &subjects).await;
    assert!(answers.is_empty());
    assert_eq!(error_reason(&end.expect("in no cluster")), "NOT_IN_A_CLUSTER");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_with_another_layout_refuses_the_messages_and_not_the_stream() {
    let mut setups = setups();
    setups[1] = setups[1].clone().set("cluster.slots", "n0=0-340,n1=341-682,n2=683-1023");
    let nodes = start_all(setups).await;
    let requests = [1, 0, 1, 2].map(|owner| request(&subject_of(owner, 26), "x", 60)).to_vec();
    let answers = publish_all(&nodes[0].client().await, requests).await;
    let reasons: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_err(|error| &*error.reason)).collect();
    assert_eq!(reasons, [Err("LAYOUTS_DIFFER"), Ok(&1), Err("LAYOUTS_DIFFER"), Ok(&1)]);
}

/// Two streams that both have a message for n1.
async fn two_streams(nodes: &[Broker], subject: &str) -> [PublishStream; 2] {
    let client = nodes[0].client().await;
    let mut first = client.publish_stream().await;
    first.send(subject, "x", 60).await;
    assert_eq!(first.answers.next().await, Ok(1));
    [first, client.publish_stream().await]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_a_call_and_one_too_many_refuses_its_messages_until_there_is_a_place() {
    let mut setups = setups();
    setups[0] = setups[0].clone().set("limits.forward_calls", "1");
    let nodes = start_all(setups).await;
    let (other, own) = (subject_of(1, 27), subject_of(0, 27));
    let [first, mut second] = two_streams(&nodes, &other).await;
    second.send(&own, "x", 60).await;
    second.send(&other, "x", 60).await;
    second.send(&own, "x", 60).await;
    assert_eq!(second.answers.next().await, Ok(1));
    let busy = second.answers.next().await.expect_err("the first stream is the one call");
    assert_eq!((busy.code, &*busy.reason, busy.retry_after_ms), (Code::ResourceExhausted as i32, "OWNER_BUSY", 100));
    assert_eq!(second.answers.next().await, Ok(2));
    assert_eq!(nodes[0].metric(r#"walcast_forwarded_calls_total{method="PublishStream",result="busy"}"#).await, 1.0);
    drop(first);
    let mut refused = 0;
    let id = loop {
        second.send(&other, "x", 60).await;
        match second.answers.next().await {
            Ok(id) => break id,
            Err(error) => assert_eq!(error.reason, "OWNER_BUSY"),
        }
        refused += 1;
        assert!(refused < 1_000, "the place of the first stream is free");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_wait_for_room_on_the_way_to_an_owner_and_calls_find_some() {
    const EACH: usize = 40;
    let mut setups = setups();
    setups[0] = setups[0].clone().set("limits.forward_bytes", "1MiB");
    let nodes = start_all(setups).await;
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..6 {
        let (client, subject) = (nodes[0].client().await, subject_of(1, 30 + number));
        let requests = std::iter::repeat_n(request(&subject, random_bytes(1, 200_000), 60), EACH);
        streams.spawn(async move { client.publish_all(requests).await.expect("it begins").next_ids(EACH).await });
    }
    let (client, subject) = (nodes[0].client().await, subject_of(1, 29));
    for id in 1..=50 {
        assert_eq!(client.publish_kept(&subject, "x").await, id, "streams leave room to calls");
    }
    for ids in streams.join_all().await {
        assert_eq!(ids, (1..=EACH as i32).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_takes_as_many_streams_of_others_as_they_take_of_clients() {
    let setups: Vec<Setup> = setups().into_iter().map(|setup| setup.set("limits.publish_streams", "2")).collect();
    let nodes = start_all(setups).await;
    let subject = subject_of(1, 28);
    let mut streams = Vec::new();
    for (node, id) in [0, 0, 1, 1, 2, 2].into_iter().zip(1..) {
        let mut stream = nodes[node].client().await.publish_stream().await;
        stream.send(&subject, "x", 60).await;
        assert_eq!(stream.answers.next().await, Ok(id));
        streams.push(stream);
    }
    for node in &nodes {
        let refused = node.client().await.try_publish_stream().await.expect_err("a third one of a client");
        assert_eq!(error_reason(&refused), "TOO_MANY_PUBLISH_STREAMS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    // What is left would be for a silent owner's time: longer than this test waits.
    let setups = setups().into_iter().map(|setup| setup.set("cluster.owner_timeout", "5m")).collect();
    let nodes = start_all(setups).await;
    let client = nodes[0].client().await;
    let subjects: Vec<_> = (0..3).map(|owner| subject_of(owner, 40)).collect();
    for _ in 0..10 {
        let mut stream = client.publish_stream().await;
        for number in 0..30 {
            stream.send(&subjects[number % 3], "x", 60).await;
        }
        stream.answers.next().await.expect("an id");
        // Dropped: the call is cancelled, and its connection goes on.
    }
    for node in &nodes {
        for name in ["walcast_publish_streams", "walcast_forwarded_in_flight", "walcast_stream_queue_bytes"] {
            eventually(name, || async { (node.metric(name).await == 0.0).then_some(()) }).await;
        }
    }
    let mut ended = HashMap::<&str, f64>::new();
    for status in ["OK", "CANCELLED", "UNKNOWN", "INTERNAL"] {
        let name = format!("method_count{{method=\"PublishStream\",status=\"{status}\"}}");
        ended.insert(status, nodes[1].metric(&name).await);
    }
    assert_eq!(ended["OK"] + ended["CANCELLED"], 10.0, "{ended:?}");
    for (owner, subject) in subjects.iter().enumerate() {
        let next = client.publish_kept(subject, "x").await;
        let mut all = nodes[owner].client().await.resume(subject, 0).await;
        assert_eq!(all.next_ids(next as usize).await, (1..=next).collect::<Vec<_>>(), "dense, whoever has gone");
    }
}
