//! Three real brokers of a cluster with one keyspace.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use scylla::client::session::Session;
use tokio::task::JoinSet;

use crate::broker::broker_on;
use crate::harness::{Place, execute, operator, query, shared};
use crate::support::nodes::{self, Load, NODES, Nodes};

const FENCED: &str = "belongs to another walcast now";

type Row = (String, i32, Vec<u8>);

async fn rows(session: &Session, place: &Place) -> Vec<Row> {
    query::<Row>(session, &format!("SELECT subject, id, body FROM {}.messages", place.config.keyspace)).await
}

/// Rows whose bodies begin so.
async fn rows_like(session: &Session, place: &Place, name: &str) -> usize {
    let name = format!("{name} ").into_bytes();
    rows(session, place).await.iter().filter(|(.., body)| body.starts_with(&name)).count()
}

/// Where each log's cursor is.
async fn positions(session: &Session, place: &Place) -> BTreeMap<String, i64> {
    let all = format!("SELECT name, projected FROM {}.cursor", place.config.keyspace);
    let mut positions: BTreeMap<_, _> = query::<(String, i64)>(session, &all).await.into_iter().collect();
    positions.remove("projector");
    positions
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_fill_one_keyspace_each_from_its_log() {
    let place = Place::on(shared());
    let brokers = nodes::start_all(Nodes::new().setups(|| broker_on(shared(), &place))).await;
    let load = Load::default();
    let mut publishers = Vec::new();
    for (node, broker) in brokers.iter().enumerate() {
        publishers.push(load.start(&broker.client().await, node, "load", 4));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.stop();
    for publishers in publishers {
        publishers.join_all().await;
    }
    let session = operator(&place.config).await;
    let mut durable = Vec::new();
    for broker in &brokers {
        broker.all_projected().await;
        durable.push(broker.position("durable").await as i64);
    }
    let mut positions: Vec<i64> = positions(&session, &place).await.into_values().collect();
    positions.sort_unstable();
    durable.sort_unstable();
    assert_eq!(positions, durable, "each cursor is where its own log ends");
    assert_eq!(load.wrong(rows(&session, &place).await), Vec::<String>::new());
    let told = load.acknowledged();
    assert!(told > 300, "the load was on: {told}");
    println!("3 nodes, 3 s: {told} acknowledged, 0 lost, 0 twice, cursors {positions:?}");
    let (code, said) = broker_on(shared(), &place).refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("it belongs to a cluster, to the nodes n0 (log "), "{said}");
    // A control: the judge finds a row that is gone.
    let ((subject, id), _) = load.one();
    let delete = format!(
        "DELETE FROM {}.messages WHERE subject = '{subject}' AND bucket = 0 AND id = {id}",
        place.config.keyspace
    );
    execute(&session, &delete).await;
    let wrong = [format!("lost or another: {subject} {id}"), format!("not dense: {subject}")];
    assert_eq!(load.wrong(rows(&session, &place).await), wrong);
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_process_that_wakes_up_after_another_took_over_writes_nothing() {
    let place = Place::on(shared());
    let all = Nodes::new();
    let mut setups = all.setups(|| broker_on(shared(), &place));
    setups[0] = setups[0].clone().expect_log(FENCED).expect_log("a task failed");
    let mut brokers = nodes::start_all(setups).await;
    let load = Load::default();
    let bystanders = load.start(&brokers[1].client().await, 1, "bystander", 2);
    let old = brokers.remove(0);
    let client = old.client().await;
    for number in 0..20 {
        client.publish_kept(&nodes::subject_of(0, 0), format!("before {number}")).await;
    }
    old.all_projected().await;
    let session = operator(&place.config).await;
    assert_eq!(rows_like(&session, &place, "before").await, 20, "the control: what it writes while it may is seen");
    old.signal(Signal::STOP);
    let copy = nodes::copy_of(old.data());
    let port = nodes::free_ports(1)[0];
    let new = all.setup_at(broker_on(shared(), &place), 0, port).data_dir(&copy).start().await;
    let waiting: JoinSet<_> = (0..50)
        .map(|number| {
            let client = client.clone();
            async move { drop(client.publish(&nodes::subject_of(0, 1), format!("woken {number}"), 3_600).await) }
        })
        .collect();
    let publishers = load.start(&new.client().await, 0, "new", 2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    old.signal(Signal::CONT);
    let (status, ended) = old.wait().await;
    assert_eq!(status.code(), Some(1), "it fails, and loudly");
    assert!(ended.logged(FENCED) >= 1);
    waiting.join_all().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    load.stop();
    publishers.join_all().await;
    bystanders.join_all().await;
    new.all_projected().await;
    brokers[0].all_projected().await;
    assert_eq!(rows_like(&session, &place, "woken").await, 0, "it wrote nothing");
    let written = rows_like(&session, &place, "new").await;
    assert!(written > 50, "the other one wrote: {written}");
    assert_eq!(load.wrong(rows(&session, &place).await), Vec::<String>::new());
    println!("{} woke up with 50 publishes: 0 of its rows, {written} of the one that took over", NODES[0]);
    new.stop().await;
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_move_between_nodes_of_one_database() {
    let place = Place::on(shared());
    let brokers = nodes::start_all(Nodes::new().setups(|| broker_on(shared(), &place))).await;
    let (subject, brokers) = nodes::move_in_one_database(brokers).await;
    let rows = rows(&operator(&place.config).await, &place).await;
    let mut ids: Vec<i32> = rows.iter().filter(|(of, ..)| *of == subject).map(|(_, id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>(), "each row once");
    for broker in brokers {
        broker.stop().await;
    }
}
