//! `walcast store` on the data directory of one node of several.

use std::path::Path;

use super::brokers::common;
use crate::samples;
use crate::server::Server;
use crate::support::nodes::{self, NODES, Nodes};
use crate::support::walcast;

/// What `walcast store` says of the data directory of this node, if it ends with this code.
fn store(data: &Path, url: &str, node: Option<&str>, name: &str, code: i32) -> String {
    let mut command = walcast(&["store", name, "--store", "postgres", "--postgres-url", url, "--data-dir"]);
    command.arg(data);
    if let Some(node) = node {
        // Ports are no part of what a layout is compared by.
        let nodes: Vec<_> = NODES.iter().zip(1..).map(|(name, port)| format!("{name}=127.0.0.1:{port}")).collect();
        command.env("WALCAST_CLUSTER__NODE", node).env("WALCAST_CLUSTER__NODES", nodes.join(","));
    }
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "walcast store {name}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn see_and_fill_what_is_of_its_log_only() {
    let server = Server::start();
    let database = server.database().await;
    let url = server.url(&database);
    let mut brokers = nodes::start_all(Nodes::new().setups(|| common(&url))).await;
    for (node, broker) in brokers.iter().enumerate() {
        let client = broker.client().await;
        for number in 1..=20 {
            client.publish_kept(&nodes::subject_of(node, 0), format!("body {number}")).await;
        }
        broker.all_projected().await;
    }
    let stopped = brokers.remove(0).stop().await;
    let said = store(stopped.data(), &url, Some("n0"), "check", 0);
    assert!(said.contains("20 messages of 20 records compared, 0 differences"), "{said}");
    assert!(store(stopped.data(), &url, Some("n0"), "status", 0).contains("sequence 20"));
    // A control: one of its rows is altered, and one of another log.
    let admin = server.client(&database).await;
    for node in [0, 1] {
        let alter = "UPDATE walcast.messages SET body = 'another' WHERE subject = $1 AND id = 7";
        assert_eq!(admin.execute(alter, &[&nodes::subject_of(node, 0)]).await.expect("altered"), 1);
    }
    let said = store(stopped.data(), &url, Some("n0"), "check", 3);
    assert!(said.contains("1 difference"), "{said}");
    // Without its cluster, and as another node.
    let said = store(stopped.data(), &url, None, "check", 2);
    assert!(said.contains("set cluster.node"), "{said}");
    let said = store(stopped.data(), &url, Some("n2"), "check", 2);
    assert!(said.contains("the data directory is of node n0, and cluster.node is n2"), "{said}");
    // Its part of the database is lost, and is filled again beside the others.
    let lose = format!(
        "DELETE FROM walcast.projection WHERE node = 'n0'; DELETE FROM walcast.messages WHERE subject = '{}'",
        nodes::subject_of(0, 0)
    );
    admin.batch_execute(&lose).await.expect("lost");
    assert_eq!(samples::counts(&admin).await, (40, 40));
    let said = store(stopped.data(), &url, Some("n0"), "rebuild", 0);
    assert!(said.contains("20 rows written"), "{said}");
    assert_eq!(samples::counts(&admin).await, (60, 60));
    store(stopped.data(), &url, Some("n0"), "check", 0);
    for (node, broker) in (1..).zip(brokers) {
        broker.client().await.publish_kept(&nodes::subject_of(node, 0), "goes on").await;
        broker.stop().await;
    }
}
