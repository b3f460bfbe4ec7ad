//! More than one data centre, as far as one node can show it: it is told of a node elsewhere, which is a socket of the test's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use walcast::projector::cassandra::Consistency;
use walcast::projector::{Store, StoreError};

use crate::harness::{Node, Place, Setup as NodeSetup, at, batch, execute, one_at_a_time, operator, rows, shared};
use crate::support::Setup;

/// Where the other data centre's only node would be.
const ELSEWHERE: &str = "127.0.0.9";

/// Tells the node of another one in the data centre `us`. Gives how many connections that one got.
async fn with_another_datacenter(node: &Node, place: &Place) -> Arc<AtomicUsize> {
    let session = operator(&place.config).await;
    let peer = format!(
        "INSERT INTO system.peers (peer, rpc_address, data_center, rack, host_id, tokens, release_version, schema_version) \
         VALUES ('{ELSEWHERE}', '{ELSEWHERE}', 'us', 'rack1', uuid(), {{'0'}}, '5.0.0', uuid())"
    );
    execute(&session, &peer).await;
    let address = node.address();
    let (_, port) = address.rsplit_once(':').expect("an address with a port");
    let listener = TcpListener::bind(format!("{ELSEWHERE}:{port}")).await.expect("an address of this machine");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    connections
}

#[tokio::test]
async fn of_several_data_centres_the_named_one_is_used_and_none_is_guessed() {
    let turn = one_at_a_time();
    let _turn = turn.lock().await;
    let node = NodeSetup::default().start();
    let mut place = Place::on(&node);
    let connections = with_another_datacenter(&node, &place).await;
    let guessed = place.store().prepare().await.expect_err("no data centre is named");
    assert!(matches!(guessed, StoreError::Refused { .. }), "{guessed}");
    assert!(guessed.to_string().contains("datacenter1, us"), "{guessed}");

    place.config.datacenter = Some("datacenter1".to_owned());
    let before = connections.load(Ordering::SeqCst);
    let store = place.open().await;
    store.apply(&batch(0, rows(0, 100))).await.expect("applied");
    assert_eq!(store.projected().await.expect("read"), at(100));
    // Longer than the driver waits before it tries a node again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(connections.load(Ordering::SeqCst), before, "the other data centre was talked to");

    // Where all of them are to answer, it is. Nobody speaks there, so it does not get far.
    place.config.datacenter = None;
    place.config.consistency = Consistency::Quorum;
    drop(tokio::time::timeout(Duration::from_secs(10), place.store().prepare()).await);
    assert!(connections.load(Ordering::SeqCst) > before, "nobody heard of the other data centre");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_data_centre_is_refused_by_name() {
    let node = shared();
    let place = Place::on(node);
    let broker = |datacenter| {
        Setup::new()
            .store("cassandra")
            .arg("--cassandra-nodes")
            .arg(node.address())
            .set("store.cassandra.keyspace", &place.config.keyspace)
            .set("store.cassandra.datacenter", datacenter)
    };
    let (code, said) = broker("nowhere").refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("no data centre nowhere, only datacenter1"), "{said}");
    broker("datacenter1").start().await.stop().await;
}
