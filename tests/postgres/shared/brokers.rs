//! Three real brokers of a cluster with one database.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio_postgres::Client as Database;

use crate::server::Server;
use crate::support::nodes::{self, Load, NODES, Nodes};
use crate::support::{Broker, Setup};

const FENCED: &str = "belongs to another walcast now";

pub fn common(url: &str) -> Setup {
    Setup::new().store("postgres").arg("--postgres-url").arg(url).set("store.postgres.connect_timeout", "1s")
}

type Row = (String, i32, Vec<u8>);

async fn rows(database: &Database) -> Vec<Row> {
    let rows = database.query("SELECT subject, id, body FROM walcast.messages", &[]).await.expect("rows");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Where each node's cursor is.
async fn cursors(database: &Database) -> BTreeMap<String, i64> {
    let rows = database.query("SELECT node, projected FROM walcast.projection", &[]).await.expect("rows");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_fill_one_database_each_from_its_log() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    // At once, into an empty database.
    let brokers = nodes::start_all(Nodes::new().setups(|| common(&url))).await;
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
    let admin = server.client(&database).await;
    let mut durable = BTreeMap::new();
    for (node, broker) in NODES.iter().zip(&brokers) {
        broker.all_projected().await;
        durable.insert((*node).to_owned(), broker.position("durable").await as i64);
    }
    assert_eq!(cursors(&admin).await, durable, "each cursor is where its own log ends");
    assert_eq!(load.wrong(rows(&admin).await), Vec::<String>::new());
    let told = load.acknowledged();
    assert!(told > 500, "the load was on: {told}");
    println!("3 nodes, 3 s: {told} acknowledged, 0 lost, 0 twice, cursors {durable:?}");
    // What another broker would be told.
    let (code, said) = common(&url).refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("it is the history of a cluster, of the nodes n0 (log "), "{said}");
    let (code, said) = Nodes::new().setup(common(&url), 1).refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("node n1 has the log "), "a new volume, or another cluster: {said}");
    // Controls: the judge finds a row that is missing, and one that nobody published.
    let (one, body) = load.one();
    let lost = format!("lost or another: {} {}", one.0, one.1);
    let changed = "UPDATE walcast.messages SET body = 'another' WHERE subject = $1 AND id = $2";
    assert_eq!(admin.execute(changed, &[&one.0, &one.1]).await.expect("changed"), 1);
    assert_eq!(load.wrong(rows(&admin).await), [lost.as_str()]);
    let back = "UPDATE walcast.messages SET body = $3 WHERE subject = $1 AND id = $2";
    admin.execute(back, &[&one.0, &one.1, &&body[..]]).await.expect("changed");
    let hole = "UPDATE walcast.messages SET id = 1000000 WHERE subject = $1 AND id = $2";
    admin.execute(hole, &[&one.0, &one.1]).await.expect("changed");
    let wrong = [lost, format!("not dense: {}", one.0)];
    assert_eq!(load.wrong(rows(&admin).await), wrong);
    for broker in brokers {
        broker.stop().await;
    }
}

/// Bodies of rows that begin so.
async fn rows_like(database: &Database, name: &str) -> i64 {
    let count = "SELECT count(*) FROM walcast.messages WHERE convert_from(body, 'UTF8') LIKE $1 || ' %'";
    database.query_one(count, &[&name]).await.expect("a row").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_process_that_wakes_up_after_another_took_over_writes_nothing() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let all = Nodes::new();
    let mut setups = all.setups(|| common(&url));
    setups[0] = setups[0].clone().expect_log(FENCED).expect_log("a task failed");
    let mut brokers = nodes::start_all(setups).await;
    let load = Load::default();
    let bystanders = load.start(&brokers[1].client().await, 1, "bystander", 2);
    let old: Broker = brokers.remove(0);
    let client = old.client().await;
    for number in 0..20 {
        client.publish_kept(&nodes::subject_of(0, 0), format!("before {number}")).await;
    }
    old.all_projected().await;
    let admin = server.client(&database).await;
    assert_eq!(rows_like(&admin, "before").await, 20, "the control: what it writes while it has the store is seen");
    old.signal(Signal::STOP);
    // Its volume is given to another process, and it wakes up with calls that have waited for it.
    let copy = nodes::copy_of(old.data());
    let port = nodes::free_ports(1)[0];
    let new = all.setup_at(common(&url), 0, port).data_dir(&copy).start().await;
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
    assert_eq!(rows_like(&admin, "woken").await, 0, "it wrote nothing");
    let written = rows_like(&admin, "new").await;
    assert!(written > 50, "the other one wrote: {written}");
    assert_eq!(load.wrong(rows(&admin).await), Vec::<String>::new());
    println!("a frozen process woke up with 50 publishes: 0 of its rows, {written} of the one that took over");
    new.stop().await;
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_data_directory_takes_nothing_but_its_own_log() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let all = Nodes::new();
    let brokers = nodes::start_all(all.setups(|| common(&url))).await;
    for (node, broker) in brokers.iter().enumerate() {
        broker.client().await.publish_kept(&nodes::subject_of(node, 0), "kept").await;
        broker.all_projected().await;
    }
    let mut brokers = brokers.into_iter();
    let stopped = brokers.next().expect("three").stop().await;
    let copy = nodes::copy_of(stopped.data());
    let port = nodes::free_ports(1)[0];
    // Under another name, which has data of its own.
    let (code, said) = all.setup_at(common(&url), 1, port).data_dir(&copy).refuse();
    assert_eq!(code, 2, "{said}");
    // The same start of the same log, twice: the one that comes later stays, and the first one learns of it when it writes.
    let first = stopped.setup().expect_log(FENCED).expect_log("a task failed").start().await;
    const WARNING: &str = "another process has had the store with the same start of this log";
    let second = all.setup_at(common(&url), 0, port).data_dir(&copy).expect_log(WARNING).start().await;
    let subject = nodes::subject_of(0, 1);
    drop(first.client().await.publish(&subject, "of the first", 3_600).await);
    // Both directories are in the folder of the first.
    let (status, _ended) = first.wait().await;
    assert_eq!(status.code(), Some(1));
    second.client().await.publish_kept(&subject, "of the second").await;
    second.all_projected().await;
    let admin = server.client(&database).await;
    let bodies = "SELECT convert_from(body, 'UTF8') FROM walcast.messages WHERE subject = $1";
    let bodies: Vec<String> =
        admin.query(bodies, &[&subject]).await.expect("rows").iter().map(|row| row.get(0)).collect();
    assert_eq!(bodies, ["of the second"]);
    second.stop().await;
    for broker in brokers {
        broker.all_projected().await;
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_is_brought_up_and_the_others_go_on() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let mut setups = Nodes::new().setups(|| common(&url));
    setups[0] = setups[0].clone().expect_log("has lost what it had confirmed");
    let brokers = nodes::start_all(setups).await;
    for (node, broker) in brokers.iter().enumerate() {
        let client = broker.client().await;
        for number in 1..=30 {
            client.publish_kept(&nodes::subject_of(node, 0), format!("body {number}")).await;
        }
        broker.all_projected().await;
    }
    let admin = server.client(&database).await;
    let subject = nodes::subject_of(0, 0);
    let back = format!(
        "BEGIN; UPDATE walcast.projection SET projected = 10 WHERE node = 'n0';
         DELETE FROM walcast.messages WHERE subject = '{subject}' AND id > 10;
         UPDATE walcast.subjects SET last_id = 10 WHERE subject = '{subject}'; COMMIT"
    );
    admin.batch_execute(&back).await.expect("done");
    for (node, broker) in brokers.iter().enumerate() {
        broker.client().await.publish_kept(&nodes::subject_of(node, 0), "one more").await;
        broker.all_projected().await;
        let setbacks = broker.metric("walcast_store_setbacks_total").await;
        assert_eq!(setbacks, if node == 0 { 1.0 } else { 0.0 }, "node {node}");
    }
    assert_eq!(crate::samples::counts(&admin).await, (93, 93));
    assert_eq!(Load::default().wrong(rows(&admin).await), Vec::<String>::new());
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_move_between_nodes_of_one_database() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let brokers = nodes::start_all(Nodes::new().setups(|| common(&url))).await;
    let (subject, brokers) = nodes::move_in_one_database(brokers).await;
    let rows = rows(&server.client(&database).await).await;
    let mut ids: Vec<i32> = rows.iter().filter(|(of, ..)| *of == subject).map(|(_, id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>(), "each row once");
    let mut setups = Vec::new();
    for broker in brokers {
        setups.push(broker.stop().await.setup());
    }
    // Ids 21 to 40 are none of the first one's log, and none of its affair.
    let check = ["store", "check", "--store", "postgres", "--postgres-url", &url];
    for (setup, said) in [(&setups[0], "20 messages are of slots that other nodes own now"), (&setups[1], "")] {
        let (code, found) = setup.tool(&check);
        assert!(code == Some(0) && found.contains(", 0 differences") && found.contains(said), "{found}");
    }
    // What is wrong with a slot of its own is found as before.
    let client = server.client(&database).await;
    let beyond = "INSERT INTO walcast.messages SELECT (jsonb_populate_record(m, '{\"id\": 41}')).* FROM walcast.messages m WHERE subject = $1 AND id = 40";
    client.execute(beyond, &[&subject]).await.expect("somebody else's row");
    let (code, found) = setups[1].tool(&check);
    assert_eq!(code, Some(3), "{found}");
    assert!(found.contains(&format!("{subject} 41 was never published, and is there")), "{found}");
}
