//! Several real brokers with one layout.

mod forward;
mod layout;
mod moving;
mod moving_faults;
mod moving_load;
mod publish_stream;
mod publish_stream_faults;
mod scaling;
mod set_back;
mod subscribe;

use crate::support::nodes::{Nodes, start_all};
use crate::support::{Broker, Client, Setup};

/// What a node says when another one does not answer.
const UNREACHABLE: &str = "another node of the cluster is unreachable";

/// How the nodes of a cluster are to be started.
fn setups() -> Vec<Setup> {
    Nodes::new().setups(Setup::new)
}

async fn three() -> Vec<Broker> {
    start_all(setups()).await
}

async fn clients(nodes: &[Broker]) -> Vec<Client> {
    futures_util::future::join_all(nodes.iter().map(Broker::client)).await
}
