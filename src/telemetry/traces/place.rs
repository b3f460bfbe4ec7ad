//! A span as others refer to it.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::event::Traceparent;

/// A sampled span of some trace, ours or somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanPlace {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

impl SpanPlace {
    /// The span that a traceparent names, if that is sampled.
    ///
    /// For the text of a record: it was valid when it was written. Anything else is no place.
    pub fn sampled(traceparent: &str) -> Option<Self> {
        let flags = u8::from_str_radix(traceparent.get(53..55)?, 16).ok()?;
        if flags & TraceFlags::SAMPLED.to_u8() == 0 {
            return None;
        }
        let trace = TraceId::from_hex(traceparent.get(3..35)?).ok()?;
        let span = SpanId::from_hex(traceparent.get(36..52)?).ok()?;
        (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Self { trace, span })
    }

    /// A span that begins a trace.
    pub(super) fn root() -> Self {
        // Zero, which neither may be, comes up once in 2^64; such a span is lost.
        Self { trace: TraceId::from_bytes(rand::random()), span: span_id() }
    }

    /// Another span of the same trace.
    pub(super) fn beside(self) -> Self {
        Self { span: span_id(), ..self }
    }

    /// As it is handed on.
    pub(super) fn traceparent(self) -> Option<Traceparent> {
        Traceparent::parse(format!("00-{}-{}-01", self.trace, self.span).as_bytes())
    }

    pub(super) fn context(self, state: &TraceState) -> SpanContext {
        SpanContext::new(self.trace, self.span, TraceFlags::SAMPLED, false, state.clone())
    }
}

fn span_id() -> SpanId {
    SpanId::from_bytes(rand::random())
}
