//! What the committer tells of a frame that has traced messages.

use std::ops::Range;
use std::time::Instant;

use super::publisher::Queued;
use super::release::CommittedMessage;
use crate::telemetry::traces::{About, BatchTrace, Traces};
use crate::wal::Writer;

/// A frame that is durable or was not written; told once its publishers are answered, because nobody waits for that.
#[derive(Debug)]
pub(super) struct TracedFrame {
    trace: BatchTrace,
    span: Range<Instant>,
    sync: Option<Range<Instant>>,
    about: About,
}

impl TracedFrame {
    /// A frame with `any` traced messages is durable: they are told that they are in it. `taken` is when they left the queue.
    pub fn committed(
        traces: &Traces,
        any: bool,
        messages: &mut [CommittedMessage],
        taken: Instant,
        (writer, bytes): (&Writer, usize),
    ) -> Option<Self> {
        let mut trace = traces.batch(|| any)?;
        let span = taken..Instant::now();
        for message in &mut *messages {
            if let Some(publish) = &mut message.publish.trace {
                publish.committed(&mut trace, taken, message.id);
            }
        }
        let last = messages.last().map_or(0, |message| message.sequence.get());
        let about =
            About::messages(messages.len()).with("walcast.log.bytes", bytes as u64).with("walcast.log.sequence", last);
        Some(Self { trace, span, sync: writer.last_sync(), about })
    }

    /// The log has failed with these messages.
    pub fn failed(traces: &Traces, any: bool, messages: &mut [CommittedMessage], taken: Instant) {
        let Some(mut trace) = traces.batch(|| any) else { return };
        for publish in messages.iter_mut().filter_map(|message| message.publish.trace.as_mut()) {
            publish.log_failed(&mut trace, taken);
        }
        Self::without(trace, messages.len(), taken).tell();
    }

    /// The log has failed before these were numbered.
    pub fn failed_early(traces: &Traces, queued: &mut [Queued], taken: Instant) {
        let messages = queued.iter().map(Queued::len).sum();
        let Some(mut trace) = traces.batch(|| queued.iter().any(Queued::has_trace)) else { return };
        for queued in queued {
            queued.for_each_trace(|publish| publish.log_failed(&mut trace, taken));
        }
        Self::without(trace, messages, taken).tell();
    }

    fn without(trace: BatchTrace, messages: usize, taken: Instant) -> Self {
        let about = About::messages(messages).failed("LOG_FAILED");
        Self { trace, span: taken..Instant::now(), sync: None, about }
    }

    /// Exports its spans.
    pub fn tell(self) {
        if let Some(sync) = self.sync {
            self.trace.child("fdatasync", sync);
        }
        self.trace.end("log commit", self.span, self.about);
    }
}
