//! The record of a message as it stands in the log: a version byte, then the fields of that version in
//! bincode's legacy layout (`docs/log-format.md` has it field by field, and the rules for a new version).
//!
//! A struct that was released never changes. A new version gets a new struct, a new number, a golden
//! file in `tests/data/` and a decoder beside the old ones.
//!
//! Version 0 has no fields: [`LOST`] stands where a record was until its bytes were damaged and a repair of the log
//! gave it up, so that sequences stay dense. Only a repair writes it.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bytes::Bytes;

use super::limits::{BODY_BYTES_CEILING, RECORD_OVERHEAD_BYTES, SUBJECT_BYTES_MAX};
use super::{Expiration, Message, MessageId, Subject, UnixMicros};

/// The version that this build writes.
pub const RECORD_VERSION: u8 = 1;

/// The whole record that stands in the place of a lost one.
pub const LOST: &[u8] = &[0];

/// Largest record in bytes that is written or accepted.
pub const RECORD_BYTES_MAX: usize = RECORD_OVERHEAD_BYTES + SUBJECT_BYTES_MAX + BODY_BYTES_CEILING;

/// The length of the body stands before it as a u64.
const BODY_LENGTH_BYTES: usize = 8;

const LAYOUT: Configuration<LittleEndian, Fixint, Limit<RECORD_BYTES_MAX>> =
    bincode::config::legacy().with_limit::<RECORD_BYTES_MAX>();

/// Version 1, frozen.
#[derive(bincode::Encode, bincode::BorrowDecode)]
struct RecordV1<'a> {
    subject: &'a str,
    id: u32,
    published_at_us: i64,
    expiration_seconds: u32,
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
    buffer.push(RECORD_VERSION);
    bincode::encode_into_std_write(fields(record), buffer, LAYOUT).map(drop).map_err(|error| malformed(&error))
}

fn fields<'a>(record: &Record<'a>) -> RecordV1<'a> {
    RecordV1 {
        subject: record.subject,
        id: record.id.get(),
        published_at_us: record.published_at.as_micros(),
        expiration_seconds: record.expiration.seconds(),
        body: record.body,
    }
}

/// CRC32C of the bytes that [`encode`] appends for this record, without a copy of the body.
pub fn crc(record: &Record<'_>) -> u32 {
    let mut head = [0; RECORD_OVERHEAD_BYTES + SUBJECT_BYTES_MAX];
    head[0] = RECORD_VERSION;
    let fields = RecordV1 { body: &[], ..fields(record) };
    let used = 1 + bincode::encode_into_slice(fields, &mut head[1..], LAYOUT)
        .expect("the fields of a valid subject take less than the overhead of a record and the longest subject");
    // The length of the body is the last field before it.
    head[used - BODY_LENGTH_BYTES..used].copy_from_slice(&(record.body.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head[..used]), record.body)
}

/// Reads a record without copying its subject or body.
///
/// # Errors
/// [`RecordError`] if the bytes are not exactly one valid record of a known version.
pub fn decode(bytes: &[u8]) -> Result<Logged<'_>, RecordError> {
    if bytes == LOST {
        return Ok(Logged::Lost);
    }
    let (version, fields) = bytes.split_first().ok_or(RecordError::Empty)?;
    if *version != RECORD_VERSION {
        return Err(RecordError::UnknownVersion { version: *version });
    }
    let (record, used): (RecordV1<'_>, usize) =
        bincode::borrow_decode_from_slice(fields, LAYOUT).map_err(|error| malformed(&error))?;
    if used != fields.len() {
        return Err(RecordError::Malformed { reason: format!("{} bytes too many", fields.len() - used) });
    }
    let id = MessageId::new(record.id).ok_or_else(|| malformed(&"id out of range"))?;
    let expiration = i32::try_from(record.expiration_seconds).ok().and_then(Expiration::from_wire);
    Ok(Logged::Message(Record {
        subject: record.subject,
        id,
        published_at: UnixMicros::from_micros(record.published_at_us),
        expiration: expiration.ok_or_else(|| malformed(&"expiration out of range"))?,
        body: record.body,
    }))
}

impl Record<'_> {
    /// The message as a value of its own.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] if the subject breaks a rule of [`Subject`].
    pub fn to_message(&self) -> Result<Message, RecordError> {
        Ok(Message {
            subject: Subject::new(self.subject.to_owned()).map_err(|error| malformed(&error))?,
            id: self.id,
            published_at: self.published_at,
            expiration: self.expiration,
            body: Bytes::copy_from_slice(self.body),
        })
    }
}

fn malformed(reason: &dyn std::fmt::Display) -> RecordError {
    RecordError::Malformed { reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(body: &[u8]) -> Record<'_> {
        Record {
            subject: "orders.größe",
            id: MessageId::new(7).expect("7 is an id"),
            published_at: UnixMicros::from_micros(1_700_000_000_123_456),
            expiration: Expiration::from_wire(60).expect("60 is not negative"),
            body,
        }
    }

    #[test]
    fn decodes_what_it_encodes() {
        for body in [&b""[..], b"\0\xff\n", &[7; 100_000]] {
            let mut bytes = Vec::new();
            encode(&sample(body), &mut bytes).expect("fits");
            assert!(bytes.len() <= RECORD_OVERHEAD_BYTES + "orders.größe".len() + body.len());
            assert_eq!(decode(&bytes), Ok(Logged::Message(sample(body))));
            assert_eq!(crc(&sample(body)), crc32c::crc32c(&bytes));
        }
    }

    #[test]
    fn the_checksum_of_the_longest_subject_needs_no_more_room() {
        let subject = "s".repeat(SUBJECT_BYTES_MAX);
        let record = Record { subject: &subject, ..sample(b"body") };
        let mut bytes = Vec::new();
        encode(&record, &mut bytes).expect("fits");
        assert_eq!(crc(&record), crc32c::crc32c(&bytes));
    }

    #[test]
    fn writes_the_frozen_bytes_of_version_1() {
        let mut bytes = Vec::new();
        encode(&sample(b"hi"), &mut bytes).expect("fits");
        let mut expected = vec![1];
        expected.extend(14u64.to_le_bytes());
        expected.extend("orders.größe".as_bytes());
        expected.extend(7u32.to_le_bytes());
        expected.extend(1_700_000_000_123_456i64.to_le_bytes());
        expected.extend(60u32.to_le_bytes());
        expected.extend(2u64.to_le_bytes());
        expected.extend(b"hi");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_lost_record_is_one_zero_byte_and_nothing_else() {
        assert_eq!(decode(LOST), Ok(Logged::Lost));
        assert_eq!(decode(&[0, 0]), Err(RecordError::UnknownVersion { version: 0 }));
    }

    #[test]
    fn refuses_every_truncation_newer_versions_and_extra_bytes() {
        let mut bytes = Vec::new();
        encode(&sample(b"hello"), &mut bytes).expect("fits");
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut extra = bytes.clone();
        extra.push(0);
        assert!(matches!(decode(&extra), Err(RecordError::Malformed { .. })));
        bytes[0] = 2;
        assert_eq!(decode(&bytes), Err(RecordError::UnknownVersion { version: 2 }));
    }
}
