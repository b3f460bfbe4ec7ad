//! Calls that reach a node which is not the owner of their subject.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use walcast::cluster::LayoutVersion;
use walcast::forward::{MARKER, Marker};
use walcast::proto::client::{FetchRequest, PublishRequest};

use super::{UNREACHABLE, clients, setups, three};
use crate::support::nodes::{NODES, start_all, subject_of};
use crate::support::{Broker, error_reason, eventually, random_bytes};

fn request(subject: &str, body: &str) -> Request<PublishRequest> {
    let (subject, body) = (subject.to_owned(), body.to_owned().into());
    Request::new(PublishRequest { subject, body, expiration_seconds: 600, ..PublishRequest::default() })
}

fn with_key(subject: &str, body: &str, key: &str) -> Request<PublishRequest> {
    let mut request = request(subject, body);
    request.metadata_mut().insert("idempotency-key", key.parse().expect("ASCII"));
    request
}

fn said(status: &Status) -> (Code, String) {
    (status.code(), error_reason(status))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_any_publish_and_fetch() {
    let nodes = three().await;
    let clients = clients(&nodes).await;
    for owner in 0..NODES.len() {
        let subject = subject_of(owner, 1);
        for id in 1..=9 {
            let client = &clients[id as usize % clients.len()];
            assert_eq!(client.publish_kept(&subject, format!("body {id}")).await, id, "dense, whoever takes it");
        }
        for client in &clients {
            for id in 1..=9 {
                let message = client.fetch(&subject, id).await.expect("kept");
                assert_eq!(
                    (message.id, message.subject, message.body),
                    (id, subject.clone(), format!("body {id}").into())
                );
            }
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        assert_eq!(node.metric("walcast_position{position=\"durable\"}").await, 9.0, "node {at} has its own only");
        let forwarded = node.metric("walcast_forwarded_calls_total{method=\"Publish\",result=\"answered\"}").await;
        assert_eq!(forwarded, 6.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_refusals_come_back_as_they_are() {
    let nodes = three().await;
    let clients = clients(&nodes).await;
    let subject = subject_of(1, 2);
    clients[1].publish(&subject, "gone", 0).await.expect("published");
    let large = "x".repeat(1024 * 1024 + 1);
    let mut answers = Vec::new();
    for client in &clients {
        answers.push([
            client.fetch(&subject, 1).await.expect_err("fire and forget"),
            client.fetch(&subject, 2).await.expect_err("never published"),
            client.fetch(&subject, -1).await.expect_err("no id"),
            client.publish(&subject, "body", -1).await.expect_err("negative"),
            client.publish(&subject, large.clone(), 1).await.expect_err("too large"),
        ]);
    }
    let of = |status: &Status| (status.code(), status.message().to_owned(), error_reason(status));
    let owners: Vec<_> = answers[1].iter().map(of).collect();
    assert_eq!(owners[0].1, "message with id provided is expired");
    assert_eq!(owners[1].1, "message with id provided is not valid or never published");
    for answers in &answers {
        assert_eq!(answers.iter().map(of).collect::<Vec<_>>(), owners);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_large_bodies_go_over_the_hop() {
    let nodes = three().await;
    let clients = clients(&nodes).await;
    let subject = subject_of(2, 3);
    for client in &clients {
        assert_eq!(client.publish_request(with_key(&subject, "body", "key")).await.expect("published"), 1);
        let mut of_field = request(&subject, "body");
        of_field.get_mut().idempotency_key = "key".to_owned();
        assert_eq!(client.publish_request(of_field).await.expect("a retry"), 1);
        let taken = client.publish_request(with_key(&subject, "another", "key")).await.expect_err("another body");
        assert_eq!(said(&taken), (Code::AlreadyExists, "IDEMPOTENCY_KEY_TAKEN".to_owned()));
    }
    let body = random_bytes(7, 1024 * 1024);
    assert_eq!(clients[0].publish_kept(&subject, body.clone()).await, 2);
    assert_eq!(clients[1].fetch_body(&subject, 2).await, body);
}

/// The counter of calls that other nodes have passed on wrongly.
fn misdirected(reason: &str) -> String {
    format!("walcast_forwarded_refused_total{{reason=\"{reason}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_over_one_hop_only() {
    let nodes = three().await;
    let client = nodes[0].client().await;
    let status: serde_json::Value = nodes[0].get("/status").await.expect("it answers").json();
    let digest = u64::from_str_radix(status["cluster"]["digest"].as_str().expect("a digest"), 16).expect("hexadecimal");
    let marked = |subject: &str, version: u64, digest| {
        let mut request = request(subject, "body");
        let marker = Marker { node: "n2".to_owned(), version: LayoutVersion { configured: version, moves: 0 }, digest }
            .to_string();
        request.metadata_mut().insert(MARKER, marker.parse().expect("ASCII"));
        request
    };
    let own = client.publish_request(marked(&subject_of(0, 4), 1, digest)).await;
    assert_eq!(own.expect("its owner takes it"), 1);
    let own = client.publish_request(marked(&subject_of(0, 4), 7, 0)).await;
    assert_eq!(own.expect("an owner knows what it owns, whatever version the other has"), 2);
    let refused = client.publish_request(marked(&subject_of(1, 4), 7, 0)).await.expect_err("not the owner");
    // A new layout is given to one node after the other: it will pass.
    assert_eq!(said(&refused), (Code::Unavailable, "NOT_OWNER".to_owned()));
    let retry = refused.get_details_retry_info().and_then(|retry| retry.retry_delay);
    assert_eq!(retry, Some(Duration::from_secs(5)));
    let metadata = refused.get_details_error_info().expect("details").metadata;
    let versions = (&*metadata["layout_version"], &*metadata["forwarded_layout_version"], &*metadata["forwarded_by"]);
    assert_eq!((versions, &*metadata["owner"]), (("1", "7", "n2"), "n1"));
    for subject in [subject_of(0, 4), subject_of(1, 4)] {
        let refused = client.publish_request(marked(&subject, 1, digest ^ 1)).await.expect_err("another layout 1");
        assert_eq!(said(&refused), (Code::FailedPrecondition, "LAYOUTS_DIFFER".to_owned()));
    }
    let fetched = FetchRequest { subject: subject_of(1, 4), id: 1 };
    let mut fetched = Request::new(fetched);
    fetched.metadata_mut().insert(MARKER, format!("n2;7;{digest:016x}").parse().expect("ASCII"));
    let refused = client.grpc().fetch(fetched).await.expect_err("not the owner of this either");
    assert_eq!(said(&refused).1, "NOT_OWNER");
    for (reason, count) in [("not_owner", 2.0), ("layouts_differ", 2.0), ("not_in_a_cluster", 0.0)] {
        assert_eq!(nodes[0].metric(&misdirected(reason)).await, count, "{reason}");
    }
    let alone = Broker::start().await;
    let refused = alone.client().await.publish_request(marked("s", 1, digest)).await.expect_err("in no cluster");
    assert_eq!(said(&refused), (Code::FailedPrecondition, "NOT_IN_A_CLUSTER".to_owned()));
    assert_eq!(alone.metric(&misdirected("not_in_a_cluster")).await, 1.0);
    assert_eq!(alone.metric("walcast_position{position=\"durable\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_owner_makes_its_own_subjects_unavailable_and_nothing_else() {
    let mut setups = setups();
    setups[0] = setups[0].clone().expect_log(UNREACHABLE);
    let mut nodes = start_all(setups).await;
    let client = nodes[0].client().await;
    let (dead, alive, own) = (subject_of(1, 5), subject_of(2, 5), subject_of(0, 5));
    assert_eq!(client.publish_kept(&dead, "body").await, 1);
    let stopped = nodes.remove(1).kill_nine().await;
    for attempt in 1..=30 {
        let asked = Instant::now();
        let refused = client.publish(&dead, "body", 60).await.expect_err("its owner is dead");
        assert_eq!(said(&refused), (Code::Unavailable, "OWNER_UNAVAILABLE".to_owned()));
        assert_eq!(refused.message(), "service is unavailable");
        let retry = refused.get_details_retry_info().and_then(|retry| retry.retry_delay).expect("waiting helps");
        assert!(retry > Duration::ZERO && retry < Duration::from_secs(5), "{retry:?}");
        let refused = client.fetch(&dead, 1).await.expect_err("its owner is dead");
        assert_eq!(said(&refused), (Code::Unavailable, "OWNER_UNAVAILABLE".to_owned()));
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        for subject in [&alive, &own] {
            assert_eq!(client.publish_kept(subject, "body").await, attempt);
        }
    }
    assert_eq!(nodes[0].metric("walcast_nodes_unreachable").await, 1.0);
    assert_eq!(nodes[0].metric("walcast_publishes_rejected_total{reason=\"unavailable\"}").await, 30.0);
    let status: serde_json::Value = nodes[0].get("/status").await.expect("it answers").json();
    assert_eq!(
        (&status["cluster"]["nodes"][1]["unreachable"], &status["cluster"]["nodes"][2]["unreachable"]),
        (&true.into(), &false.into())
    );
    let back = stopped.start().await;
    let began = Instant::now();
    let id = eventually("the owner is back", || async { client.publish(&dead, "body", 60).await.ok() }).await;
    assert_eq!(id, 2, "what was refused was not published");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(nodes[0].metric("walcast_nodes_unreachable").await, 0.0);
    drop(back);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owner_holds_up_calls_to_it_only_and_not_for_long() {
    let mut setups = setups();
    setups[0] =
        setups[0].clone().set("limits.forward_calls", "4").set("cluster.owner_timeout", "3s").expect_log(UNREACHABLE);
    let nodes = start_all(setups).await;
    let client = nodes[0].client().await;
    let (frozen, alive) = (subject_of(1, 6), subject_of(2, 6));
    assert_eq!(client.publish_kept(&frozen, "body").await, 1);
    nodes[1].signal(Signal::STOP);
    let mut hurried = request(&frozen, "body");
    hurried.set_timeout(Duration::from_millis(100));
    let refused = client.publish_request(hurried).await.expect_err("frozen");
    assert!(matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled), "{refused}");
    eventually("the call is given up", || async {
        (nodes[0].metric("walcast_forwarded_in_flight").await == 0.0).then_some(())
    })
    .await;
    let asked = Instant::now();
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let (client, subject) = (client.clone(), frozen.clone());
            tokio::spawn(async move { client.publish(&subject, "body", 60).await.expect_err("frozen") })
        })
        .collect();
    for id in 1..=50 {
        let asked = Instant::now();
        assert_eq!(client.publish_kept(&alive, "body").await, id);
        assert!(asked.elapsed() < Duration::from_secs(2), "held up: {:?}", asked.elapsed());
    }
    let (mut busy, mut unavailable) = (0, 0);
    for refused in waiting {
        match said(&refused.await.expect("it ends")) {
            (Code::ResourceExhausted, reason) if reason == "OWNER_BUSY" => busy += 1,
            (Code::Unavailable, reason) if reason == "OWNER_UNAVAILABLE" => unavailable += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((busy, unavailable), (6, 4));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    nodes[1].signal(Signal::CONT);
    let next = eventually("the owner is back", || async { client.publish(&frozen, "body", 60).await.ok() }).await;
    // What reached it before it was given up may be there; nothing else is.
    assert!((2..=7).contains(&next), "{next}");
}
