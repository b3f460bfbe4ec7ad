//! One call that is traced.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{HeaderMap, HeaderName};
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanKind, Status, TraceState};
use tonic::Code;

use super::current::{Current, Entered};
use super::span::{Finished, Times, number, text};
use super::{Inner, SpanPlace, Traces};
use crate::event::{MessageId, Subject, Traceparent};
use crate::telemetry::metrics::{Method, code_name};

/// As a name: a look-up by text checks and folds the text each time, 33 ns instead of 6.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: &str = "tracestate";

/// The parent of a call that another node of the cluster has passed on. Beside `traceparent`, which stays the publisher's: it is
/// stored with the message.
pub static PARENT: HeaderName = HeaderName::from_static("walcast-parent");

/// Longest `tracestate` that is passed along, in bytes: what W3C Trace Context asks everybody to keep.
const TRACESTATE_BYTES_MAX: usize = 512;

/// A call that is traced; a clone is the same call.
#[derive(Debug, Clone)]
pub struct CallTrace(pub(super) Arc<Call>);

#[derive(Debug)]
pub(super) struct Call {
    pub inner: Arc<Inner>,
    /// Its own span.
    pub place: SpanPlace,
    /// The caller's.
    parent: Option<SpanPlace>,
    /// What the record of its message names.
    stored: SpanPlace,
    pub state: TraceState,
    pub times: Times,
    pub method: Method,
    /// The message that it is about, once that is known.
    about: OnceLock<About>,
    pub id: OnceLock<MessageId>,
    /// When its message was durable and visible, or refused.
    pub answered: OnceLock<Instant>,
}

#[derive(Debug)]
struct About {
    subject: Box<str>,
    body_bytes: Option<usize>,
}

impl Traces {
    /// Begins the trace of a call, if it has a sampled parent, or if it has none and its number is drawn. What only operators call
    /// is not traced.
    pub fn call(&self, method: Method, headers: &HeaderMap) -> Option<CallTrace> {
        let inner = self.0.as_ref()?;
        // A stream of publishes lasts for as long as its client likes: each of its messages is traced for itself.
        if matches!(method, Method::Other | Method::PublishStream) {
            return None;
        }
        let publisher = traceparent(headers);
        let hop = headers.get(&PARENT).and_then(|value| Traceparent::valid(value.as_bytes()));
        let mut call = inner.begin(method, hop.or(publisher))?;
        if hop.is_some() {
            call.stored = publisher.and_then(SpanPlace::sampled).unwrap_or(call.place);
        }
        Some(CallTrace(Arc::new(Call { state: tracestate(headers, call.parent), ..call })))
    }

    /// Begins the trace of one message of a stream, whose metadata have this parent.
    pub fn message(&self, parent: Option<&Traceparent>) -> Option<CallTrace> {
        let inner = self.0.as_ref()?;
        inner.begin(Method::PublishStream, parent.map(Traceparent::as_str)).map(|call| CallTrace(Arc::new(call)))
    }
}

impl Inner {
    fn begin(self: &Arc<Self>, method: Method, parent: Option<&str>) -> Option<Call> {
        let parent = match parent {
            Some(traceparent) => Some(SpanPlace::sampled(traceparent)?),
            None if self.draws() => None,
            None => return None,
        };
        let place = parent.map_or_else(SpanPlace::root, SpanPlace::beside);
        Some(Call {
            inner: Arc::clone(self),
            place,
            parent,
            stored: parent.unwrap_or(place),
            state: TraceState::NONE,
            times: Times::now(),
            method,
            about: OnceLock::new(),
            id: OnceLock::new(),
            answered: OnceLock::new(),
        })
    }
}

/// The `traceparent` of a call, if it is valid. Several are as good as none: nobody can say which is right.
pub fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { Traceparent::valid(first.as_bytes()) }
}

/// Only with a parent: without one it says nothing of this trace.
fn tracestate(headers: &HeaderMap, parent: Option<SpanPlace>) -> TraceState {
    let value = parent.and_then(|_| headers.get(TRACESTATE)?.to_str().ok());
    let value = value.filter(|text| text.len() <= TRACESTATE_BYTES_MAX);
    value.and_then(|text| TraceState::from_str(text).ok()).unwrap_or_default()
}

impl CallTrace {
    /// What the call is about.
    pub fn about(&self, subject: &Subject, body_bytes: Option<usize>) {
        let about = About { subject: subject.as_str().into(), body_bytes };
        // Said once a call; what was said first stands.
        drop(self.0.about.set(about));
    }

    /// The id of its message.
    pub fn id(&self, id: MessageId) {
        // As above.
        let _known_already = self.0.id.set(id);
    }

    /// The call as the parent of others.
    pub fn traceparent(&self) -> Option<Traceparent> {
        self.0.place.traceparent()
    }

    /// Its trace, for log lines.
    pub fn trace_id(&self) -> impl fmt::Display + use<> {
        self.0.place.trace
    }

    /// Until the guard goes, log lines of this thread are of this call: [`current_trace_id`](super::current_trace_id).
    pub fn enter(&self) -> Entered {
        Current::of(self.0.place.trace).enter()
    }

    /// The call ended with this status.
    pub fn end(&self, code: Code) {
        let now = Instant::now();
        if let Some(answered) = self.0.answered.get() {
            let place = self.0.place.beside();
            let mut span = Finished::new("answer", place, &self.0.state, *answered..now);
            span.parent = Some(self.0.place.span);
            self.0.export(span);
        }
        self.0.end(now, Some(code));
    }
}

impl Call {
    pub fn export(&self, span: Finished<'_>) {
        self.inner.export(span.into_data(self.times));
    }

    /// The place that the record of its message has: the publisher's, or this call's if it has none.
    pub fn stored(&self) -> SpanPlace {
        self.stored
    }

    /// Exports the span of the call. Without a code it is a message of a stream that was refused; why, its answer says.
    pub fn end(&self, at: Instant, code: Option<Code>) {
        let mut span = Finished::new(rpc_method(self.method), self.place, &self.state, self.times.begun()..at);
        span.kind = SpanKind::Server;
        span.parent = self.parent.map(|parent| parent.span);
        span.remote = self.parent.is_some();
        span.attributes = self.attributes();
        match code {
            None => span.status = Status::error("refused"),
            Some(code) => {
                span.attributes.push(text("rpc.response.status_code", code_name(code)));
                if is_our_fault(code) {
                    span.failed(code_name(code));
                }
            }
        }
        self.export(span);
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let (name, kind) = operation(self.method);
        let mut attributes = vec![
            text("rpc.system.name", "grpc"),
            text("rpc.method", rpc_method(self.method)),
            text("messaging.system", "walcast"),
            text("messaging.operation.name", name),
            text("messaging.operation.type", kind),
        ];
        if let Some(About { subject, body_bytes }) = self.about.get() {
            attributes.push(text("messaging.destination.name", subject.to_string()));
            attributes.extend(body_bytes.map(|bytes| number("messaging.message.body.size", bytes as u64)));
        }
        attributes.extend(self.id.get().map(|id| text("messaging.message.id", id.to_string())));
        attributes
    }
}

/// As the conventions name a method: with its service.
pub(super) const fn rpc_method(method: Method) -> &'static str {
    match method {
        Method::Publish => "broker.Broker/Publish",
        Method::PublishStream => "broker.Broker/PublishStream",
        Method::Subscribe => "broker.Broker/Subscribe",
        Method::Fetch => "broker.Broker/Fetch",
        Method::Other => "_OTHER",
    }
}

/// `messaging.operation.name` and `.type`, as its caller sees it.
const fn operation(method: Method) -> (&'static str, &'static str) {
    match method {
        Method::Publish | Method::PublishStream | Method::Other => ("publish", "send"),
        Method::Subscribe => ("subscribe", "receive"),
        Method::Fetch => ("fetch", "receive"),
    }
}

/// The codes that are errors of a gRPC server by the conventions; the others are the caller's.
pub(super) const fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
