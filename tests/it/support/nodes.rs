//! The nodes of a cluster of three with equal shares.

use walcast::cluster::slot_of;

use super::{Broker, Setup};

/// Their names.
pub const NODES: [&str; 3] = ["n0", "n1", "n2"];

/// Ports that were free a moment ago.
pub fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let held: Vec<_> = (0..count).map(bind).collect();
    held.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
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
    let shares = [0..342, 342..683, 683..1024];
    let names = (0..).map(|at| format!("s{number}-{at}"));
    names.into_iter().find(|name| shares[node].contains(&slot_of(name.as_bytes()).number())).expect("one of many")
}
