//! Makes the calls of a plan over some connections.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::super::{Failure, client};
use super::options::{LoadOptions, Loop};
use super::plan::{Due, Plan};
use super::progress;
use super::record::{Record, Tally};
use crate::proto::client::broker_client::BrokerClient;

/// A caller rests so long after UNAVAILABLE: a server that is away answers thousands of calls a second.
pub const REST: Duration = Duration::from_millis(20);

/// A connection of a load.
pub type Client = BrokerClient<Channel>;

/// One kind of call. A clone is for one caller.
pub trait Call: Clone + Send + Sync + 'static {
    /// Makes the call.
    fn call(&self, client: &mut Client, due: &Due) -> impl Future<Output = Result<(), Status>> + Send;

    /// Where it is written down: with the others of its connection, unless it is of another kind.
    fn record<'a>(&'a self, _due: &Due, connection: &'a Record) -> &'a Record {
        connection
    }
}

/// Opens the connections of a load.
pub async fn connect(options: &LoadOptions) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        clients.push(client::connect(&options.server.server).await?);
    }
    Ok(clients)
}

/// Makes all calls of a plan and writes them down in `records`.
pub async fn run(
    unit: &str,
    options: &LoadOptions,
    clients: &[Client],
    records: &[Arc<Record>],
    plan: &Plan,
    call: impl Call,
) {
    let tally = Arc::new(Tally::default());
    let mut callers = JoinSet::new();
    for (client, record) in clients.iter().zip(records.iter().cycle()) {
        let caller = Caller {
            client: client.clone(),
            plan: plan.clone(),
            call: call.clone(),
            record: Arc::clone(record),
            tally: Arc::clone(&tally),
        };
        match options.kind() {
            Loop::Closed(in_flight) => (0..in_flight).for_each(|_| drop(callers.spawn(caller.clone().one_by_one()))),
            Loop::Open(_) => drop(callers.spawn(caller.when_due(options.callers() as usize))),
        }
    }
    progress::show(unit, &tally, callers.join_all()).await;
}

#[derive(Clone)]
struct Caller<C> {
    client: Client,
    plan: Plan,
    call: C,
    record: Arc<Record>,
    tally: Arc<Tally>,
}

impl<C: Call> Caller<C> {
    /// A closed loop: the next call when the last one is answered.
    async fn one_by_one(mut self) {
        while let Some(due) = self.plan.next().await {
            self.make(due).await;
        }
    }

    /// An open loop: each call when it is due, with so many at once. One task for a whole connection: with one for each
    /// call, hundreds wait for the next that is due, and to choose and wake one of them costs as much as a call.
    async fn when_due(self, in_flight: usize) {
        let mut calls = FuturesUnordered::new();
        // Since when there is a place for a call: what was due before has waited for the server.
        let mut free_since = Instant::now();
        loop {
            tokio::select! {
                due = self.plan.next(), if calls.len() < in_flight => {
                    let Some(due) = due else { break };
                    if due.measured {
                        self.record.add_late(free_since.max(due.at).elapsed());
                    }
                    let mut caller = self.clone();
                    calls.push(async move { caller.make(due).await });
                }
                Some(()) = calls.next() => {
                    if calls.len() + 1 == in_flight {
                        free_since = Instant::now();
                    }
                }
            }
        }
        while calls.next().await.is_some() {}
    }

    async fn make(&mut self, due: Due) {
        let outcome = self.call.call(&mut self.client, &due).await;
        let outcome = outcome.map_err(|status| status.code());
        self.tally.add(outcome.is_ok());
        if due.measured {
            self.call.record(&due, &self.record).add(due.at, outcome);
        }
        if outcome == Err(Code::Unavailable) {
            tokio::time::sleep(REST).await;
        }
    }
}
