//! Where a call belongs: here, or at another node of the cluster.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use prost::Message;
use tonic::Status;

use super::framing::PREFIX_BYTES;
use super::{BrokerService, errors, transport};
use crate::cluster::NotOwner;
use crate::event::Subject;
use crate::forward::{Call, MARKER, Marker, Owner, Reply};
use crate::telemetry::metrics::Method;
use crate::telemetry::traces::{CallTrace, PARENT};

static MARKER_NAME: HeaderName = HeaderName::from_static(MARKER);

/// The node that a call is for instead of this one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elsewhere<'a> {
    owner: &'a Owner,
    subject: NotOwner<'a>,
}

impl BrokerService {
    /// Where a call with these metadata on this subject is to be answered; None: here.
    ///
    /// # Errors
    /// FAILED_PRECONDITION for a call that another node has passed on to the wrong one, or by a layout that contradicts this
    /// node's. INVALID_ARGUMENT for a marker that does not read.
    pub(super) fn elsewhere(&self, subject: &str, headers: &HeaderMap) -> Result<Option<Elsewhere<'_>>, Status> {
        let marker = headers.get(&MARKER_NAME);
        let Some(forward) = &self.forward else {
            return if marker.is_some() { Err(errors::not_in_a_cluster()) } else { Ok(None) };
        };
        let marker = marker.map(|value| value.to_str().unwrap_or_default().parse::<Marker>());
        let marker = marker.transpose().map_err(|error| errors::malformed(&error.to_string()))?;
        if let Some(marker) = &marker
            && marker.contradicts(forward.layout())
        {
            return Err(errors::layouts_differ(marker, forward.layout()));
        }
        match (forward.elsewhere(subject), marker) {
            (None, _) => Ok(None),
            // One hop only: two nodes that take each other for the owner would pass a call on for ever.
            (Some((_, subject)), Some(marker)) => Err(errors::not_owner(&subject, Some(&marker))),
            (Some((owner, subject)), None) => Ok(Some(Elsewhere { owner, subject })),
        }
    }

    /// When the caller gives up, for a call that may be passed on.
    pub(super) fn deadline(&self, headers: &HeaderMap) -> Option<Instant> {
        self.forward.as_ref()?;
        transport::timeout(headers).map(|within| Instant::now() + within)
    }
}

/// A call as its caller sent it.
#[derive(Debug)]
pub(super) struct AsSent {
    pub headers: HeaderMap,
    pub deadline: Option<Instant>,
    pub trace: Option<CallTrace>,
}

impl Elsewhere<'_> {
    /// Passes a call on and returns what its owner said.
    ///
    /// # Errors
    /// The owner's status, UNAVAILABLE if it did not answer, RESOURCE_EXHAUSTED if too much is on its way to it.
    pub async fn answer(self, method: Method, sent: AsSent, framed: Bytes) -> Reply {
        let AsSent { mut headers, deadline, trace } = sent;
        let hop = trace.as_ref().map(CallTrace::pass_on);
        headers.remove(&PARENT);
        if let Some(parent) = hop.as_ref().and_then(|hop| hop.parent()) {
            headers.insert(PARENT.clone(), parent);
        }
        let reply = self.owner.call(Call { method, headers, deadline, framed }).await;
        let reply = reply.unwrap_or_else(|error| Err(errors::forward(&error, &self.subject)));
        if let Some(hop) = hop {
            let code = reply.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
            hop.end(self.owner.name(), code);
        }
        reply
    }
}

/// Notes what a call that is passed on is about.
pub(super) fn about(trace: Option<&CallTrace>, subject: &str, body_bytes: Option<usize>) {
    if let Some(trace) = trace
        && let Ok(subject) = Subject::new(subject.to_owned())
    {
        trace.about(&subject, body_bytes);
    }
}

/// A message with its prefix.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).expect("a message that was read has less than 4 GiB"));
    message.encode_raw(&mut buffer);
    buffer.freeze()
}
