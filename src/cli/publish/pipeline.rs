//! `walcast publish --lines --in-flight N`: lines ahead of their acknowledgements, on one stream.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::super::Failure;
use super::super::arguments::PublishArguments;
use super::super::output::Output;
use super::{Source, next_line, publishing, request, write_id};
use crate::proto::client::broker_client::BrokerClient;
use crate::proto::client::{PublishRequest, PublishStreamResponse};

/// Answers that are written at once before the output is flushed.
const BURST: usize = 1_024;

/// Reads lines and hands them to the stream, `window` ahead of the answers.
struct Lines {
    source: Source,
    arguments: PublishArguments,
    window: Arc<Semaphore>,
    sent: flume::Sender<OwnedSemaphorePermit>,
    next: u64,
    /// A line that cannot be read; it ends the stream.
    unreadable: Arc<Mutex<Option<Failure>>>,
}

impl Lines {
    async fn next(mut self) -> Option<(PublishRequest, Self)> {
        let permit = Arc::clone(&self.window).acquire_owned().await.ok()?;
        match next_line(&mut self.source, self.next).await {
            Ok(Some(line)) => {
                // It has as many places as the window has permits.
                self.sent.try_send(permit).ok()?;
                self.next += 1;
                Some((request(&self.arguments, line), self))
            }
            Ok(None) => None,
            Err(failure) => {
                *self.unreadable.lock() = Some(failure);
                None
            }
        }
    }
}

/// Publishes each line in order and writes the ids in order; ends with the first line that is refused.
pub(super) async fn publish_lines(
    mut client: BrokerClient<Channel>,
    arguments: &PublishArguments,
    output: &mut Output,
    source: Source,
) -> Result<(), Failure> {
    let window = Arc::new(Semaphore::new(arguments.in_flight as usize));
    let (sent, in_flight) = flume::bounded(arguments.in_flight as usize);
    let unreadable = Arc::default();
    let lines =
        Lines { source, arguments: arguments.clone(), window, sent, next: 1, unreadable: Arc::clone(&unreadable) };
    let failed = |line: u64, status: &Status| {
        Failure::status(&publishing(arguments, Some(line)), &arguments.server.server, status)
    };
    let answers = client.publish_stream(stream::unfold(lines, Lines::next)).await;
    let mut bursts = answers.map_err(|status| failed(1, &status))?.into_inner().ready_chunks(BURST);
    let mut line = 0;
    while let Some(burst) = bursts.next().await {
        for answer in burst {
            line += 1;
            let answered = match answer {
                Ok(PublishStreamResponse { error: None, id }) => Ok(id),
                Ok(PublishStreamResponse { error: Some(error), .. }) => {
                    Err(Status::new(Code::from_i32(error.code), error.message))
                }
                Err(status) => Err(status),
            };
            let id = match answered {
                Ok(id) => id,
                Err(status) => {
                    output.flush()?;
                    let behind = in_flight.len().saturating_sub(1);
                    let note = format!("; up to {behind} of the lines after it may have been published");
                    let failure = failed(line, &status);
                    return Err(if behind > 0 { failure.with_note(&note) } else { failure });
                }
            };
            // Its permit lets one more line be sent.
            drop(in_flight.try_recv());
            write_id(arguments, output, id)?;
        }
        output.flush()?;
    }
    let unreadable = unreadable.lock().take();
    unreadable.map_or(Ok(()), Err)
}
