//! The record of a message as it stands in the log: a version byte, then the fields of that version in
//! bincode's legacy layout (`docs/log-format.md` has it field by field, and the rules for a new version).
//!
//! A struct that was released never changes. A new version gets a new struct, a new number, a golden
//! file in `tests/data/` and a decoder beside the old ones.
//!
//! Version 0 has no fields: [`LOST`] stands where a record was until its bytes were damaged and a repair of the log
//! gave it up, so that sequences stay dense. Only a repair writes it.
//!
//! Versions 3 and 4 are no messages either: they hold what a node took over of the slots of another one
//! ([`TakenOver`]).

mod taken_over;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bytes::Bytes;

use super::limits::{BODY_BYTES_CEILING, RECORD_HEAD_BYTES_MAX};
use super::{Expiration, IdempotencyKey, Message, MessageId, Subject, Traceparent, UnixMicros};
pub use taken_over::{
    KeyEntry, Keys, Marks, TAKEN_OVER_BYTES_MAX, TakenOver, encode_keys, encode_marks, keys_that_fit, marks_that_fit,
};

/// The newest version that this build writes and reads.
pub const RECORD_VERSION: u8 = KEYS_VERSION;

/// The version of a record with neither idempotency key nor traceparent: it costs no byte more than before there were
/// any, and older builds read it.
const PLAIN_VERSION: u8 = 1;

/// The version of a record with one of them.
const FULL_VERSION: u8 = 2;

/// The version of high-water marks that were taken over.
const MARKS_VERSION: u8 = 3;

/// The version of idempotency keys that were taken over.
const KEYS_VERSION: u8 = 4;

/// The whole record that stands in the place of a lost one.
pub const LOST: &[u8] = &[0];

/// Largest record in bytes that is written or accepted.
pub const RECORD_BYTES_MAX: usize = RECORD_HEAD_BYTES_MAX + BODY_BYTES_CEILING;

/// Largest record of version 1, frozen with it.
const PLAIN_BYTES_MAX: usize = 64 + 255 + 16 * 1024 * 1024;

/// The length of the body stands before it as a u64.
const BODY_LENGTH_BYTES: usize = 8;

type Layout<const BYTES_MAX: usize> = Configuration<LittleEndian, Fixint, Limit<BYTES_MAX>>;

const PLAIN_LAYOUT: Layout<PLAIN_BYTES_MAX> = bincode::config::legacy().with_limit::<PLAIN_BYTES_MAX>();
const LAYOUT: Layout<RECORD_BYTES_MAX> = bincode::config::legacy().with_limit::<RECORD_BYTES_MAX>();

/// Version 1, frozen.
#[derive(bincode::Encode, bincode::BorrowDecode)]
struct RecordV1<'a> {
    subject: &'a str,
    id: u32,
    published_at_us: i64,
    expiration_seconds: u32,
    body: &'a [u8],
}

/// Version 2, frozen. An empty text is none; at least one of the two is there.
#[derive(bincode::Encode, bincode::BorrowDecode)]
struct RecordV2<'a> {
    subject: &'a str,
    id: u32,
    published_at_us: i64,
    expiration_seconds: u32,
    idempotency_key: &'a str,
    traceparent: &'a str,
    body: &'a [u8],
}

/// A record that borrows the log's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The subject's text; valid as a [`Subject`].
    pub subject: &'a str,
    /// The id on the subject.
    pub id: MessageId,
    /// When the broker took the message.
    pub published_at: UnixMicros,
    /// How long `Fetch` finds it.
    pub expiration: Expiration,
    /// What makes a retry of the publish known as one; never empty.
    pub idempotency_key: Option<&'a str>,
    /// The publisher's place in a trace; never empty.
    pub traceparent: Option<&'a str>,
    /// The body, 0 to [`BODY_BYTES_CEILING`] bytes.
    pub body: &'a [u8],
}

/// What stands at one sequence of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged<'a> {
    /// A message.
    Message(Record<'a>),
    /// A message was here; it was lost, and a repair of the log put [`LOST`] in its place. Nothing is known of it.
    Lost,
    /// What a node took over of the slots of another one, beside their messages, which are records of their own. No
    /// message, and nothing was lost.
    TakenOver(TakenOver<'a>),
}

/// Why bytes of the log are not a record that this build understands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No bytes at all.
    #[error("the record is empty")]
    Empty,
    /// Written by a newer walcast.
    #[error("the record has version {version}, this walcast knows up to {RECORD_VERSION}; use a newer walcast")]
    UnknownVersion {
        /// The version byte found.
        version: u8,
    },
    /// The fields do not decode.
    #[error("the record does not decode: {reason}")]
    Malformed {
        /// What the decoder or a rule says.
        reason: String,
    },
}

/// Appends the record of a message to `buffer`.
///
/// # Errors
/// [`RecordError::Malformed`] if it would be larger than [`RECORD_BYTES_MAX`]; admission refuses such bodies before.
pub fn encode(record: &Record<'_>, buffer: &mut Vec<u8>) -> Result<(), RecordError> {
    let written = if record.is_plain() {
        buffer.push(PLAIN_VERSION);
        bincode::encode_into_std_write(fields_v1(record), buffer, PLAIN_LAYOUT)
    } else {
        buffer.push(FULL_VERSION);
        bincode::encode_into_std_write(fields_v2(record), buffer, LAYOUT)
    };
    written.map(drop).map_err(|error| malformed(&error))
}

fn fields_v1<'a>(record: &Record<'a>) -> RecordV1<'a> {
    RecordV1 {
        subject: record.subject,
        id: record.id.get(),
        published_at_us: record.published_at.as_micros(),
        expiration_seconds: record.expiration.seconds(),
        body: record.body,
    }
}

fn fields_v2<'a>(record: &Record<'a>) -> RecordV2<'a> {
    RecordV2 {
        subject: record.subject,
        id: record.id.get(),
        published_at_us: record.published_at.as_micros(),
        expiration_seconds: record.expiration.seconds(),
        idempotency_key: record.idempotency_key.unwrap_or_default(),
        traceparent: record.traceparent.unwrap_or_default(),
        body: record.body,
    }
}

/// CRC32C of the bytes that [`encode`] appends for this record, without a copy of the body.
pub fn crc(record: &Record<'_>) -> u32 {
    let mut head = [0; RECORD_HEAD_BYTES_MAX];
    let without_body = Record { body: &[], ..*record };
    let encoded = if record.is_plain() {
        head[0] = PLAIN_VERSION;
        bincode::encode_into_slice(fields_v1(&without_body), &mut head[1..], PLAIN_LAYOUT)
    } else {
        head[0] = FULL_VERSION;
        bincode::encode_into_slice(fields_v2(&without_body), &mut head[1..], LAYOUT)
    };
    let used = 1 + encoded.expect("valid fields take no more than the head of the largest record");
    // The length of the body is the last field before it.
    head[used - BODY_LENGTH_BYTES..used].copy_from_slice(&(record.body.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head[..used]), record.body)
}

/// Reads a record without copying its texts or body.
///
/// # Errors
/// [`RecordError`] if the bytes are not exactly one valid record of a known version.
pub fn decode(bytes: &[u8]) -> Result<Logged<'_>, RecordError> {
    if bytes == LOST {
        return Ok(Logged::Lost);
    }
    let (version, fields) = bytes.split_first().ok_or(RecordError::Empty)?;
    match *version {
        PLAIN_VERSION => decode_v1(fields).map(Logged::Message),
        FULL_VERSION => decode_v2(fields).map(Logged::Message),
        MARKS_VERSION => Marks::decode(fields).map(TakenOver::Marks).map(Logged::TakenOver),
        KEYS_VERSION => Keys::decode(fields).map(TakenOver::Keys).map(Logged::TakenOver),
        version => Err(RecordError::UnknownVersion { version }),
    }
}

fn decode_v1(fields: &[u8]) -> Result<Record<'_>, RecordError> {
    let (record, used): (RecordV1<'_>, usize) =
        bincode::borrow_decode_from_slice(fields, PLAIN_LAYOUT).map_err(|error| malformed(&error))?;
    refuse_more(fields, used)?;
    Ok(Record {
        subject: record.subject,
        id: id(record.id)?,
        published_at: UnixMicros::from_micros(record.published_at_us),
        expiration: expiration(record.expiration_seconds)?,
        idempotency_key: None,
        traceparent: None,
        body: record.body,
    })
}

fn decode_v2(fields: &[u8]) -> Result<Record<'_>, RecordError> {
    let (record, used): (RecordV2<'_>, usize) =
        bincode::borrow_decode_from_slice(fields, LAYOUT).map_err(|error| malformed(&error))?;
    refuse_more(fields, used)?;
    let present = |text: &'_ str| !text.is_empty();
    let record = Record {
        subject: record.subject,
        id: id(record.id)?,
        published_at: UnixMicros::from_micros(record.published_at_us),
        expiration: expiration(record.expiration_seconds)?,
        idempotency_key: Some(record.idempotency_key).filter(|text| present(text)),
        traceparent: Some(record.traceparent).filter(|text| present(text)),
        body: record.body,
    };
    // Else two records would say the same.
    if record.is_plain() { Err(malformed(&"neither idempotency key nor traceparent")) } else { Ok(record) }
}

fn refuse_more(fields: &[u8], used: usize) -> Result<(), RecordError> {
    match fields.len() - used {
        0 => Ok(()),
        more => Err(malformed(&format_args!("{more} bytes too many"))),
    }
}

fn id(id: u32) -> Result<MessageId, RecordError> {
    MessageId::new(id).ok_or_else(|| malformed(&"id out of range"))
}

fn expiration(seconds: u32) -> Result<Expiration, RecordError> {
    let expiration = i32::try_from(seconds).ok().and_then(Expiration::from_wire);
    expiration.ok_or_else(|| malformed(&"expiration out of range"))
}

impl Record<'_> {
    /// Whether version 1 has a field for everything in it.
    const fn is_plain(&self) -> bool {
        self.idempotency_key.is_none() && self.traceparent.is_none()
    }

    /// The message as a value of its own.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] if a text breaks a rule of [`Subject`], [`IdempotencyKey`] or [`Traceparent`].
    pub fn to_message(&self) -> Result<Message, RecordError> {
        let key = self.idempotency_key.map(IdempotencyKey::new).transpose();
        let traceparent = self
            .traceparent
            .map(|text| Traceparent::parse(text.as_bytes()).ok_or_else(|| malformed(&"the traceparent is not valid")));
        Ok(Message {
            subject: Subject::new(self.subject.to_owned()).map_err(|error| malformed(&error))?,
            id: self.id,
            published_at: self.published_at,
            expiration: self.expiration,
            idempotency_key: key.map_err(|error| malformed(&error))?,
            traceparent: traceparent.transpose()?,
            body: Bytes::copy_from_slice(self.body),
        })
    }
}

fn malformed(reason: &dyn std::fmt::Display) -> RecordError {
    RecordError::Malformed { reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::limits::{
        IDEMPOTENCY_KEY_BYTES_MAX, RECORD_OVERHEAD_BYTES, SUBJECT_BYTES_MAX, TRACEPARENT_BYTES_MAX,
    };
    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn plain(body: &[u8]) -> Record<'_> {
        Record {
            subject: "orders.größe",
            id: MessageId::new(7).expect("7 is an id"),
            published_at: UnixMicros::from_micros(1_700_000_000_123_456),
            expiration: Expiration::from_wire(60).expect("60 is not negative"),
            idempotency_key: None,
            traceparent: None,
            body,
        }
    }

    /// With key, traceparent, both and neither.
    fn samples(body: &[u8]) -> [Record<'_>; 4] {
        let plain = plain(body);
        let keyed = Record { idempotency_key: Some("schlüssel"), ..plain };
        let traced = Record { traceparent: Some(TRACEPARENT), ..plain };
        [plain, keyed, traced, Record { traceparent: Some(TRACEPARENT), ..keyed }]
    }

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(record, &mut bytes).expect("fits");
        bytes
    }

    #[test]
    fn decodes_what_it_encodes() {
        for record in [&b""[..], b"\0\xff\n", &[7; 100_000]].into_iter().flat_map(samples) {
            let bytes = encoded(&record);
            let texts = [Some(record.subject), record.idempotency_key, record.traceparent];
            let texts: usize = texts.into_iter().flatten().map(str::len).sum();
            assert!(bytes.len() <= RECORD_OVERHEAD_BYTES + texts + record.body.len());
            assert_eq!(decode(&bytes), Ok(Logged::Message(record)));
            assert_eq!(crc(&record), crc32c::crc32c(&bytes));
        }
    }

    #[test]
    fn the_checksum_of_the_longest_head_needs_no_more_room() {
        let [subject, key, traceparent] =
            [SUBJECT_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, TRACEPARENT_BYTES_MAX].map(|bytes| "s".repeat(bytes));
        let plain = Record { subject: &subject, ..plain(b"body") };
        let full = Record { idempotency_key: Some(&key), traceparent: Some(&traceparent), ..plain };
        for record in [plain, full] {
            assert_eq!(crc(&record), crc32c::crc32c(&encoded(&record)));
        }
    }

    #[test]
    fn writes_the_frozen_bytes_of_version_1() {
        let mut expected = vec![1];
        expected.extend(14u64.to_le_bytes());
        expected.extend("orders.größe".as_bytes());
        expected.extend(7u32.to_le_bytes());
        expected.extend(1_700_000_000_123_456i64.to_le_bytes());
        expected.extend(60u32.to_le_bytes());
        expected.extend(2u64.to_le_bytes());
        expected.extend(b"hi");
        assert_eq!(encoded(&plain(b"hi")), expected);
    }

    #[test]
    fn writes_the_frozen_bytes_of_version_2() {
        for record in &samples(b"hi")[1..] {
            let (key, traceparent) = (record.idempotency_key.unwrap_or(""), record.traceparent.unwrap_or(""));
            let mut expected = vec![2];
            expected.extend(14u64.to_le_bytes());
            expected.extend("orders.größe".as_bytes());
            expected.extend(7u32.to_le_bytes());
            expected.extend(1_700_000_000_123_456i64.to_le_bytes());
            expected.extend(60u32.to_le_bytes());
            expected.extend((key.len() as u64).to_le_bytes());
            expected.extend(key.as_bytes());
            expected.extend((traceparent.len() as u64).to_le_bytes());
            expected.extend(traceparent.as_bytes());
            expected.extend(2u64.to_le_bytes());
            expected.extend(b"hi");
            assert_eq!(encoded(record), expected);
        }
    }

    #[test]
    fn version_2_with_neither_is_refused() {
        let mut bytes = vec![2];
        bincode::encode_into_std_write(fields_v2(&plain(b"hi")), &mut bytes, LAYOUT).expect("fits");
        let error = decode(&bytes).expect_err("version 1 says the same");
        assert_eq!(error.to_string(), "the record does not decode: neither idempotency key nor traceparent");
    }

    #[test]
    fn a_lost_record_is_one_zero_byte_and_nothing_else() {
        assert_eq!(decode(LOST), Ok(Logged::Lost));
        assert_eq!(decode(&[0, 0]), Err(RecordError::UnknownVersion { version: 0 }));
    }

    #[test]
    fn refuses_every_truncation_newer_versions_and_extra_bytes() {
        for record in samples(b"hello") {
            let mut bytes = encoded(&record);
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            let mut extra = bytes.clone();
            extra.push(0);
            assert!(matches!(decode(&extra), Err(RecordError::Malformed { .. })));
            bytes[0] = 5;
            assert_eq!(decode(&bytes), Err(RecordError::UnknownVersion { version: 5 }));
        }
    }
}
