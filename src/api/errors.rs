//! The one table from the broker's errors to gRPC statuses.
//!
//! Codes and texts of Fetch are fixed by the contract, since older clients match on them. Every status
//! carries a `google.rpc.ErrorInfo` whose reason says the same to newer ones.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, StatusExt};

use crate::cluster::{Layout, NotOwner, Slot};
use crate::delivery::{HistoryError, StreamEnd, SubscribeError};
use crate::event::SubjectError;
use crate::fetch::FetchError;
use crate::forward::{End, ForwardError, Marker, Refusal, WillAgree};
use crate::ingest::{IdsExhausted, PublishError};
use crate::proto::server as wire;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "walcast";

const NEVER_PUBLISHED: &str = "message with id provided is not valid or never published";
const EXPIRED: &str = "message with id provided is expired";
const UNAVAILABLE: &str = "service is unavailable";

/// When to come back to a full broker: a few frames of the log later there is room again.
const RETRY_SOON: Duration = Duration::from_millis(100);
/// When to come back to a full disk, or to nodes whose settings differ: what ends that takes seconds.
const RETRY_LATER: Duration = Duration::from_secs(5);

fn status(code: Code, reason: &str, message: impl Into<String>, metadata: &[(&str, String)]) -> Status {
    status_with(code, message, ErrorDetails::with_error_info(reason, DOMAIN, owned(metadata)))
}

fn retryable(reason: &str, message: impl Into<String>, delay: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(delay));
    status_with(Code::ResourceExhausted, message, details)
}

fn status_with(code: Code, message: impl Into<String>, details: ErrorDetails) -> Status {
    Status::with_error_details(code, message, details)
}

fn owned(metadata: &[(&str, String)]) -> HashMap<String, String> {
    metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

/// UNAVAILABLE for a while, with a hint when to try again.
fn passing(reason: &str, message: impl Into<String>, metadata: &[(&str, String)], delay: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, owned(metadata));
    details.set_retry_info(Some(delay));
    status_with(Code::Unavailable, message, details)
}

/// UNAVAILABLE with the contract's text; the detail says why.
pub fn unavailable(reason: &str, detail: impl Into<String>) -> Status {
    status(Code::Unavailable, reason, UNAVAILABLE, &[("detail", detail.into())])
}

/// The end of a stream at shutdown.
pub fn shutting_down() -> Status {
    unavailable("SHUTTING_DOWN", "the broker is shutting down")
}

/// The caller's deadline has passed.
pub fn deadline_exceeded() -> Status {
    status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the caller's deadline has passed", &[])
}

/// The caller has gone, or the transport has given the call up.
pub fn cancelled(message: &str) -> Status {
    status(Code::Cancelled, "CANCELLED", message, &[])
}

/// A method or an encoding that the broker does not have; the transport says which, or nothing.
pub fn unimplemented(message: &str) -> Status {
    let message = if message.is_empty() { "the broker has no such method" } else { message };
    status(Code::Unimplemented, "UNIMPLEMENTED", message, &[])
}

/// Too many requests have begun and are not whole.
pub fn too_many_request_bytes() -> Status {
    let message = "too many bytes of unfinished requests are held (limits.request_bytes)";
    retryable("TOO_MANY_REQUEST_BYTES", message, RETRY_SOON)
}

/// Too many streams of publishes.
pub fn too_many_publish_streams(max: usize) -> Status {
    let message = format!("{max} streams of publishes are open (limits.publish_streams)");
    retryable("TOO_MANY_PUBLISH_STREAMS", message, RETRY_LATER)
}

/// What a status says, as the answer to one message of a stream.
pub fn in_stream(status: &Status) -> wire::PublishError {
    let details = status.get_error_details();
    let info = details.error_info().cloned().unwrap_or_else(|| ErrorInfo::new("", DOMAIN, HashMap::new()));
    let retry_after = details.retry_info().and_then(|retry| retry.retry_delay).unwrap_or_default();
    wire::PublishError {
        code: status.code() as i32,
        message: status.message().to_owned(),
        reason: info.reason,
        metadata: info.metadata,
        retry_after_ms: i32::try_from(retry_after.as_millis()).unwrap_or(i32::MAX),
    }
}

/// Too many answers wait for their readers.
pub fn too_many_answer_bytes() -> Status {
    let message = "too many bytes of answers wait to be read (limits.answer_bytes)";
    retryable("TOO_MANY_ANSWER_BYTES", message, RETRY_SOON)
}

/// The broker is shutting down or has failed.
pub fn not_serving(phase: &str) -> Status {
    unavailable("NOT_SERVING", format!("the broker is {phase}"))
}

/// Bytes that are not a valid protobuf message of the method's type.
pub fn malformed_message(error: &prost::DecodeError) -> Status {
    malformed(&format!("the request is not a valid protobuf message: {error}"))
}

/// A request that the transport could not read.
pub fn malformed(message: &str) -> Status {
    status(Code::InvalidArgument, "MALFORMED_REQUEST", message, &[])
}

/// A body beyond the limit.
pub fn body_too_large(bytes_max: usize) -> Status {
    let message = format!("body is too large: it must be at most {bytes_max} bytes (limits.body_bytes)");
    status(Code::ResourceExhausted, "BODY_TOO_LARGE", message, &[("body_bytes_max", bytes_max.to_string())])
}

/// A subject that breaks a rule.
pub fn invalid_subject(error: SubjectError) -> Status {
    status(Code::InvalidArgument, "INVALID_SUBJECT", error.to_string(), &[("field", "subject".to_owned())])
}

/// A subject of another node, in a call that one has passed on by this marker: UNAVAILABLE with a hint when to try again, as long as the
/// two nodes may be expected to agree by then, else FAILED_PRECONDITION.
pub fn not_owner(other: &NotOwner, marker: &Marker, will_agree: WillAgree) -> Status {
    let NotOwner { slot, layout, .. } = other;
    let (owner, version) = (other.owner(), layout.version());
    let Marker { node, version: theirs, .. } = marker;
    let message = format!(
        "slot {slot} of the subject is of node {} at {} (layout {version}); node {node} passed the call on by its layout {theirs}",
        owner.name, owner.address
    );
    let metadata = [
        ("slot", slot.to_string()),
        ("owner", owner.name.clone()),
        ("address", owner.address.clone()),
        ("layout_version", version.to_string()),
        ("forwarded_by", node.clone()),
        ("forwarded_layout_version", theirs.to_string()),
    ];
    match will_agree {
        WillAgree::OnMoves => passing("NOT_OWNER", message, &metadata, RETRY_SOON),
        WillAgree::OnSettings => passing("NOT_OWNER", message, &metadata, RETRY_LATER),
        WillAgree::Never => status(Code::FailedPrecondition, "NOT_OWNER", message, &metadata),
    }
}

/// A call that another node has passed on by a layout that contradicts this node's.
pub fn layouts_differ(marker: &Marker, layout: &Layout) -> Status {
    let Marker { node, version, digest } = marker;
    let own = layout.digest();
    let message = format!(
        "node {node} passed the call on by a layout {version} that is another one than layout {version} here \
         (digests {digest:016x} and {own:016x}); give all nodes the same cluster.nodes and cluster.slots, and raise cluster.version with every change"
    );
    let metadata = [("forwarded_by", node.clone()), ("layout_version", version.to_string())];
    status(Code::FailedPrecondition, "LAYOUTS_DIFFER", message, &metadata)
}

/// A call that a node of a cluster has passed on to a broker that is in none.
pub fn not_in_a_cluster() -> Status {
    let message = "this broker is in no cluster (cluster.node), and a node of one passed the call on to it";
    status(Code::FailedPrecondition, "NOT_IN_A_CLUSTER", message, &[])
}

/// The owner of a subject of this slot did not answer.
pub fn forward(error: &ForwardError, owner: &str, slot: Slot) -> Status {
    match error {
        ForwardError::Busy { .. } => retryable("OWNER_BUSY", error.to_string(), RETRY_SOON),
        ForwardError::Unavailable { reason, unsent, retry_after } => {
            let metadata = [
                ("detail", format!("node {owner}, the owner of the subject: {reason}")),
                ("owner", owner.to_owned()),
                ("slot", slot.to_string()),
                // Whether the owner may have done what it was asked.
                ("sent", if *unsent { "no" } else { "perhaps" }.to_owned()),
            ];
            passing("OWNER_UNAVAILABLE", UNAVAILABLE, &metadata, *retry_after)
        }
    }
}

/// A subscription that could not be passed on.
pub fn forwarded_subscription(refusal: Refusal, owner: &str, slot: Slot) -> Status {
    match refusal {
        Refusal::Owner(status) => status,
        Refusal::Forward(error) => forward(&error, owner, slot),
        Refusal::TooMany { max } => subscribe(SubscribeError::TooMany { max }),
    }
}

/// How a stream from another node ends.
pub fn forwarded_end(end: End, owner: &str) -> Status {
    match end {
        End::Owner(status) => status,
        End::ShuttingDown => shutting_down(),
        End::Lost(reason) => owner_lost(owner, &reason),
        End::Contradiction(reason) => owner_lost(owner, &reason),
    }
}

fn owner_lost(owner: &str, reason: &str) -> Status {
    let detail = format!("node {owner}, the owner of the subject: {reason}");
    status(Code::Unavailable, "OWNER_UNAVAILABLE", UNAVAILABLE, &[("detail", detail), ("owner", owner.to_owned())])
}

/// A negative expiration.
pub fn invalid_expiration(seconds: i32) -> Status {
    let message = format!("expirationSeconds is {seconds}; it must not be negative");
    status(Code::InvalidArgument, "INVALID_EXPIRATION", message, &[("field", "expirationSeconds".to_owned())])
}

/// An idempotency key that breaks a rule, in `field` of the request or in metadata of that name.
pub fn invalid_idempotency_key(field: &str, message: impl Into<String>) -> Status {
    status(Code::InvalidArgument, "INVALID_IDEMPOTENCY_KEY", message, &[("field", field.to_owned())])
}

/// A key in the request and another one in the metadata.
pub fn idempotency_keys_differ() -> Status {
    let message = "idempotency_key and metadata idempotency-key differ; give one of them, or the same in both";
    status(Code::InvalidArgument, "IDEMPOTENCY_KEYS_DIFFER", message, &[("field", "idempotency_key".to_owned())])
}

/// A subscription after an id that there is not.
fn invalid_after_id(message: impl Into<String>) -> Status {
    status(Code::InvalidArgument, "INVALID_AFTER_ID", message, &[("field", "after_id".to_owned())])
}

/// A subscription after a negative id.
pub fn negative_after_id(after: i32) -> Status {
    invalid_after_id(format!("after_id is {after}; it must not be negative"))
}

/// An id that was never issued.
pub fn never_published() -> Status {
    status(Code::InvalidArgument, "NEVER_PUBLISHED", NEVER_PUBLISHED, &[])
}

/// The answer to a failed publish.
pub fn publish(error: &PublishError) -> Status {
    match error {
        PublishError::Admission(full) => retryable("TOO_MANY_BYTES_IN_FLIGHT", full.to_string(), RETRY_SOON),
        PublishError::QueueFull { .. } => retryable("TOO_MANY_PUBLISHES_IN_FLIGHT", error.to_string(), RETRY_SOON),
        PublishError::NoRoom(reason) => retryable("LOG_FULL", reason, RETRY_LATER),
        PublishError::IdsExhausted(exhausted) => {
            let reason = match exhausted {
                IdsExhausted::Subject => "IDS_EXHAUSTED",
                IdsExhausted::Table { .. } => "TOO_MANY_SUBJECTS",
            };
            status(Code::ResourceExhausted, reason, exhausted.to_string(), &[])
        }
        PublishError::KeyTaken { id } => {
            let metadata = [("id", id.to_string())];
            status(Code::AlreadyExists, "IDEMPOTENCY_KEY_TAKEN", error.to_string(), &metadata)
        }
        PublishError::Moving => moving(),
        PublishError::LogFailed => unavailable("LOG_FAILED", error.to_string()),
        PublishError::ShuttingDown => unavailable("SHUTTING_DOWN", error.to_string()),
    }
}

/// The slot of a subject is moving: in a moment another node owns it, or this one again.
pub fn moving() -> Status {
    let detail = "the slot of the subject is moving to another node; try again".to_owned();
    passing("SLOT_MOVING", UNAVAILABLE, &[("detail", detail)], RETRY_SOON)
}

/// What a node says to another one, whose operator reads it.
pub fn of_nodes(code: Code, message: String) -> Status {
    Status::new(code, message)
}

/// The answer to a failed fetch.
pub fn fetch(error: &FetchError) -> Status {
    match error {
        FetchError::NeverPublished => never_published(),
        FetchError::Expired => status(Code::InvalidArgument, "EXPIRED", EXPIRED, &[]),
        FetchError::NotIndexed => unavailable("LOG_NOT_INDEXED", error.to_string()),
        FetchError::Index(_) | FetchError::Record(_) | FetchError::DeadLetter(_) | FetchError::ReadEnded(_) => {
            unavailable("LOG_UNREADABLE", error.to_string())
        }
        FetchError::Store(store) => unavailable("STORE_UNAVAILABLE", store.to_string()),
    }
}

/// The answer to a refused subscription.
pub fn subscribe(error: SubscribeError) -> Status {
    match error {
        SubscribeError::TooMany { .. } => retryable("TOO_MANY_SUBSCRIBERS", error.to_string(), RETRY_LATER),
        SubscribeError::BeyondLast { .. } => invalid_after_id(error.to_string()),
        SubscribeError::ShuttingDown => unavailable("SHUTTING_DOWN", error.to_string()),
    }
}

/// How a stream ends.
pub fn stream_end(end: StreamEnd) -> Status {
    let message = end.to_string();
    match end {
        StreamEnd::Gone { last_delivered, first_available } => {
            let ids = [("last_delivered_id", last_delivered), ("first_available_id", first_available)];
            status(Code::OutOfRange, "MESSAGES_GONE", message, &ids.map(|(name, id)| (name, id.to_string())))
        }
        StreamEnd::History { last_delivered, error } => {
            let reason = match error {
                HistoryError::NotIndexed => "LOG_NOT_INDEXED",
                HistoryError::Log(_) => "LOG_UNREADABLE",
                HistoryError::Store(_) => "STORE_UNAVAILABLE",
                HistoryError::Busy => "HISTORY_BUSY",
            };
            let metadata = [("detail", message), ("last_delivered_id", last_delivered.to_string())];
            status(Code::Unavailable, reason, UNAVAILABLE, &metadata)
        }
        StreamEnd::Moved { last_delivered } => {
            let metadata = [("detail", message), ("last_delivered_id", last_delivered.to_string())];
            passing("SLOT_MOVED", UNAVAILABLE, &metadata, RETRY_SOON)
        }
        StreamEnd::ShuttingDown => unavailable("SHUTTING_DOWN", message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::MessageId;
    use crate::projector::StoreError;

    fn reason(status: &Status) -> String {
        status.get_details_error_info().expect("every status has one").reason
    }

    #[test]
    fn the_texts_that_older_clients_match_are_fixed() {
        let fetched = |error| {
            let status = fetch(&error);
            (status.code(), status.message().to_owned(), reason(&status))
        };
        let invalid = Code::InvalidArgument;
        let never = "message with id provided is not valid or never published".to_owned();
        assert_eq!(fetched(FetchError::NeverPublished), (invalid, never, "NEVER_PUBLISHED".to_owned()));
        let expired = "message with id provided is expired".to_owned();
        assert_eq!(fetched(FetchError::Expired), (invalid, expired, "EXPIRED".to_owned()));
        let down = FetchError::Store(StoreError::Unavailable { store: "embedded", reason: "gone".to_owned() });
        let unavailable = "service is unavailable".to_owned();
        assert_eq!(fetched(down), (Code::Unavailable, unavailable, "STORE_UNAVAILABLE".to_owned()));
    }

    #[test]
    fn what_passes_says_when_to_come_back() {
        for error in [PublishError::QueueFull { max: 1 }, PublishError::NoRoom("the disk is full".to_owned())] {
            let status = publish(&error);
            assert_eq!(status.code(), Code::ResourceExhausted);
            let retry = status.get_details_retry_info().expect("waiting helps");
            assert!(retry.retry_delay.is_some_and(|delay| delay > Duration::ZERO));
        }
        let never = publish(&PublishError::IdsExhausted(IdsExhausted::Subject));
        assert_eq!(never.code(), Code::ResourceExhausted);
        assert!(never.get_details_retry_info().is_none());
    }

    #[test]
    fn who_does_not_own_a_subject_is_to_be_asked_again_while_nodes_may_agree() {
        let nodes = [("a", "h:1"), ("b", "h:2")].map(|(name, address)| (name.to_owned(), address.to_owned()));
        let layout = Layout::new(2, &nodes.into(), &std::collections::BTreeMap::new()).expect("a layout");
        let other = NotOwner { slot: Slot::new(1_000).expect("a slot"), at: 1, layout: layout.into() };
        let marker: Marker = "a;1;00".parse().expect("a marker");
        let said = |will_agree| {
            let status = not_owner(&other, &marker, will_agree);
            assert_eq!(reason(&status), "NOT_OWNER");
            let versions = status.get_details_error_info().expect("details").metadata;
            assert_eq!((&*versions["layout_version"], &*versions["forwarded_layout_version"]), ("2", "1"));
            (status.code(), status.get_details_retry_info().and_then(|retry| retry.retry_delay))
        };
        assert_eq!(said(WillAgree::OnMoves), (Code::Unavailable, Some(RETRY_SOON)));
        assert_eq!(said(WillAgree::OnSettings), (Code::Unavailable, Some(RETRY_LATER)));
        assert_eq!(said(WillAgree::Never), (Code::FailedPrecondition, None));
    }

    #[test]
    fn a_key_that_is_taken_names_the_message() {
        let status = publish(&PublishError::KeyTaken { id: MessageId::new(17).expect("an id") });
        assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "IDEMPOTENCY_KEY_TAKEN"));
        assert!(status.message().contains("message 17"), "{}", status.message());
        assert_eq!(status.get_details_error_info().expect("details").metadata["id"], "17");
    }

    #[test]
    fn a_subscriber_whose_messages_are_gone_learns_where_it_can_go_on() {
        let status = stream_end(StreamEnd::Gone { last_delivered: 7, first_available: 20 });
        assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "MESSAGES_GONE"));
        let metadata = status.get_details_error_info().expect("details").metadata;
        assert_eq!((&*metadata["last_delivered_id"], &*metadata["first_available_id"]), ("7", "20"));
        let status = stream_end(StreamEnd::History { last_delivered: 7, error: HistoryError::NotIndexed });
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "LOG_NOT_INDEXED"));
        assert_eq!(status.get_details_error_info().expect("details").metadata["last_delivered_id"], "7");
    }
}
