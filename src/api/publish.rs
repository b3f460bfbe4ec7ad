//! From a request and its metadata to a publish whose parts are valid.

use http::{HeaderMap, HeaderName};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::errors;
use crate::event::{Expiration, IdempotencyKey, Subject, Traceparent};
use crate::ingest::Publish;
use crate::proto::server::PublishRequest;
use crate::telemetry::metrics::Rejection;
use crate::telemetry::traces;

/// The idempotency key of clients whose proto has no field for it.
const KEY: &str = "idempotency-key";
/// Binary metadata of that name: a client that sends it believes that it has a key.
const BINARY_KEY: &str = "idempotency-key-bin";
/// As names: a look-up by text checks and folds the text each time, 25 ns instead of 6.
static KEY_NAME: HeaderName = HeaderName::from_static(KEY);
static BINARY_KEY_NAME: HeaderName = HeaderName::from_static(BINARY_KEY);

/// Why a request is no publish: how it is counted, and the answer.
pub type Refused = (Rejection, Status);

/// What the metadata of a call say about what it publishes.
#[derive(Debug, Clone, Default)]
pub struct FromMetadata {
    key: Option<IdempotencyKey>,
    traceparent: Option<Traceparent>,
}

impl FromMetadata {
    /// Reads `idempotency-key` and `traceparent`; one that is not valid is a mistake, the other is ignored.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a key that breaks a rule.
    pub fn of(metadata: &MetadataMap) -> Result<Self, Refused> {
        let headers = metadata.as_ref();
        Ok(Self { key: key(headers).map_err(invalid)?, traceparent: traceparent(headers) })
    }

    /// The same for each message of a stream. A key of the stream cannot be that of every message.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if there is a key.
    pub fn of_stream(metadata: &MetadataMap) -> Result<Self, Status> {
        if metadata.contains_key(KEY) || metadata.contains_key(BINARY_KEY) {
            let message = "metadata cannot name the key of a stream's messages; send it in the field of each request";
            return Err(errors::invalid_idempotency_key(KEY, message.to_owned()));
        }
        Ok(Self { key: None, traceparent: traceparent(metadata.as_ref()) })
    }
}

/// The publish that a request asks for. Its key may come by field and metadata, if both say the same.
///
/// # Errors
/// The rule that the request broke, as the status that answers it.
pub fn to_publish(request: PublishRequest, metadata: FromMetadata, body_bytes_max: usize) -> Result<Publish, Refused> {
    let PublishRequest { subject, body, expiration_seconds, idempotency_key } = request;
    let subject = Subject::new(subject).map_err(|error| invalid(errors::invalid_subject(error)))?;
    if body.len() > body_bytes_max {
        return Err((Rejection::TooLarge, errors::body_too_large(body_bytes_max)));
    }
    let expiration = Expiration::from_wire(expiration_seconds)
        .ok_or_else(|| invalid(errors::invalid_expiration(expiration_seconds)))?;
    let FromMetadata { key, traceparent } = metadata;
    let key = if idempotency_key.is_empty() {
        key
    } else {
        let of_field = IdempotencyKey::new(idempotency_key)
            .map_err(|error| invalid(errors::invalid_idempotency_key("idempotency_key", error.to_string())))?;
        if key.is_some_and(|of_metadata| of_metadata != of_field) {
            return Err(invalid(errors::idempotency_keys_differ()));
        }
        Some(of_field)
    };
    Ok(Publish { subject, body, expiration, key, traceparent, trace: None })
}

fn invalid(status: Status) -> Refused {
    (Rejection::Invalid, status)
}

fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Status> {
    let refuse = |message: String| errors::invalid_idempotency_key(KEY, message);
    if headers.contains_key(&BINARY_KEY_NAME) {
        return Err(refuse(format!(
            "metadata {BINARY_KEY} is not taken; send {KEY} in ASCII, or the field of the request"
        )));
    }
    let mut values = headers.get_all(&KEY_NAME).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|other| other != first) {
        return Err(refuse(format!("metadata {KEY} is there several times, with different values")));
    }
    let text = first.to_str().map_err(|_| {
        refuse(format!("metadata {KEY} is not printable ASCII; other keys can be sent in the field of the request"))
    })?;
    IdempotencyKey::new(text).map(Some).map_err(|error| refuse(error.to_string()))
}

fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    Traceparent::parse(traces::traceparent(headers)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use tonic::metadata::{AsciiMetadataValue, BinaryMetadataValue};
    use tonic::{Code, Status};
    use tonic_types::StatusExt as _;

    use super::*;

    const TRACEPARENT: &str = "traceparent";
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn metadata(pairs: &[(&'static str, &[u8])]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for (name, value) in pairs {
            if name.ends_with("-bin") {
                metadata.append_bin(*name, BinaryMetadataValue::from_bytes(value));
            } else {
                metadata.append(*name, AsciiMetadataValue::try_from(*value).expect("a header's value"));
            }
        }
        metadata
    }

    fn request(key: &str) -> PublishRequest {
        PublishRequest { subject: "s".to_owned(), idempotency_key: key.to_owned(), ..PublishRequest::default() }
    }

    /// The key that a request has by its field and its metadata, or the reason and the field of its refusal.
    fn key_of(field: &str, pairs: &[(&'static str, &[u8])]) -> Result<Option<String>, (String, String)> {
        let read = FromMetadata::of(&metadata(pairs));
        let publish = read.and_then(|metadata| to_publish(request(field), metadata, 100));
        publish.map(|publish| publish.key.map(|key| key.to_string())).map_err(|(_, status)| refusal(&status))
    }

    fn refusal(status: &Status) -> (String, String) {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let info = status.get_details_error_info().expect("every status has one");
        (info.reason, info.metadata.get("field").cloned().unwrap_or_default())
    }

    #[test]
    fn a_key_comes_by_field_or_metadata_or_both() {
        let of = |key: &str| Ok(Some(key.to_owned()));
        assert_eq!(key_of("", &[]), Ok(None));
        assert_eq!(key_of("größe", &[]), of("größe"));
        assert_eq!(key_of("", &[(KEY, b"k")]), of("k"));
        assert_eq!(key_of("k", &[(KEY, b"k")]), of("k"));
        assert_eq!(key_of("", &[(KEY, b"k"), (KEY, b"k")]), of("k"));
    }

    #[test]
    fn a_key_that_breaks_a_rule_is_refused() {
        let invalid = |field: &str| Err(("INVALID_IDEMPOTENCY_KEY".to_owned(), field.to_owned()));
        let long = "x".repeat(256);
        assert_eq!(key_of("a\nb", &[]), invalid("idempotency_key"));
        assert_eq!(key_of(&long, &[]), invalid("idempotency_key"));
        assert_eq!(key_of("", &[(KEY, b"")]), invalid(KEY));
        assert_eq!(key_of("k", &[(KEY, b"")]), invalid(KEY));
        assert_eq!(key_of("", &[(KEY, long.as_bytes())]), invalid(KEY));
        assert_eq!(key_of("", &[(KEY, b"a\tb")]), invalid(KEY));
        assert_eq!(key_of("größe", &[(KEY, "größe".as_bytes())]), invalid(KEY));
        assert_eq!(key_of("", &[(KEY, b"a"), (KEY, b"b")]), invalid(KEY));
        assert_eq!(key_of("k", &[(BINARY_KEY, b"k")]), invalid(KEY));
        let differ = Err(("IDEMPOTENCY_KEYS_DIFFER".to_owned(), "idempotency_key".to_owned()));
        assert_eq!(key_of("a", &[(KEY, b"b")]), differ);
    }

    #[test]
    fn a_traceparent_is_taken_if_it_is_valid_and_alone() {
        let taken = |pairs: &[(&'static str, &[u8])]| {
            let read = FromMetadata::of(&metadata(pairs)).expect("never a reason to refuse");
            read.traceparent.map(|traceparent| traceparent.to_string())
        };
        assert_eq!(taken(&[(TRACEPARENT, TRACE.as_bytes())]).as_deref(), Some(TRACE));
        assert_eq!(taken(&[]), None);
        assert_eq!(taken(&[(TRACEPARENT, TRACE.as_bytes()), (TRACEPARENT, TRACE.as_bytes())]), None);
        for not_valid in [&b""[..], b"x", "größe".as_bytes(), TRACE.to_uppercase().as_bytes()] {
            assert_eq!(taken(&[(TRACEPARENT, not_valid)]), None);
        }
    }
}
