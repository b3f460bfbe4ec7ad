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
    Down(Setup),
}

/// Three nodes behind an Envoy.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Option<Node>>,
    pub envoy: Envoy,
    ports: Vec<u16>,
    /// From each node to each other one.
    between: Vec<Vec<Way>>,
    /// From Envoy to each node.
    before: Vec<Way>,
    /// A port that Envoy knows as a fourth node's, and no layout does.
    spare: Option<u16>,
}

/// How a node is set up on top of what is common, so that it listens here.
fn setup(common: Setup, place: usize, listen: u16, ports: &[u16], between: &[Vec<Way>]) -> Setup {
    let address = |other: usize| match other == place {
        true => format!("127.0.0.1:{}", ports[place]),
        false => between[place][other].address().to_owned(),
    };
    let nodes: Vec<_> = NODES.iter().enumerate().map(|(at, name)| format!("{name}={}", address(at))).collect();
    let mut setup = common.set("cluster.node", NODES[place]).set("cluster.nodes", &nodes.join(","));
    for said in SAID {
        setup = setup.expect_log(said);
    }
    if let Ok(binary) = std::env::var("WALCAST_BINARY") {
        setup = setup.binary(binary);
    }
    setup.arg("--listen").arg(format!("127.0.0.1:{listen}"))
}

impl Cluster {
    /// Started, and found healthy by Envoy.
    pub async fn start() -> Self {
        Self::of(Setup::new).await
    }

    /// The same, with nodes that have these settings in common.
    pub async fn of(common: impl Fn() -> Setup) -> Self {
        Self::build(common, None).await
    }

    /// The same, with room behind Envoy for another process that nobody else knows of.
    pub async fn with_room_for_another(common: impl Fn() -> Setup) -> Self {
        Self::build(common, Some(free_ports(1)[0])).await
    }

    async fn build(common: impl Fn() -> Setup, spare: Option<u16>) -> Self {
        let ports = free_ports(NODES.len());
        let way_to = |port: &u16| Way::to(format!("127.0.0.1:{port}"));
        let mut between = Vec::new();
        for _ in 0..NODES.len() {
            between.push(futures_util::future::join_all(ports.iter().map(way_to)).await);
        }
        let before = futures_util::future::join_all(ports.iter().chain(&spare).map(way_to)).await;
        let starting = (0..NODES.len()).map(|place| setup(common(), place, ports[place], &ports, &between).start());
        let nodes = futures_util::future::join_all(starting).await;
        let plan = Plan::at(before.iter().map(|way| way.address().to_owned()));
        // The shipped limits are for a network; this machine's clients are one address.
        let envoy = unlimited(plan).absent(usize::from(spare.is_some())).start().await;
        let nodes = nodes.into_iter().map(|node| Some(Node::Up(node))).collect();
        Self { nodes, envoy, ports, between, before, spare }
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

    /// The nodes that are up.
    pub fn up(&self) -> impl Iterator<Item = &Broker> {
        self.nodes.iter().filter_map(|node| match node {
            Some(Node::Up(broker)) => Some(broker),
            _ => None,
        })
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

    fn is_down(&mut self, place: usize, stopped: Stopped) {
        self.nodes[place] = Some(Node::Down(stopped.setup()));
    }

    /// Stops a node in order. It must end well.
    pub async fn stop(&mut self, place: usize) {
        let Node::Up(broker) = self.take(place) else { panic!("node {place} is down") };
        let stopped = broker.stop().await;
        self.is_down(place, stopped);
    }

    /// Kills a node.
    pub async fn kill(&mut self, place: usize) {
        let Node::Up(broker) = self.take(place) else { panic!("node {place} is down") };
        let stopped = broker.kill_nine().await;
        self.is_down(place, stopped);
    }

    /// Waits until a node ends by itself; gives its exit code, and how many of its log lines hold this part.
    pub async fn ended(&mut self, place: usize, part: &str) -> (Option<i32>, usize) {
        let Node::Up(broker) = self.take(place) else { panic!("node {place} is down") };
        let (status, stopped) = broker.wait().await;
        let said = stopped.logged(part);
        self.is_down(place, stopped);
        (status.code(), said)
    }

    /// Changes the settings of a node that is down.
    pub fn change(&mut self, place: usize, change: impl FnOnce(Setup) -> Setup) {
        let Node::Down(setup) = self.take(place) else { panic!("node {place} is up") };
        self.nodes[place] = Some(Node::Down(change(setup)));
    }

    /// The settings of a node that is down.
    pub fn settings(&self, place: usize) -> Setup {
        match self.nodes[place].as_ref() {
            Some(Node::Down(setup)) => setup.clone(),
            other => panic!("node {place} is up: {other:?}"),
        }
    }

    /// Starts a node again.
    pub async fn start_again(&mut self, place: usize) {
        let Node::Down(setup) = self.take(place) else { panic!("node {place} is up") };
        self.nodes[place] = Some(Node::Up(setup.start().await));
    }

    /// The same, and waits until Envoy finds all healthy.
    pub async fn bring_back(&mut self, place: usize) -> Duration {
        let begun = Instant::now();
        self.start_again(place).await;
        let ready = begun.elapsed();
        self.envoy.healthy(NODES.len()).await;
        ready
    }

    /// A second process of a node's name, where Envoy has room for it.
    pub fn double_of(&self, place: usize, common: Setup) -> Setup {
        let listen = self.spare.expect("there is room for another");
        setup(common, place, listen, &self.ports, &self.between)
    }

    /// Waits until the store has all that the nodes have.
    pub async fn all_projected(&self) {
        for place in 0..NODES.len() {
            self.node(place).all_projected().await;
        }
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
