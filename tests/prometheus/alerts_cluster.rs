//! Faults of a cluster: an owner that is gone, and two nodes with different layouts.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::alerts::{Publishing, Watch, fixed, small};
use crate::support::{Broker, Setup, programs};

/// A pause that lets a publisher be gentle.
const GENTLE: Duration = Duration::from_millis(20);

const UNREACHABLE: &str = "WalcastNodeUnreachable";
const DIFFER: &str = "WalcastLayoutsDiffer";

/// A node that owns nothing, and the one that owns everything.
#[derive(Debug)]
struct Pair {
    asked: Broker,
    owner: (Broker, String),
}

/// The brokers, before anything happens to them.
#[derive(Debug)]
pub struct Stage {
    dying: Pair,
    disagreeing: Pair,
}

/// The other node has everything.
const ALL_OF_THE_OWNER: &str = "n1=0-1023";

impl Pair {
    /// The owner believes what `slots_of_owner` says.
    async fn start(slots_of_owner: &str) -> Self {
        let own = programs::port();
        let (owner, grpc, admin) = fixed(small());
        let nodes = format!("n0=127.0.0.1:{own},n1={grpc}");
        let node = |setup: Setup, name: &str, slots: &str| {
            setup.set("cluster.node", name).set("cluster.nodes", &nodes).set("cluster.slots", slots)
        };
        // Of those who publish at once some are refused as too many.
        let asked = node(small(), "n0", ALL_OF_THE_OWNER).set("limits.forward_calls", "2");
        let asked = asked.expect_log("another node of the cluster is unreachable");
        let asked = asked.arg("--listen").arg(format!("127.0.0.1:{own}")).start().await;
        let owner = node(owner, "n1", slots_of_owner).start().await;
        Self { asked, owner: (owner, admin) }
    }
}

impl Stage {
    /// Starts them all.
    pub async fn start() -> Self {
        let (dying, disagreeing) = tokio::join!(Pair::start(ALL_OF_THE_OWNER), Pair::start("n0=0,n1=1-1023"));
        Self { dying, disagreeing }
    }

    /// Job and admin address of each.
    pub fn targets(&self) -> Vec<(&'static str, String)> {
        let of = |pair: &Pair| [pair.asked.admin().to_owned(), pair.owner.1.clone()];
        [of(&self.dying), of(&self.disagreeing)].into_iter().flatten().map(|admin| ("walcast", admin)).collect()
    }

    /// Begins every fault.
    pub fn run(self, watch: &impl Fn((&'static str, String)) -> Watch, running: &mut JoinSet<()>) {
        let on = |admin: &str| watch(("instance", admin.to_owned()));
        running.spawn(owner_is_gone(on(self.dying.asked.admin()), self.dying));
        running.spawn(layouts_differ(on(&self.disagreeing.owner.1), self.disagreeing));
    }
}

/// kill -9 of a node while another passes calls on to it.
async fn owner_is_gone(watch: Watch, Pair { asked, owner: (owner, _) }: Pair) {
    let publishing = Publishing::start(asked.grpc(), 8, 100, GENTLE);
    let fault = watch.fault("kill -9 of the owner of all subjects", &[UNREACHABLE]).await;
    let stopped = owner.kill_nine().await;
    fault.fires(UNREACHABLE).await;
    let owner = stopped.start().await;
    watch.ends(UNREACHABLE).await;
    drop(publishing);
    asked.stop().await;
    owner.stop().await;
}

/// Two nodes whose configurations say something else by the same version.
async fn layouts_differ(watch: Watch, Pair { asked, owner: (owner, _) }: Pair) {
    let fault = watch.fault("two nodes with different layouts 1", &[DIFFER]).await;
    let publishing = Publishing::start(asked.grpc(), 8, 100, GENTLE);
    fault.fires(DIFFER).await;
    drop(publishing);
    watch.ends(DIFFER).await;
    asked.stop().await;
    owner.stop().await;
}
