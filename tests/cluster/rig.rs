//! Three nodes behind an Envoy, each of which can be stopped, killed, frozen and cut off.

use std::time::{Duration, Instant};

use crate::envoy::{Envoy, Plan};
use crate::load;
use crate::net::Way;
use crate::support::nodes::{NODES, free_ports, subject_of};
use crate::support::{Broker, Setup, Stopped, from_env};

/// What nodes say of others that are gone, which these days are about; and what a node's transport says that was frozen while its
/// clients gave up thousands of calls.
const SAID: [&str; 2] =
    ["another node of the cluster is unreachable", "remotely-reset pending-accept streams reached limit"];

/// Subjects of each node.
const SUBJECTS_EACH: usize = 4;

/// Subscribers of each subject: a hundred and some in all.
const SUBSCRIBERS_EACH: usize = 9;

/// A node, whatever has become of it.
#[derive(Debug)]
enum Node {
    Up(Broker),
    Down(Stopped),
}

/// Three nodes behind an Envoy.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Option<Node>>,
    pub envoy: Envoy,
    /// From each node to each other one.
    between: Vec<Vec<Way>>,
    /// From Envoy to each node.
    before: Vec<Way>,
}

/// How a cluster is set up.
fn setup(place: usize, ports: &[u16], between: &[Vec<Way>]) -> Setup {
    let address = |other: usize| match other == place {
        true => format!("127.0.0.1:{}", ports[place]),
        false => between[place][other].address().to_owned(),
    };
    let nodes: Vec<_> = NODES.iter().enumerate().map(|(at, name)| format!("{name}={}", address(at))).collect();
    let mut setup = Setup::new().set("cluster.node", NODES[place]).set("cluster.nodes", &nodes.join(","));
    for said in SAID {
        setup = setup.expect_log(said);
    }
    if let Ok(binary) = std::env::var("WALCAST_BINARY") {
        setup = setup.binary(binary);
    }
    setup.arg("--listen").arg(format!("127.0.0.1:{}", ports[place]))
}

impl Cluster {
    /// Started, and found healthy by Envoy.
    pub async fn start() -> Self {
        let ports = free_ports(NODES.len());
        let way_to = |place: usize| Way::to(format!("127.0.0.1:{}", ports[place]));
        let (mut between, mut before) = (Vec::new(), Vec::new());
        for _ in 0..NODES.len() {
            between.push(futures_util::future::join_all((0..NODES.len()).map(way_to)).await);
        }
        for place in 0..NODES.len() {
            before.push(way_to(place).await);
        }
        let starting = (0..NODES.len()).map(|place| setup(place, &ports, &between).start());
        let nodes = futures_util::future::join_all(starting).await;
        let plan = Plan::at(before.iter().map(|way| way.address().to_owned()));
        // The shipped limits are for a network; this machine's clients are one address.
        let envoy = unlimited(plan).start().await;
        Self { nodes: nodes.into_iter().map(|node| Some(Node::Up(node))).collect(), envoy, between, before }
    }

    /// The load of these days.
    pub async fn load(&self) -> load::Load {
        self.load_of(|plan| plan).await
    }

    /// The same, changed.
    pub async fn load_of(&self, change: impl FnOnce(load::Plan) -> load::Plan) -> load::Load {
        let subjects =
            (0..SUBJECTS_EACH * NODES.len()).map(|number| subject_of(number % NODES.len(), number)).collect();
        let rate = from_env("WALCAST_RATE", 300) as u32;
        let plan = load::Plan { rate, subjects, each: SUBSCRIBERS_EACH, unmannerly: false, keyed: true };
        load::Load::start(self.envoy.grpc(), change(plan)).await
    }

    /// A node that is up.
    pub fn node(&self, place: usize) -> &Broker {
        match self.nodes[place].as_ref() {
            Some(Node::Up(broker)) => broker,
            other => panic!("node {place} is not up: {other:?}"),
        }
    }

    fn take(&mut self, place: usize) -> Node {
        self.nodes[place].take().expect("put back before")
    }

    /// Stops a node in order. It must end well.
    pub async fn stop(&mut self, place: usize) {
        let Node::Up(broker) = self.take(place) else { panic!("node {place} is down") };
        self.nodes[place] = Some(Node::Down(broker.stop().await));
    }

    /// Kills a node.
    pub async fn kill(&mut self, place: usize) {
        let Node::Up(broker) = self.take(place) else { panic!("node {place} is down") };
        self.nodes[place] = Some(Node::Down(broker.kill_nine().await));
    }

    /// Starts a node again, and waits until Envoy finds all healthy.
    pub async fn bring_back(&mut self, place: usize) -> Duration {
        let begun = Instant::now();
        let Node::Down(stopped) = self.take(place) else { panic!("node {place} is up") };
        self.nodes[place] = Some(Node::Up(stopped.start().await));
        let ready = begun.elapsed();
        self.envoy.healthy(NODES.len()).await;
        ready
    }

    /// Cuts the way from one node to another, one way, or mends it.
    pub fn cut_between(&self, from: usize, to: usize, cut: bool) {
        self.between[from][to].cut(cut);
    }

    /// Cuts the way from Envoy to a node, or mends it.
    pub fn cut_before(&self, place: usize, cut: bool) {
        self.before[place].cut(cut);
    }
}

/// Without the limits of a client's rate, which have tests of their own.
fn unlimited(plan: Plan) -> Plan {
    ["Publish", "Subscribe"].iter().fold(plan, |plan, method| plan.local_limit(method, 1_000_000, 1_000_000))
}
