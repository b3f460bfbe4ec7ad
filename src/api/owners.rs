//! Where a call belongs: here, or at another node of the cluster.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use tonic::{Code, Status};

use super::{BrokerService, errors, transport};
use crate::cluster::Slot;
use crate::event::Subject;
use crate::forward::{
    Ask, Call, Forward, ForwardError, ForwardedSubscription, MARKER, Marker, OWED_AFTER, Owner, Reply,
};
use crate::telemetry::metrics::{Method, Misdirected};
use crate::telemetry::traces::{CallTrace, Hop, PARENT};

static MARKER_NAME: HeaderName = HeaderName::from_static(MARKER);

/// The node that a call is for instead of this one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elsewhere<'a> {
    owner: &'a Owner,
    slot: Slot,
}

impl BrokerService {
    /// Where a call with these metadata on this subject is to be answered; None: here.
    ///
    /// # Errors
    /// UNAVAILABLE for a call that another node has passed on to the wrong one, FAILED_PRECONDITION if that stays so, or by a layout
    /// that contradicts this node's. INVALID_ARGUMENT for a marker that does not read.
    pub(super) fn elsewhere(&self, subject: &str, headers: &HeaderMap) -> Result<Option<Elsewhere<'_>>, Status> {
        let marker = self.marker(headers)?;
        let Some(forward) = &self.forward else { return Ok(None) };
        let Some((owner, other)) = forward.elsewhere(subject) else { return Ok(None) };
        match marker {
            // One hop only: two nodes that take each other for the owner would pass a call on for ever.
            Some(marker) => {
                self.forwarded.misdirected(Misdirected::NotOwner);
                Err(errors::not_owner(&other, &marker, forward.will_agree(&marker)))
            }
            None => Ok(Some(Elsewhere { owner, slot: other.slot })),
        }
    }

    /// What another node tells of a subscription that it passes on; None if nobody does.
    pub(super) fn passed_on(&self, headers: &HeaderMap) -> Option<PassedOn> {
        headers.get(&MARKER_NAME)?;
        let owed_after = headers.get(OWED_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Some(PassedOn { owed_after })
    }

    /// Who has passed a call with these metadata on; None if it is a client's.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if this broker is in no cluster, or by a layout that contradicts this node's. INVALID_ARGUMENT for a
    /// marker that does not read.
    pub(super) fn marker(&self, headers: &HeaderMap) -> Result<Option<Marker>, Status> {
        let Some(marker) = headers.get(&MARKER_NAME) else { return Ok(None) };
        let Some(forward) = &self.forward else {
            self.forwarded.misdirected(Misdirected::NotInACluster);
            return Err(errors::not_in_a_cluster());
        };
        let marker = marker.to_str().unwrap_or_default().parse::<Marker>();
        let marker = marker.map_err(|error| errors::malformed(&error.to_string()))?;
        let layout = forward.layout();
        if marker.contradicts(&layout) {
            self.forwarded.misdirected(Misdirected::LayoutsDiffer);
            return Err(errors::layouts_differ(&marker, &layout));
        }
        Ok(Some(marker))
    }

    /// When the caller gives up, for a call that may be passed on.
    pub(super) fn deadline(&self, headers: &HeaderMap) -> Option<Instant> {
        self.forward.as_ref()?;
        transport::timeout(headers).map(|within| Instant::now() + within)
    }
}

/// A subscription that another node passes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassedOn {
    /// Its subscriber was subscribed already, and is owed everything above this id.
    pub owed_after: Option<u32>,
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
    /// [`ForwardError`] if it said nothing; [`Self::unanswered`] is the status for it.
    pub async fn answer(self, method: Method, sent: AsSent, framed: Bytes) -> Result<Reply, ForwardError> {
        let AsSent { headers, deadline, trace } = sent;
        let (headers, hop) = on_its_way(headers, trace.as_ref());
        let reply = self.owner.call(Call { method, headers, deadline, framed }).await;
        self.arrived(hop, || match &reply {
            Ok(Ok(_)) => Code::Ok,
            Ok(Err(status)) => status.code(),
            Err(error) => self.unanswered(error).code(),
        });
        reply
    }

    /// UNAVAILABLE, or RESOURCE_EXHAUSTED if too much is on its way to the owner.
    pub fn unanswered(self, error: &ForwardError) -> Status {
        errors::forward(error, self.owner.name(), self.slot)
    }

    /// Subscribes at the owner.
    ///
    /// # Errors
    /// The owner's status, UNAVAILABLE if it did not answer, RESOURCE_EXHAUSTED if there are too many.
    pub async fn subscribe(
        self,
        forward: &Forward,
        sent: AsSent,
        (subject, after): (Subject, Option<u32>),
        framed: Bytes,
    ) -> Result<ForwardedSubscription, Status> {
        let AsSent { headers, deadline, trace } = sent;
        let (headers, hop) = on_its_way(headers, trace.as_ref());
        let subscribed = forward.subscribe(self.owner, Ask { headers, deadline, subject, after, framed }).await;
        let subscribed =
            subscribed.map_err(|refusal| errors::forwarded_subscription(refusal, self.owner.name(), self.slot));
        self.arrived(hop, || subscribed.as_ref().map_or_else(Status::code, |_| Code::Ok));
        subscribed
    }

    /// Ends the span of the hop, if there is one.
    fn arrived(self, hop: Option<Hop>, code: impl FnOnce() -> Code) {
        if let Some(hop) = hop {
            hop.end(self.owner.name(), code());
        }
    }
}

/// The metadata of a call that is passed on, and its span.
fn on_its_way(mut headers: HeaderMap, trace: Option<&CallTrace>) -> (HeaderMap, Option<Hop>) {
    let hop = trace.map(CallTrace::pass_on);
    headers.remove(&PARENT);
    if let Some(parent) = hop.as_ref().and_then(Hop::parent) {
        headers.insert(PARENT.clone(), parent);
    }
    (headers, hop)
}

/// Notes what a call that is passed on is about.
pub(super) fn about(trace: Option<&CallTrace>, subject: &str, body_bytes: Option<usize>) {
    if let Some(trace) = trace
        && let Ok(subject) = Subject::new(subject.to_owned())
    {
        trace.about(&subject, body_bytes);
    }
}
