//! Several real brokers with one layout.

mod forward;
mod layout;
mod subscribe;

use walcast::cluster::slot_of;

use crate::support::{Broker, Setup};

const NAMES: [&str; 3] = ["n0", "n1", "n2"];

/// What a node says when another one does not answer.
const UNREACHABLE: &str = "another node of the cluster is unreachable";

/// Ports that were free a moment ago, one for each node.
fn free_ports() -> Vec<u16> {
    let bind = |_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let held: Vec<_> = NAMES.iter().map(bind).collect();
    held.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}

/// How the nodes of a cluster are to be started.
fn setups() -> Vec<Setup> {
    let ports = free_ports();
    let nodes: Vec<_> = NAMES.iter().zip(&ports).map(|(name, port)| format!("{name}=127.0.0.1:{port}")).collect();
    let setup = |(name, port): (&&str, &u16)| {
        let setup = Setup::new().set("cluster.node", name).set("cluster.nodes", &nodes.join(","));
        setup.arg("--listen").arg(format!("127.0.0.1:{port}"))
    };
    NAMES.iter().zip(&ports).map(setup).collect()
}

async fn start(setups: Vec<Setup>) -> Vec<Broker> {
    let mut nodes = Vec::new();
    for setup in setups {
        nodes.push(setup.start().await);
    }
    nodes
}

async fn three() -> Vec<Broker> {
    start(setups()).await
}

/// A subject of the node at this place, with equal shares.
fn subject_of(node: usize, number: usize) -> String {
    let shares = [0..342, 342..683, 683..1024];
    let mut names = (0..).map(|at| format!("subject-{number}-{at}"));
    names.find(|name| shares[node].contains(&slot_of(name.as_bytes()).number())).expect("one of many")
}
