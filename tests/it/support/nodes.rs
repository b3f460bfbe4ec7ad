//! The nodes of a cluster of three with equal shares, a load on them, and what their database must have of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::task::JoinSet;
use walcast::cluster::slot_of;

use super::{Broker, Client, Setup, programs, walcast};

/// Their names.
pub const NODES: [&str; 3] = ["n0", "n1", "n2"];

/// Ports that were free a moment ago, and that no client gets: the layout names them before the nodes have them, and a node that
/// starts again must find its own free.
pub fn free_ports(count: usize) -> Vec<u16> {
    (0..count).map(|_| programs::port()).collect()
}

/// The addresses of a cluster.
#[derive(Debug, Clone)]
pub struct Nodes {
    ports: Vec<u16>,
}

impl Nodes {
    /// On ports that were free a moment ago.
    pub fn new() -> Self {
        Self { ports: free_ports(NODES.len()) }
    }

    /// How the node at this place is started, on top of what `common` sets.
    pub fn setup(&self, common: Setup, place: usize) -> Setup {
        self.setup_at(common, place, self.ports[place])
    }

    /// The same on another port, of which the others do not know: a process beside the node's own.
    pub fn setup_at(&self, common: Setup, place: usize, port: u16) -> Setup {
        let named = NODES.iter().zip(&self.ports).map(|(name, port)| format!("{name}=127.0.0.1:{port}"));
        let nodes = named.collect::<Vec<_>>().join(",");
        let setup = common.set("cluster.node", NODES[place]).set("cluster.nodes", &nodes);
        setup.arg("--listen").arg(format!("127.0.0.1:{port}"))
    }

    /// How all of them are started.
    pub fn setups(&self, common: impl Fn() -> Setup) -> Vec<Setup> {
        (0..NODES.len()).map(|place| self.setup(common(), place)).collect()
    }
}

/// Starts all of them at once.
pub async fn start_all(setups: Vec<Setup>) -> Vec<Broker> {
    futures_util::future::join_all(setups.into_iter().map(Setup::start)).await
}

/// A subject of the node at this place.
pub fn subject_of(node: usize, number: usize) -> String {
    first_of(node, (0..).map(|at| format!("s{number}-{at}")))
}

/// The first of these that is of the node at this place.
pub fn first_of(node: usize, mut names: impl Iterator<Item = String>) -> String {
    let shares = [0..342, 342..683, 683..1024];
    names.find(|name| shares[node].contains(&slot_of(name.as_bytes()).number())).expect("one of many")
}

/// Subjects of a node that the load publishes on.
const SUBJECTS: usize = 10;

/// A load on nodes, and what publishers were told; a clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Load {
    acknowledged: Arc<Mutex<BTreeMap<(String, i32), Bytes>>>,
    stop: Arc<AtomicBool>,
    number: Arc<AtomicU64>,
}

impl Load {
    /// Starts `publishers` that publish on subjects of the node at this place, until it is stopped or the node is gone. Bodies begin
    /// with `name`.
    pub fn start(&self, client: &Client, node: usize, name: &'static str, publishers: usize) -> JoinSet<()> {
        (0..publishers).map(|_| self.clone().publish(client.clone(), node, name)).collect()
    }

    async fn publish(self, client: Client, node: usize, name: &'static str) {
        let subjects: Vec<String> = (0..SUBJECTS).map(|number| subject_of(node, number)).collect();
        while !self.stop.load(Ordering::SeqCst) {
            let number = self.number.fetch_add(1, Ordering::SeqCst);
            let (subject, body) = (&subjects[number as usize % SUBJECTS], Bytes::from(format!("{name} {number}")));
            match client.publish(subject, body.clone(), 3_600).await {
                Ok(id) => self.note(subject, id, body),
                // It may be there or not.
                Err(_) => return,
            }
        }
    }

    fn note(&self, subject: &str, id: i32, body: Bytes) {
        self.acknowledged.lock().expect("not poisoned").insert((subject.to_owned(), id), body);
    }

    /// Stops all publishers.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Publishes that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("not poisoned").len()
    }

    /// One of them.
    pub fn one(&self) -> ((String, i32), Bytes) {
        let acknowledged = self.acknowledged.lock().expect("not poisoned");
        let (key, body) = acknowledged.iter().next().expect("some");
        (key.clone(), body.clone())
    }

    /// What is wrong with the rows of a database: lost, twice, of another body, or not dense.
    pub fn wrong(&self, rows: impl IntoIterator<Item = (String, i32, Vec<u8>)>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut found: BTreeMap<(String, i32), Vec<u8>> = BTreeMap::new();
        let mut counts: BTreeMap<String, (i32, i32)> = BTreeMap::new();
        for (subject, id, body) in rows {
            let (count, last) = counts.entry(subject.clone()).or_default();
            (*count, *last) = (*count + 1, id.max(*last));
            if found.insert((subject.clone(), id), body).is_some() {
                wrong.push(format!("twice: {subject} {id}"));
            }
        }
        for ((subject, id), body) in self.acknowledged.lock().expect("not poisoned").iter() {
            if found.get(&(subject.clone(), *id)).map(Vec::as_slice) != Some(&body[..]) {
                wrong.push(format!("lost or another: {subject} {id}"));
            }
        }
        let holes = counts.iter().filter(|(_, (count, last))| count != last);
        wrong.extend(holes.map(|(subject, _)| format!("not dense: {subject}")));
        wrong
    }
}

/// `walcast cluster move`, told where these nodes are.
pub fn move_command<'a>(nodes: impl IntoIterator<Item = &'a Broker>, slots: &str, to: &str) -> Command {
    let admin: Vec<_> = nodes.into_iter().map(|node| format!("http://{}", node.admin())).collect();
    walcast(&["cluster", "move", "--slots", slots, "--to", to, "--admin", &admin.join(",")])
}

/// A copy of a data directory, as a volume has it that was cloned or was cut off from its first process.
pub fn copy_of(data: &Path) -> PathBuf {
    let copy = data.with_extension("copy");
    let copied = Command::new("cp").arg("-a").arg(data).arg(&copy).status();
    assert!(copied.expect("cp runs").success());
    copy
}

/// Subjects of the first node move to the second, while both keep rows of them in one database: ids go on, and both are let in when they
/// start again. Gives the subject, which has ids 1 to 40 then, and the nodes.
pub async fn move_in_one_database(mut brokers: Vec<Broker>) -> (String, Vec<Broker>) {
    let subject = subject_of(0, 7);
    let client = brokers[0].client().await;
    for id in 1..=20 {
        assert_eq!(client.publish_kept(&subject, format!("body {id}")).await, id);
    }
    brokers[0].all_projected().await;
    let output = move_command(&brokers[..2], "0-341", "n1").output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let client = brokers[1].client().await;
    for id in 21..=40 {
        assert_eq!(client.publish_kept(&subject, format!("body {id}")).await, id);
    }
    for _ in 0..2 {
        let broker = brokers.remove(0);
        broker.all_projected().await;
        brokers.insert(
            1,
            broker.stop().await.setup().expect_log("another node of the cluster is unreachable").start().await,
        );
    }
    let client = brokers[1].client().await;
    for id in 1..=40 {
        assert_eq!(client.fetch_body(&subject, id).await, format!("body {id}"));
    }
    (subject, brokers)
}
