//! Slots that move while nodes run.

use bytes::Bytes;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use walcast::proto::client::PublishRequest;
use walcast::proto::nodes::{self, nodes_client::NodesClient};

use super::{UNREACHABLE, clients, setups, three};
use crate::support::nodes::{move_command, start_all, subject_of};
use crate::support::{Broker, Setup, error_reason, eventually};

/// Moves slots: exit code, and what was said.
pub(super) fn move_slots(nodes: &[Broker], slots: &str, to: &str) -> (Option<i32>, String) {
    let output = move_command(nodes, slots, to).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

fn request(subject: &str, body: &'static str) -> Request<PublishRequest> {
    let body = Bytes::from_static(body.as_bytes());
    Request::new(PublishRequest {
        subject: subject.to_owned(),
        body,
        expiration_seconds: 3_600,
        ..PublishRequest::default()
    })
}

/// The slots that each node says are its own.
pub(super) async fn owned(nodes: &[Broker]) -> Vec<String> {
    let mut owned = Vec::new();
    for node in nodes {
        let status: serde_json::Value = node.get("/status").await.expect("it answers").json();
        let cluster = &status["cluster"];
        let all = cluster["nodes"].as_array().expect("nodes");
        let own = all.iter().find(|other| other["name"] == cluster["node"]).expect("itself");
        owned.push(own["slots"].as_str().expect("slots").to_owned());
    }
    owned
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_move_with_everything_that_is_known_of_them() {
    let nodes = three().await;
    let clients = clients(&nodes).await;
    let subject = subject_of(0, 40);
    let stays = subject_of(1, 40);
    for id in 1..=300 {
        assert_eq!(clients[0].publish_kept(&subject, format!("body {id}")).await, id);
    }
    let keyed = |body: &'static str| {
        let mut request = request(&subject, body);
        request.metadata_mut().insert("idempotency-key", "once".parse().expect("ASCII"));
        request
    };
    assert_eq!(clients[1].publish_request(keyed("keyed")).await.expect("published"), 301);
    clients[0].publish_kept(&stays, "stays").await;
    // Followed from everywhere, before and after.
    let mut followers = Vec::new();
    for client in &clients {
        followers.push(client.resume(&subject, 0).await);
    }
    let (code, said) = move_slots(&nodes, "0-341", "n2");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("slots 0-341 moved from n0 to n2: "), "{said}");
    assert_eq!(owned(&nodes).await, ["", "342-682", "0-341+683-1023"]);
    for client in &clients {
        // A node that does not know yet says so, and that it passes.
        let id = eventually("the move is known", || async { client.fetch(&subject, 300).await.ok() }).await.id;
        assert_eq!(id, 300);
        for id in [1, 150, 301] {
            assert_eq!(client.fetch(&subject, id).await.expect("there").id, id);
        }
    }
    assert_eq!(clients[0].publish_request(keyed("keyed")).await.expect("known"), 301, "the retry is known");
    let other = clients[2].publish_request(keyed("another")).await.expect_err("the key is taken");
    assert_eq!(other.code(), Code::AlreadyExists);
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(client.publish_kept(&subject, "after").await, 302 + number as i32, "ids go on");
    }
    // A stream ends with a word to come again, and goes on behind what it had.
    for (number, mut follower) in followers.into_iter().enumerate() {
        let (ids, end) = follower.drain().await;
        assert_eq!(ids, (1..=301).collect::<Vec<_>>());
        let status = end.expect("it ends with a status");
        assert_eq!((status.code(), error_reason(&status).as_str()), (Code::Unavailable, "SLOT_MOVED"), "{number}");
        let info = status.get_details_error_info().expect("details");
        assert_eq!(info.metadata["last_delivered_id"], "301");
        let mut again = clients[number].resume(&subject, 301).await;
        assert_eq!(again.next_ids(3).await, [302, 303, 304]);
    }
    assert_eq!(clients[0].publish_kept(&stays, "stays").await, 2);
    // A restart of all knows it.
    let mut setups = Vec::new();
    for node in nodes {
        setups.push(node.stop().await.setup().expect_log(UNREACHABLE));
    }
    // So does whoever compares a store with its log.
    for (setup, compared, elsewhere) in
        [(&setups[0], "0 messages of 301 records compared", true), (&setups[2], "304 messages of 30", false)]
    {
        let (code, said) = setup.tool(&["store", "check"]);
        assert!(code == Some(0) && said.contains(compared), "{said}");
        assert_eq!(said.contains("301 messages are of slots that other nodes own now"), elsewhere, "{said}");
    }
    let nodes = start_all(setups).await;
    assert_eq!(owned(&nodes).await, ["", "342-682", "0-341+683-1023"]);
    assert_eq!(nodes[0].client().await.publish_kept(&subject, "again").await, 305);
    // And back, where a part of it is still.
    let (code, said) = move_slots(&nodes, "0-341", "n0");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(owned(&nodes).await, ["0-341", "342-682", "683-1023"]);
    let client = nodes[0].client().await;
    assert_eq!(client.publish_kept(&subject, "home").await, 306);
    for id in 1..=306 {
        assert_eq!(client.fetch(&subject, id).await.expect("there").id, id);
    }
    assert_eq!(client.publish_request(keyed("keyed")).await.expect("known"), 301);
}

/// Settings with which a log gets short.
pub(super) fn short_log(setup: Setup) -> Setup {
    setup.set("log.segment_bytes", "64KiB").set("limits.body_bytes", "8KiB").set("log.keep_bytes", "0")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_no_longer_has_moves_too() {
    let nodes = start_all(setups().into_iter().map(short_log).collect()).await;
    let client = nodes[0].client().await;
    let (subject, other, quiet) = (subject_of(0, 41), subject_of(0, 42), subject_of(0, 43));
    let silent = subject_of(0, 48);
    assert_eq!(client.publish(&silent, "of which the mark alone is left", 0).await.expect("published"), 1);
    let mut first = request(&quiet, "said once");
    first.metadata_mut().insert("idempotency-key", "old".parse().expect("ASCII"));
    assert_eq!(client.publish_request(first).await.expect("published"), 1);
    assert_eq!(client.publish(&other, "nobody fetches it", 0).await.expect("published"), 1);
    for id in 1..=200 {
        assert_eq!(client.publish_kept(&subject, vec![id as u8; 4_096]).await, id);
    }
    nodes[0].all_projected().await;
    // What is written after a checkpoint trims.
    eventually("the log to be trimmed", || async {
        client.publish_kept(&other, vec![0; 4_096]).await;
        (nodes[0].position("trimmed").await > 100.0).then_some(())
    })
    .await;
    let last = client.publish_kept(&other, "last").await;
    let (code, said) = move_slots(&nodes, "0-341", "n1");
    assert_eq!(code, Some(0), "{said}");
    let client = nodes[1].client().await;
    for id in 1..=200 {
        assert_eq!(client.fetch_body(&subject, id).await, vec![id as u8; 4_096], "{id}");
    }
    assert_eq!(client.fetch_body(&quiet, 1).await, "said once");
    assert_eq!(error_reason(&client.fetch(&other, 1).await.expect_err("never kept")), "EXPIRED");
    assert_eq!(error_reason(&client.fetch(&silent, 1).await.expect_err("never kept")), "EXPIRED");
    assert_eq!(client.publish_kept(&silent, "more").await, 2);
    let mut again = request(&quiet, "said once");
    again.metadata_mut().insert("idempotency-key", "old".parse().expect("ASCII"));
    assert_eq!(client.publish_request(again).await.expect("known"), 1, "its record is in no log");
    assert_eq!(client.publish_kept(&quiet, "more").await, 2);
    assert_eq!(client.publish_kept(&other, "more").await, last + 1);
    let mut follower = client.resume(&subject, 0).await;
    assert_eq!(follower.next_ids(200).await, (1..=200).collect::<Vec<_>>());
    drop(follower);
    // And after it was killed: from its own log and store.
    let mut nodes = nodes;
    let taker = nodes.remove(1).kill_nine().await.setup().expect_log(UNREACHABLE).start().await;
    let client = taker.client().await;
    for id in 1..=200 {
        assert_eq!(client.fetch_body(&subject, id).await, vec![id as u8; 4_096], "{id}");
    }
    assert_eq!(client.publish_kept(&subject, "more").await, 201);
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_cannot_be_is_refused_and_changes_nothing() {
    let mut setups = setups();
    setups[2] = setups[2].clone().store("none");
    const UNLEARNT: &str = "what another node knows of slots that moved cannot be learnt";
    setups[0] = setups[0].clone().expect_log("slots did not move").expect_log(UNLEARNT);
    let nodes = start_all(setups).await;
    let refused = |slots: &str, to: &str, part: &str| {
        let (code, said) = move_slots(&nodes, slots, to);
        assert!(said.contains(part), "{slots} to {to}: {said}");
        code
    };
    assert_eq!(refused("0-9", "n7", "n7 is not in the layout"), Some(2));
    assert_eq!(refused("0-9", "n2", "this node has store.kind = none, and node n0 has embedded"), Some(1));
    assert_eq!(refused("700-709", "n2", "are of n2 already"), Some(0));
    assert_eq!(refused("1000-2000", "n1", "not a slot or a range"), Some(2));
    let (code, said) = move_slots(&nodes[1..], "0-9", "n1");
    assert_eq!(code, Some(2));
    assert!(said.contains("slots 0-9 are of nodes that were not asked"), "{said}");
    assert_eq!(owned(&nodes).await, ["0-341", "342-682", "683-1023"]);
    // What no node may say to another.
    let mut client = NodesClient::connect(format!("http://{}", nodes[0].grpc())).await.expect("it connects");
    let status = client.exchange(nodes::Moves::default()).await.expect_err("a client's");
    assert_eq!(status.code(), Code::PermissionDenied);
    let status: serde_json::Value = nodes[0].get("/status").await.expect("it answers").json();
    let digest = status["cluster"]["digest"].as_str().expect("a digest");
    let by = |node: &str, moved: Vec<nodes::Moved>| {
        let mut request = Request::new(nodes::Moves { moved });
        request.metadata_mut().insert("walcast-forwarded", format!("{node};1;{digest}").parse().expect("ASCII"));
        request
    };
    let moved = |to: &str| nodes::Moved { slots: "400".to_owned(), to: to.to_owned(), number: 1 };
    let error = client.exchange(by("n1", vec![moved("n0")])).await.expect_err("it has nothing of it");
    assert!(error.message().contains("which was not given their data"), "{error}");
    assert_eq!(owned(&nodes).await, ["0-341", "342-682", "683-1023"]);
}
