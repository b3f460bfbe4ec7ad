//! What the committer tells of a frame that has traced messages.

use std::time::Instant;

use super::release::CommittedMessage;
use crate::telemetry::traces::{About, Traces};
use crate::wal::Writer;

/// A frame is durable: its trace, and in those of its messages that they are in it. `taken` is when they left the queue.
pub(super) fn committed(
    traces: &Traces,
    messages: &mut [CommittedMessage],
    taken: Instant,
    writer: &Writer,
    bytes: usize,
) {
    let Some(mut frame) = traces.batch(|| messages.iter().any(|message| message.publish.trace.is_some())) else {
        return;
    };
    for message in &mut *messages {
        if let Some(trace) = &mut message.publish.trace {
            trace.committed(&mut frame, taken, message.id);
        }
    }
    if let Some(sync) = writer.last_sync() {
        frame.child("fdatasync", sync);
    }
    let last = messages.last().map_or(0, |message| message.sequence.get());
    let about =
        About::messages(messages.len()).with("walcast.log.bytes", bytes as u64).with("walcast.log.sequence", last);
    frame.end("log commit", taken, about);
}
