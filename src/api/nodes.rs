//! What other nodes of the cluster ask: the `walcast.nodes.v1.Nodes` service. Hands on, translates errors.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use super::lifecycle::Phase;
use super::{BrokerService, errors};
use crate::cluster::ChangeError;
use crate::forward::Marker;
use crate::ingest::{PublishError, TakeOverError};
use crate::proto::nodes;
use crate::proto::nodes::nodes_server::Nodes;
use crate::transfer::{TakeError, TakeOver, Transfer};

/// The service of a node.
#[derive(Debug, Clone)]
pub struct NodesService {
    /// Knows who may call.
    pub broker: BrokerService,
    /// Where calls go.
    pub transfer: Transfer,
}

impl NodesService {
    /// Who calls.
    fn caller<T>(&self, request: &Request<T>) -> Result<Marker, Status> {
        let marker = self.broker.marker(request.metadata().as_ref())?;
        marker.ok_or_else(|| Status::permission_denied("this is for other nodes of the cluster only"))
    }
}

type Done = Pin<Box<dyn Stream<Item = Result<nodes::Done, Status>> + Send>>;

#[tonic::async_trait]
impl Nodes for NodesService {
    async fn exchange(&self, request: Request<nodes::Moves>) -> Result<Response<nodes::Moves>, Status> {
        // Before it serves, too: nodes that start together would wait for each other.
        if self.broker.lifecycle.phase() != Phase::Starting {
            self.broker.check_serving()?;
        }
        self.caller(&request)?;
        let (transfer, moves) = (self.transfer.clone(), request.into_inner());
        // It goes on when the caller is gone: all rooms here must hear of what has changed, or none.
        #[expect(clippy::disallowed_methods, reason = "it waits for the committer, the disk and the fan-out, and ends")]
        let learning = tokio::spawn(async move { transfer.learn_from(moves).await });
        let learnt = learning.await.map_err(|ended| Status::internal(ended.to_string()))?;
        learnt.map_err(|error| match error {
            ChangeError::Kept(_) => Status::internal(error.to_string()),
            ChangeError::Slots(_) => Status::invalid_argument(error.to_string()),
            ChangeError::Learn(_) | ChangeError::NotReady { .. } => Status::failed_precondition(error.to_string()),
        })?;
        Ok(Response::new(self.transfer.known()))
    }

    type HandOverStream = Done;

    async fn hand_over(&self, request: Request<Streaming<nodes::Step>>) -> Result<Response<Done>, Status> {
        self.broker.check_serving()?;
        let Marker { node, .. } = self.caller(&request)?;
        let (taking, steps) = (self.transfer.take_over(node), request.into_inner());
        Ok(Response::new(answers(taking, steps, self.broker.lifecycle.watch()).boxed()))
    }
}

/// One answer to each step; the first error ends it, and so does this node's stop, which would wait for the other node's next step.
fn answers(
    taking: TakeOver,
    steps: Streaming<nodes::Step>,
    phases: watch::Receiver<Phase>,
) -> impl Stream<Item = Result<nodes::Done, Status>> + Send {
    futures_util::stream::try_unfold((taking, steps, phases), |(mut taking, mut steps, mut phases)| async {
        let step = tokio::select! {
            step = steps.message() => step?,
            () = stops(&mut phases) => return Err(errors::shutting_down()),
        };
        let Some(step) = step else { return Ok(None) };
        let done = taking.step(step).await.map_err(|error| refused(&error))?;
        Ok(Some((done, (taking, steps, phases))))
    })
}

async fn stops(phases: &mut watch::Receiver<Phase>) {
    // An error means that the broker has gone.
    drop(phases.wait_for(|phase| *phase != Phase::Serving).await);
}

/// A step that was not taken. The other node goes on owning the slots, and says to its operator why.
fn refused(error: &TakeError) -> Status {
    let code = match error {
        TakeError::TakeOver(TakeOverError::Publish(PublishError::LogFailed | PublishError::ShuttingDown))
        | TakeError::Busy { .. } => Code::Unavailable,
        TakeError::TakeOver(_) => Code::ResourceExhausted,
        TakeError::Order(_) | TakeError::Slots(_) | TakeError::Records(_) => Code::InvalidArgument,
        TakeError::NotOwner { .. } | TakeError::Store { .. } => Code::FailedPrecondition,
        TakeError::Kept(_) => Code::Internal,
    };
    errors::of_nodes(code, error.to_string())
}
