//! Two nodes become three, and three become two.

use std::path::PathBuf;

use super::UNREACHABLE;
use super::moving::{move_slots, owned};
use crate::support::nodes::free_ports;
use crate::support::{Broker, Setup, eventually};
use walcast::cluster::slot_of;

/// A layout as an operator writes it.
struct Layout<'a> {
    version: u32,
    names: &'a [&'a str],
    slots: &'a str,
}

const TWO: Layout<'_> = Layout { version: 1, names: &["n0", "n1"], slots: "n0=0-511,n1=512-1023" };
const THREE: Layout<'_> = Layout { version: 2, names: &["n0", "n1", "n2"], slots: "n0=0-511,n1=512-1023,n2=" };
const TWO_AGAIN: Layout<'_> = Layout { version: 3, ..TWO };

struct Cluster {
    ports: Vec<u16>,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn data(&self, place: usize) -> PathBuf {
        self.folder.path().join(place.to_string())
    }

    /// Starts a node with the data that it has, or with none.
    async fn start(&self, place: usize, layout: &Layout<'_>) -> Broker {
        let nodes = layout.names.iter().zip(&self.ports).map(|(name, port)| format!("{name}=127.0.0.1:{port}"));
        let setup = Setup::new()
            .set("cluster.node", layout.names[place])
            .set("cluster.nodes", &nodes.collect::<Vec<_>>().join(","))
            .set("cluster.slots", layout.slots)
            .set("cluster.version", &layout.version.to_string())
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.ports[place]))
            .expect_log(UNREACHABLE);
        setup.data_dir(self.data(place)).start().await
    }
}

fn subject_in(slots: std::ops::Range<u16>) -> String {
    let mut names = (0..).map(|number| format!("scale-{number}"));
    names.find(|name| slots.contains(&slot_of(name.as_bytes()).number())).expect("one of many")
}

/// Publishes on each subject through each node; every id is the next one.
async fn publish(nodes: &[Broker], subjects: &[String], last: &mut i32) {
    for node in nodes {
        let client = node.client().await;
        *last += 1;
        for subject in subjects {
            let body = format!("body {last}");
            // A node that was started a moment ago may have to hear first what has moved.
            let id =
                eventually("a publish", || async { client.publish(subject, body.clone(), 3_600).await.ok() }).await;
            assert_eq!(id, *last, "{subject}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_become_three_and_two_again() {
    let cluster = Cluster { ports: free_ports(3), folder: tempfile::tempdir().expect("a folder") };
    let subjects = [subject_in(0..100), subject_in(100..512), subject_in(600..700), subject_in(700..1024)];
    let mut last = 0;
    let mut nodes = vec![cluster.start(0, &TWO).await, cluster.start(1, &TWO).await];
    publish(&nodes, &subjects, &mut last).await;
    // One after the other learns that there will be a third, which begins without slots.
    for place in 0..2 {
        nodes.remove(0).stop().await;
        nodes.push(cluster.start(place, &THREE).await);
    }
    nodes.push(cluster.start(2, &THREE).await);
    publish(&nodes, &subjects, &mut last).await;
    let (code, said) = move_slots(&nodes, "0-99+600-699", "n2");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(owned(&nodes).await, ["100-511", "512-599+700-1023", "0-99+600-699"]);
    publish(&nodes, &subjects, &mut last).await;
    // Killed, all at once, and started with the settings that they had.
    for node in nodes {
        node.kill_nine().await;
    }
    let mut nodes = Vec::new();
    for place in 0..3 {
        nodes.push(cluster.start(place, &THREE).await);
    }
    publish(&nodes, &subjects, &mut last).await;
    let (code, said) = move_slots(&nodes, "0-99", "n1");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = move_slots(&nodes, "600-699", "n0");
    assert_eq!(code, Some(0), "{said}");
    nodes.remove(2).stop().await;
    for place in 0..2 {
        nodes.remove(0).stop().await;
        nodes.push(cluster.start(place, &TWO_AGAIN).await);
    }
    assert_eq!(owned(&nodes).await, ["100-511+600-699", "0-99+512-599+700-1023"]);
    publish(&nodes, &subjects, &mut last).await;
    for node in &nodes {
        let client = node.client().await;
        for subject in &subjects {
            for id in 1..=last {
                assert_eq!(client.fetch_body(subject, id).await, format!("body {id}"), "{subject}");
            }
        }
    }
}
