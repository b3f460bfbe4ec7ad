//! One publish that is traced, on its way through the broker.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry::trace::Link;
use tonic::Code;

use super::SpanPlace;
use super::batch::BatchTrace;
use super::call::{Call, CallTrace};
use super::span::{Finished, text};
use crate::event::MessageId;

/// The stages of a publish. Its spans are exported when it is dropped: a publish that is refused has those that it came to.
#[derive(Debug)]
pub struct PublishTrace {
    call: Arc<Call>,
    /// The call is this publish only, and ends with it: a message of a stream.
    whole: bool,
    queued: Option<Instant>,
    committed: Option<InLog>,
    repeats: bool,
}

#[derive(Debug)]
struct InLog {
    taken: Instant,
    place: SpanPlace,
    frame: Link,
    /// Why it is not in the log after all.
    error: Option<&'static str>,
}

impl CallTrace {
    /// The publish of a call that has a status of its own.
    pub fn publish(&self) -> Box<PublishTrace> {
        Box::new(PublishTrace {
            call: Arc::clone(&self.0),
            whole: false,
            queued: None,
            committed: None,
            repeats: false,
        })
    }

    /// The publish of a message of a stream, whose trace ends with it.
    pub fn whole_publish(self) -> Box<PublishTrace> {
        Box::new(PublishTrace { call: self.0, whole: true, queued: None, committed: None, repeats: false })
    }
}

impl PublishTrace {
    /// It was admitted, and waits for the committer since then.
    pub fn queued(&mut self, since: Instant) {
        self.queued = Some(since);
    }

    /// It is in the frame that `frame` tells of, was taken for it at `taken`, and has this id.
    pub fn committed(&mut self, frame: &mut BatchTrace, taken: Instant, id: MessageId) {
        let _known_already = self.call.id.set(id);
        self.in_frame(frame, taken, None);
    }

    /// The log has failed with the frame that `frame` tells of, for which it was taken at `taken`. About to be answered.
    pub fn log_failed(&mut self, frame: &mut BatchTrace, taken: Instant) {
        self.in_frame(frame, taken, Some("LOG_FAILED"));
        self.answered(Instant::now());
    }

    fn in_frame(&mut self, frame: &mut BatchTrace, taken: Instant, error: Option<&'static str>) {
        let place = self.call.place.beside();
        frame.link(place, &self.call.state);
        self.committed = Some(InLog { taken, place, frame: frame.as_link(), error });
    }

    /// It is another publish again, by its idempotency key.
    pub fn repeats(&mut self) {
        self.repeats = true;
    }

    /// It is durable and visible, and about to be answered.
    pub fn answered(&mut self, at: Instant) {
        let _answered_already = self.call.answered.set(at);
    }

    /// Where its record says that it belongs.
    pub fn stored(&self) -> Box<SpanPlace> {
        Box::new(self.call.stored())
    }

    fn stage(&self, name: &'static str, place: SpanPlace, begin: Instant, end: Instant) -> Finished<'_> {
        let mut span = Finished::new(name, place, &self.call.state, begin..end);
        span.parent = Some(self.call.place.span);
        span.attributes = vec![text("messaging.system", "walcast")];
        span
    }
}

impl Drop for PublishTrace {
    fn drop(&mut self) {
        let call = &self.call;
        // What was refused or repeats another publish is answered from here on.
        let end = *call.answered.get_or_init(Instant::now);
        let spans = 1 + u64::from(self.queued.is_some()) + u64::from(self.committed.is_some()) + u64::from(self.whole);
        if !call.inner.has_room(spans) {
            return;
        }
        let taken = self.committed.as_ref().map_or(end, |committed| committed.taken);
        let queued = self.queued.unwrap_or(end);
        call.export(self.stage("admission", call.place.beside(), call.times.begun(), queued));
        if self.queued.is_some() {
            call.export(self.stage("queue", call.place.beside(), queued, taken));
        }
        if let Some(InLog { place, frame, error, .. }) = &self.committed {
            let mut commit = self.stage("commit", *place, taken, end);
            commit.links = vec![frame.clone()];
            if let Some(error) = *error {
                commit.failed(error);
            }
            call.export(commit);
        }
        if self.whole {
            let code = match &self.committed {
                Some(InLog { error: Some(_), .. }) => Some(Code::Unavailable),
                Some(_) => Some(Code::Ok),
                None => self.repeats.then_some(Code::Ok),
            };
            call.end(end, code);
        }
    }
}
