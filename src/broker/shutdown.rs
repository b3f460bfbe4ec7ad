//! The end of the broker: in order on a signal, at once on a failure.

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Error, ErrorKind};
use super::failures;
use super::housekeeping::HousekeepingError;
use super::supervisor::{End, Supervisor, TaskError, tasks};
use crate::api::{Lifecycle, Phase};
use crate::delivery::Delivery;
use crate::event::clock;
use crate::forward::Forward;
use crate::index::{Index, IndexerError};
use crate::ingest::Publisher;
use crate::projector::ProjectorError;
use crate::telemetry::metrics::FailureMetrics;
use crate::telemetry::traces;
use crate::wal::{Log, ReadError, VerifyError};

/// How long a failed broker takes to tell its clients before it ends.
const FAILED_GRACE: Duration = Duration::from_secs(2);

/// A task that ends without an error did so because another failed, whose end is not far.
const ROOT_GRACE: Duration = Duration::from_millis(200);

/// How long the last checkpoint may take beyond the grace period: 40 MB for a million subjects.
const LAST_CHECKPOINT: Duration = Duration::from_secs(5);

/// The exit code of a second signal: the usual one of a process that SIGTERM ended.
const SECOND_SIGNAL_EXIT: i32 = 143;

/// What is running, and how each part is told to end.
#[derive(Debug)]
pub struct Running {
    /// Everything that runs.
    pub supervisor: Supervisor,
    /// The phase.
    pub lifecycle: Lifecycle,
    /// Whether it has failed decides what is left for the next process.
    pub log: Log,
    /// Where that is left.
    pub data_dir: PathBuf,
    /// Counts it meanwhile.
    pub log_failures: FailureMetrics,
    /// Takes no more publishes once told.
    pub publisher: Publisher,
    /// Writes what is in memory once told.
    pub index: Index,
    /// Ends the streams.
    pub delivery: Delivery,
    /// Ends the streams from other nodes of the cluster.
    pub forward: Option<Forward>,
    /// Ends the gRPC server once its connections are done.
    pub grpc_stop: CancellationToken,
    /// Ends what moves slots.
    pub moves_stop: CancellationToken,
    /// Ends the projector after a flush.
    pub projector_stop: CancellationToken,
    /// Ends the admin port.
    pub admin_stop: CancellationToken,
    /// Lets the exporter of traces send what it has, and end.
    pub traces_stop: traces::Stop,
    /// How long an orderly stop takes at most.
    pub grace: Duration,
}

/// Does what is left until the broker serves, waits for a signal or a failure, which may come before, and ends the broker.
///
/// # Errors
/// [`Error::Task`] if a task ended by itself.
pub async fn until_stopped(
    mut running: Running,
    mut signals: Signals,
    serve: impl Future<Output = ()>,
) -> Result<(), Error> {
    let serve = async {
        serve.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        never = serve => match never {},
        name = signals.next() => {
            tracing::info!(signal = name, grace_s = running.grace.as_secs(), "shutting down");
            exit_on_second(signals);
            stop_in_order(running).await
        }
        end = running.supervisor.next_end() => Err(stop_failed(running, end).await),
    }
}

/// SIGTERM and SIGINT, which mean the same. Taken over when made, and kept until they are asked for.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes both over from the system, whose default would end the process at once.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn exit_on_second(mut signals: Signals) {
    #[expect(clippy::disallowed_methods, reason = "it ends the process; nothing supervises that")]
    let waiting = tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "second signal: exiting at once");
        std::process::exit(SECOND_SIGNAL_EXIT);
    });
    drop(waiting);
}

/// Ends the rooms from the edge inwards, so that nothing acknowledged or read is cut off.
async fn stop_in_order(running: Running) -> Result<(), Error> {
    let Running { mut supervisor, lifecycle, publisher, index, delivery, forward, .. } = running;
    let Running { grpc_stop, moves_stop, projector_stop, admin_stop, traces_stop, grace, .. } = running;
    let deadline = Instant::now() + grace;
    // New calls are refused and health says so; what was admitted is made durable and answered.
    lifecycle.advance(Phase::Draining);
    let mut ends = Vec::new();
    // A move that is not decided is given up: the slots stay.
    moves_stop.cancel();
    let names = &[tasks::MOVES, tasks::LAYOUT];
    in_time(deadline, tasks::MOVES, async { ends.extend(supervisor.ended(names).await) }).await;
    let committed = async {
        publisher.stop().await;
        ends.extend(supervisor.ended(&[tasks::COMMITTER, tasks::RELEASER]).await);
        delivery.close_in_order().await;
        if let Some(forward) = &forward {
            forward.close();
        }
    };
    in_time(deadline, "what was admitted to be durable", committed).await;
    // The store is flushed while clients go: one that never goes must not cost the flush.
    projector_stop.cancel();
    grpc_stop.cancel();
    in_time(deadline, tasks::PROJECTOR, async { ends.extend(supervisor.ended(&[tasks::PROJECTOR]).await) }).await;
    in_time(deadline, tasks::GRPC, async { ends.extend(supervisor.ended(&[tasks::GRPC]).await) }).await;
    index.stop();
    // Nothing is traced any more.
    traces_stop.now();
    in_time(deadline, tasks::TRACES, async { ends.extend(supervisor.ended(&[tasks::TRACES]).await) }).await;
    admin_stop.cancel();
    in_time(deadline, tasks::ADMIN, async { ends.extend(supervisor.ended(&[tasks::ADMIN]).await) }).await;
    // The committer's trigger is gone with it: the housekeeper takes its last checkpoint, which is short and local.
    let last = Instant::now() + LAST_CHECKPOINT;
    let names = &[tasks::HOUSEKEEPER, tasks::INDEXER];
    in_time(last, tasks::HOUSEKEEPER, async { ends.extend(supervisor.ended(names).await) }).await;
    ends.into_iter().try_for_each(failure)?;
    tracing::info!("stopped");
    Ok(())
}

async fn in_time(deadline: Instant, what: &'static str, work: impl Future<Output = ()>) {
    if tokio::time::timeout_at(deadline, work).await.is_err() {
        tracing::info!(waiting_for = what, "the grace period is over");
    }
}

fn failure(end: End) -> Result<(), Error> {
    end.result.map_err(|error| Error::Task { name: end.name, reason: error.to_string(), kind: kind_of(&error) })
}

/// Damage that was found after the start ends the broker as damage found at the start does.
fn kind_of(error: &TaskError) -> ErrorKind {
    let damaged = matches!(error.downcast_ref(), Some(HousekeepingError::Verify(VerifyError::Damaged(_))))
        || matches!(error.downcast_ref(), Some(ProjectorError::Read(ReadError::Damaged(_))))
        || matches!(
            error.downcast_ref(),
            Some(IndexerError::Read(ReadError::Damaged(_)) | IndexerError::Record { .. })
        );
    if damaged { ErrorKind::Damaged } else { ErrorKind::Failed }
}

/// The end that tells why: the first one with an error, if it comes in a moment.
async fn root_of(end: End, supervisor: &mut Supervisor) -> End {
    if end.result.is_err() {
        return end;
    }
    let failed = async {
        loop {
            let next = supervisor.next_end().await;
            if next.result.is_err() {
                return next;
            }
        }
    };
    tokio::time::timeout(ROOT_GRACE, failed).await.unwrap_or(end)
}

/// Tells clients what can be told in a moment; nothing more is acknowledged.
async fn stop_failed(running: Running, end: End) -> Error {
    let Running { mut supervisor, lifecycle, delivery, forward, grpc_stop, log, data_dir, log_failures, .. } = running;
    let end = root_of(end, &mut supervisor).await;
    let (reason, kind) = match end.result {
        Ok(()) => ("it ended although nobody told it to".to_owned(), ErrorKind::Failed),
        Err(error) => (error.to_string(), kind_of(&error)),
    };
    tracing::error!(task = end.name, %reason, "a task failed; the broker ends");
    lifecycle.advance(Phase::Failed);
    delivery.close();
    if let Some(forward) = &forward {
        forward.close();
    }
    if log.is_failed() {
        log_failures.add(1, clock::now().as_seconds_f64());
        failures::leave_one_more(&data_dir).await;
    }
    // Health watchers and callers get their answers before the connections end.
    tokio::time::sleep(FAILED_GRACE / 4).await;
    grpc_stop.cancel();
    drop(tokio::time::timeout(FAILED_GRACE, supervisor.ended(&[tasks::GRPC])).await);
    Error::Task { name: end.name, reason, kind }
}
