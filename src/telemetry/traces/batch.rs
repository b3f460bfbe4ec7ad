//! What is done for many messages at once: a trace of its own, linked with those of its messages.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, SpanKind, TraceState};

use super::span::{Finished, Times, link, number, text};
use super::{Inner, SpanPlace, Traces};
use crate::event::{MessageId, Subject};

/// Messages that a batch is linked with: what the SDK takes of a span by default. A frame has up to 8,192, and a caller that
/// samples everything is no reason to write as many spans.
pub const LINKS_MAX: usize = 128;

/// A frame of the log, a batch for the store or a hand-off to subscribers, while it lasts.
#[derive(Debug)]
pub struct BatchTrace {
    inner: Arc<Inner>,
    times: Times,
    place: SpanPlace,
    links: Vec<Link>,
    /// Messages that are traced and not linked.
    left_off: u32,
}

/// A traced message of a batch, by what is known of it there.
#[derive(Debug, Clone)]
pub struct Member {
    /// Where its record says that it belongs.
    pub place: SpanPlace,
    /// Its subject.
    pub subject: Subject,
    /// Its id.
    pub id: MessageId,
}

impl Traces {
    /// Begins the trace of a batch, if any message of it is traced.
    pub fn batch(&self, any: impl FnOnce() -> bool) -> Option<BatchTrace> {
        let inner = self.0.as_ref()?;
        any().then(|| BatchTrace {
            inner: Arc::clone(inner),
            times: Times::now(),
            place: SpanPlace::root(),
            links: Vec::new(),
            left_off: 0,
        })
    }
}

impl BatchTrace {
    /// Links it with a span of a message's trace.
    pub(super) fn link(&mut self, to: SpanPlace, state: &TraceState) {
        if self.has_room() {
            self.links.push(link(to, state));
        }
    }

    /// Whether one more message is linked; else it is counted.
    fn has_room(&mut self) -> bool {
        let room = self.links.len() < LINKS_MAX;
        self.left_off += u32::from(!room);
        room
    }

    pub(super) fn as_link(&self) -> Link {
        link(self.place, &TraceState::NONE)
    }

    /// A part of it.
    pub fn child(&self, name: &'static str, span: Range<Instant>) {
        let mut part = Finished::new(name, self.place.beside(), &TraceState::NONE, span);
        part.parent = Some(self.place.span);
        self.inner.export(part.into_data(self.times));
    }

    /// What was done for one of its messages, in the trace of that message; linked both ways.
    pub fn member(&mut self, name: &'static str, member: &Member, span: Range<Instant>) {
        if !self.has_room() || !self.inner.has_room(1) {
            return;
        }
        let place = member.place.beside();
        let mut part = Finished::new(name, place, &TraceState::NONE, span);
        part.parent = Some(member.place.span);
        part.remote = true;
        part.attributes = vec![
            text("messaging.system", "walcast"),
            text("messaging.destination.name", member.subject.as_str().to_owned()),
            text("messaging.message.id", member.id.to_string()),
        ];
        part.links = vec![self.as_link()];
        self.inner.export(part.into_data(self.times));
        self.links.push(link(place, &TraceState::NONE));
    }

    /// It took from the begin of `span` to its end.
    pub fn end(self, name: &'static str, span: Range<Instant>, about: About) {
        let mut span = Finished::new(name, self.place, &TraceState::NONE, span);
        let About { attributes, client, failed } = about;
        span.kind = if client { SpanKind::Client } else { SpanKind::Internal };
        span.attributes = attributes;
        span.attributes.push(text("messaging.system", "walcast"));
        if self.left_off > 0 {
            span.attributes.push(number("walcast.links.left_off", self.left_off.into()));
        }
        if let Some(kind) = failed {
            span.failed(kind);
        }
        span.links = self.links;
        span.left_off = self.left_off;
        self.inner.export(span.into_data(self.times));
    }
}

/// What the span of a batch says.
#[derive(Debug, Default)]
pub struct About {
    attributes: Vec<KeyValue>,
    client: bool,
    /// The kind of error.
    failed: Option<&'static str>,
}

impl About {
    /// So many messages.
    pub fn messages(count: usize) -> Self {
        Self::default().with("messaging.batch.message_count", count as u64)
    }

    /// A number that one of ours names.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: u64) -> Self {
        self.attributes.push(number(key, value));
        self
    }

    /// It was written to this store, as the configuration names its kind.
    #[must_use]
    pub fn store(mut self, kind: &'static str) -> Self {
        let (system, client) = match kind {
            "postgres" => ("postgresql", true),
            "embedded" => ("fjall", false),
            other => (other, true),
        };
        self.client = client;
        self.attributes.push(text("db.system.name", system));
        self
    }

    /// What became of it.
    #[must_use]
    pub fn outcome(mut self, outcome: &'static str) -> Self {
        self.attributes.push(text("walcast.outcome", outcome));
        self
    }

    /// It failed, with an error of this kind.
    #[must_use]
    pub fn failed(self, kind: &'static str) -> Self {
        Self { failed: Some(kind), ..self }
    }
}
