//! From what is known of a span to what the exporter takes.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Link, SpanId, SpanKind, Status, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::SpanPlace;
use crate::event::clock;

/// Whose names are used: <https://opentelemetry.io/docs/specs/semconv/>.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.45.0";

/// Shared by all spans: a clone is one count.
static SCOPE: LazyLock<InstrumentationScope> = LazyLock::new(|| {
    InstrumentationScope::builder("walcast")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(CONVENTIONS)
        .build()
});

/// Wall-clock times of one trace from durations: its spans add up even if the wall clock is put while it lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    wall: SystemTime,
    at: Instant,
}

impl Times {
    pub fn now() -> Self {
        let micros = u64::try_from(clock::now().as_micros()).unwrap_or(0);
        Self { wall: UNIX_EPOCH + Duration::from_micros(micros), at: Instant::now() }
    }

    pub fn begun(self) -> Instant {
        self.at
    }

    fn wall(self, at: Instant) -> SystemTime {
        match at.checked_duration_since(self.at) {
            Some(later) => self.wall + later,
            None => self.wall - (self.at - at),
        }
    }
}

/// A span that is over.
pub(super) struct Finished<'a> {
    pub name: &'static str,
    pub kind: SpanKind,
    pub place: SpanPlace,
    pub state: &'a TraceState,
    pub parent: Option<SpanId>,
    /// The parent is a span of another process.
    pub remote: bool,
    pub span: Range<Instant>,
    pub attributes: Vec<KeyValue>,
    pub links: Vec<Link>,
    /// Links that were not kept.
    pub left_off: u32,
    pub status: Status,
}

impl<'a> Finished<'a> {
    pub fn new(name: &'static str, place: SpanPlace, state: &'a TraceState, span: Range<Instant>) -> Self {
        Self {
            name,
            kind: SpanKind::Internal,
            place,
            state,
            parent: None,
            remote: false,
            span,
            attributes: Vec::new(),
            links: Vec::new(),
            left_off: 0,
            status: Status::Unset,
        }
    }

    /// It is an error of the broker's, of this kind.
    pub fn failed(&mut self, kind: &'static str) {
        self.attributes.push(text("error.type", kind));
        self.status = Status::error("");
    }

    pub fn into_data(self, times: Times) -> SpanData {
        let mut links = SpanLinks::default();
        links.links = self.links;
        links.dropped_count = self.left_off;
        SpanData {
            span_context: self.place.context(self.state),
            parent_span_id: self.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.remote,
            span_kind: self.kind,
            name: self.name.into(),
            start_time: times.wall(self.span.start),
            end_time: times.wall(self.span.end),
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: self.status,
            instrumentation_scope: SCOPE.clone(),
        }
    }
}

/// A link that says what is at its other end.
pub(super) fn link(to: SpanPlace, state: &TraceState) -> Link {
    Link::new(to.context(state), Vec::new(), 0)
}

pub(super) fn text(key: &'static str, value: impl Into<opentelemetry::StringValue>) -> KeyValue {
    KeyValue::new(key, value.into())
}

pub(super) fn number(key: &'static str, value: u64) -> KeyValue {
    KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX))
}
