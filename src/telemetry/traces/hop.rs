//! A call on its way to another node of the cluster.

use std::time::Instant;

use http::HeaderValue;
use opentelemetry::trace::{SpanKind, Status};
use tonic::Code;

use super::SpanPlace;
use super::call::{CallTrace, is_our_fault, rpc_method};
use super::span::{Finished, text};
use crate::telemetry::metrics::code_name;

/// A traced call that is passed on: the parent of what the other node makes of it.
#[derive(Debug)]
pub struct Hop {
    call: CallTrace,
    place: SpanPlace,
    began: Instant,
}

impl CallTrace {
    /// The call is passed on from now on.
    pub fn pass_on(&self) -> Hop {
        Hop { call: self.clone(), place: self.0.place.beside(), began: Instant::now() }
    }
}

impl Hop {
    /// What the other node is told, as [`super::PARENT`].
    pub fn parent(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(self.place.traceparent()?.as_str()).ok()
    }

    /// The other node has answered, or is taken for dead.
    pub fn end(self, node: &str, code: Code) {
        let call = &self.call.0;
        let mut span = Finished::new("forward", self.place, &call.state, self.began..Instant::now());
        span.kind = SpanKind::Client;
        span.parent = Some(call.place.span);
        span.attributes = vec![
            text("rpc.system.name", "grpc"),
            text("rpc.method", rpc_method(call.method)),
            text("rpc.response.status_code", code_name(code)),
            text("walcast.node", node.to_owned()),
        ];
        if is_our_fault(code) {
            span.attributes.push(text("error.type", code_name(code)));
            span.status = Status::error("");
        }
        call.export(span);
    }
}
