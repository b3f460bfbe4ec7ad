//! The bytes of keys and values. Part of the store's format: a change here needs a new [`FORMAT_VERSION`].
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `meta` | `f` | format version (u32), identity of the log (u128) |
//! | `meta` | `p` | projected sequence (u64) |
//! | `meta` | `m` + subject | last id of the subject (u32) |
//! | `meta` | `b` + name of a bucket | empty: the bucket was made and not dropped |
//! | `rows.<class>.<index>` | 0x00 | empty: written with the bucket's first row, so that a lost bucket is no empty one |
//! | `rows.<class>.<index>` | subject + 0x00 + id (u32) | published at, us (i64), expiration, s (u32), body |
//!
//! Numbers are big endian, so that the ids of a subject lie in order. A subject has no control characters,
//! so the 0x00 ends it.

use crate::event::{Expiration, MessageId, Projected, Sequence, Subject, UnixMicros};
use crate::projector::StoredMessage;

use bytes::Bytes;

/// The format that this build reads and writes.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Key of version and log identity in `meta`.
pub(super) const FORMAT_KEY: &[u8] = b"f";

/// Key of the position in `meta`.
pub(super) const POSITION_KEY: &[u8] = b"p";

/// What precedes the name of a bucket in `meta`.
pub(super) const BUCKET_PREFIX: &[u8] = b"b";

/// Key of a bucket's own sign of life. No subject is empty, so it is no row's.
pub(super) const SIGN_KEY: &[u8] = &[0];

/// What precedes the body in the value of a row.
const ROW_HEADER_BYTES: usize = 12;

/// The key of a bucket in `meta`.
pub(super) fn bucket_key(keyspace_name: &str) -> Vec<u8> {
    [BUCKET_PREFIX, keyspace_name.as_bytes()].concat()
}

/// The key of a row.
pub(super) fn row_key(subject: &Subject, id: MessageId) -> Vec<u8> {
    let subject = subject.as_str().as_bytes();
    let mut key = Vec::with_capacity(subject.len() + 5);
    key.extend_from_slice(subject);
    key.push(0);
    key.extend_from_slice(&id.get().to_be_bytes());
    key
}

/// The id in the key of a row.
pub(super) fn row_id(key: &[u8]) -> Option<MessageId> {
    MessageId::new(u32::from_be_bytes(*key.last_chunk()?))
}

/// The value of a row.
pub(super) fn row_value(published_at: UnixMicros, expiration: Expiration, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(ROW_HEADER_BYTES + body.len());
    value.extend_from_slice(&published_at.as_micros().to_be_bytes());
    value.extend_from_slice(&expiration.seconds().to_be_bytes());
    value.extend_from_slice(body);
    value
}

/// The message in the value of a row; None if the bytes are no such value.
pub(super) fn stored_message(value: &[u8]) -> Option<StoredMessage> {
    let (published_at, rest) = value.split_first_chunk()?;
    let (expiration, body) = rest.split_first_chunk()?;
    let expiration = i32::try_from(u32::from_be_bytes(*expiration)).ok().and_then(Expiration::from_wire)?;
    Some(StoredMessage {
        published_at: UnixMicros::from_micros(i64::from_be_bytes(*published_at)),
        expiration,
        body: Bytes::copy_from_slice(body),
    })
}

/// The key of a subject's high-water mark.
pub(super) fn mark_key(subject: &Subject) -> Vec<u8> {
    let subject = subject.as_str().as_bytes();
    let mut key = Vec::with_capacity(1 + subject.len());
    key.push(b'm');
    key.extend_from_slice(subject);
    key
}

/// The id in the value of a high-water mark.
pub(super) fn mark(value: &[u8]) -> Option<MessageId> {
    MessageId::new(u32::from_be_bytes(value.try_into().ok()?))
}

/// The position in its value.
pub(super) fn position(value: &[u8]) -> Option<Projected> {
    Some(Projected(Sequence::new(u64::from_be_bytes(value.try_into().ok()?))))
}

/// The value of version and log identity.
pub(super) fn format_value(log_id: u128) -> Vec<u8> {
    let mut value = FORMAT_VERSION.to_be_bytes().to_vec();
    value.extend_from_slice(&log_id.to_be_bytes());
    value
}

/// The version in the value of [`format_value`], whatever follows it.
pub(super) fn format_version(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|version| u32::from_be_bytes(*version))
}

/// The log identity in the value of [`format_value`] of this version.
pub(super) fn format_log_id(value: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(value.get(4..)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_frozen_bytes_of_version_1() {
        let subject = Subject::new("a.ß".to_owned()).expect("valid");
        let id = MessageId::new(0x0102).expect("an id");
        assert_eq!(row_key(&subject, id), b"a.\xc3\x9f\0\0\0\x01\x02");
        assert_eq!(mark_key(&subject), b"ma.\xc3\x9f");
        assert_eq!(bucket_key("rows.1.2"), b"brows.1.2");
        let expiration = Expiration::from_wire(60).expect("not negative");
        let value = row_value(UnixMicros::from_micros(258), expiration, b"hi");
        assert_eq!(value, b"\0\0\0\0\0\0\x01\x02\0\0\0\x3chi");
        let message = stored_message(&value).expect("decodes");
        assert_eq!(
            (message.published_at.as_micros(), message.expiration, &*message.body),
            (258, expiration, &b"hi"[..])
        );
        assert_eq!(format_value(5), [&[0, 0, 0, 1][..], &5u128.to_be_bytes()].concat());
    }

    #[test]
    fn refuses_short_values() {
        assert_eq!(stored_message(&[0; 11]), None);
        assert_eq!(mark(&[0; 4]), None, "0 is no id");
        assert_eq!(position(&[0; 7]), None);
        assert_eq!(format_log_id(&[0; 19]), None);
    }
}
