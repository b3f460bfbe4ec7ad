//! What a node took over of the slots of another one, as records of its own log: versions 3 and 4.
//!
//! A node that gets slots must keep, across any crash, what their owner knew beside the messages: the last id of each
//! subject, because its messages may be trimmed, and the idempotency keys whose messages are. Each such list is a
//! record with a sequence of its own, so it is durable as messages are.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};

use super::super::limits::SUBJECT_BYTES_MAX;
use super::super::{MessageId, Subject, UnixMicros};
use super::{KEYS_VERSION, MARKS_VERSION, RecordError, id, malformed};

/// Largest record of marks or keys in bytes: some 24 thousand keys, so that a million are some 40 records, and no more
/// than a large body, so that a frame of the log takes several and a start needs no memory for them that is worth a word.
pub const TAKEN_OVER_BYTES_MAX: usize = 1024 * 1024;

/// How many marks fit a record of so many bytes, or of [`TAKEN_OVER_BYTES_MAX`] if that is less, whatever their subjects.
/// Frames of the log may be shorter than the largest record.
pub const fn marks_that_fit(record_bytes: usize) -> usize {
    entries_bytes(record_bytes) / (COUNT_BYTES + SUBJECT_BYTES_MAX + 4)
}

/// How many keys fit a record of so many bytes, or of [`TAKEN_OVER_BYTES_MAX`] if that is less.
pub const fn keys_that_fit(record_bytes: usize) -> usize {
    entries_bytes(record_bytes) / KEY_BYTES
}

/// The number of entries stands before them as a u64, and so does the length of a text.
const COUNT_BYTES: usize = 8;

/// What is left for entries behind version and count.
const fn entries_bytes(record_bytes: usize) -> usize {
    let bytes = if record_bytes < TAKEN_OVER_BYTES_MAX { record_bytes } else { TAKEN_OVER_BYTES_MAX };
    bytes.saturating_sub(1 + COUNT_BYTES)
}

/// A key: two hashes, time and id.
const KEY_BYTES: usize = 16 + 16 + 8 + 4;

const LAYOUT: Configuration<LittleEndian, Fixint, Limit<TAKEN_OVER_BYTES_MAX>> =
    bincode::config::legacy().with_limit::<TAKEN_OVER_BYTES_MAX>();

/// An entry of version 3, frozen.
#[derive(bincode::Encode, bincode::BorrowDecode)]
struct MarkV3<'a> {
    subject: &'a str,
    id: u32,
}

/// An entry of version 4, frozen.
#[derive(bincode::Encode, bincode::Decode)]
struct KeyV4 {
    name: [u8; 16],
    body: [u8; 16],
    published_at_us: i64,
    id: u32,
}

/// What was taken over; it borrows the log's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenOver<'a> {
    /// High-water marks of subjects.
    Marks(Marks<'a>),
    /// Idempotency keys whose messages the log does not have.
    Keys(Keys<'a>),
}

/// High-water marks: subjects, each with its last id. At least one; a subject that stands there twice has the higher id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks<'a> {
    count: usize,
    /// Known to be so many valid entries.
    entries: &'a [u8],
}

/// Idempotency keys in the order in which they came, the oldest first. At least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys<'a> {
    count: usize,
    /// Known to be so many valid entries.
    entries: &'a [u8],
}

/// An idempotency key without its text: what a retry is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyEntry {
    /// Hash of subject and key.
    pub name: [u8; 16],
    /// Hash of the body.
    pub body: [u8; 16],
    /// When its message was published.
    pub published_at: UnixMicros,
    /// The id of its message.
    pub id: MessageId,
}

/// Appends the record of these high-water marks to `buffer`. [`marks_that_fit`] tells how many.
///
/// # Errors
/// [`RecordError::Malformed`] if there is none, a subject is not one, or the record would be larger than
/// [`TAKEN_OVER_BYTES_MAX`]; `buffer` is as before then.
pub fn encode_marks<'s>(
    marks: impl IntoIterator<Item = (&'s str, MessageId)>,
    buffer: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let entries = marks.into_iter().map(|(subject, id)| {
        Subject::check(subject).map_err(|error| malformed(&error))?;
        Ok(MarkV3 { subject, id: id.get() })
    });
    encode_entries(MARKS_VERSION, entries, buffer)
}

/// Appends the record of these idempotency keys, the oldest first, to `buffer`. [`keys_that_fit`] tells how many.
///
/// # Errors
/// [`RecordError::Malformed`] if there is none, or the record would be larger than [`TAKEN_OVER_BYTES_MAX`]; `buffer` is
/// as before then.
pub fn encode_keys(keys: impl IntoIterator<Item = KeyEntry>, buffer: &mut Vec<u8>) -> Result<(), RecordError> {
    let entries = keys.into_iter().map(|KeyEntry { name, body, published_at, id }| {
        Ok(KeyV4 { name, body, published_at_us: published_at.as_micros(), id: id.get() })
    });
    encode_entries(KEYS_VERSION, entries, buffer)
}

fn encode_entries<Entry: bincode::Encode>(
    version: u8,
    entries: impl Iterator<Item = Result<Entry, RecordError>>,
    buffer: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let start = buffer.len();
    let written = put_entries(version, entries, buffer);
    if written.is_err() {
        buffer.truncate(start);
    }
    written
}

fn put_entries<Entry: bincode::Encode>(
    version: u8,
    entries: impl Iterator<Item = Result<Entry, RecordError>>,
    buffer: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let start = buffer.len();
    buffer.push(version);
    let counted = buffer.len();
    buffer.extend([0; COUNT_BYTES]);
    let mut count = 0_u64;
    for entry in entries {
        bincode::encode_into_std_write(entry?, buffer, LAYOUT).map_err(|error| malformed(&error))?;
        refuse_larger(buffer.len() - start)?;
        count += 1;
    }
    refuse_none(count)?;
    buffer[counted..counted + COUNT_BYTES].copy_from_slice(&count.to_le_bytes());
    Ok(())
}

impl<'a> Marks<'a> {
    pub(super) fn decode(fields: &'a [u8]) -> Result<Self, RecordError> {
        let (count, entries) = decode_entries(fields, |bytes| {
            let (mark, used): (MarkV3<'_>, usize) = bincode::borrow_decode_from_slice(bytes, LAYOUT)?;
            Ok((Subject::check(mark.subject).map_err(|error| malformed(&error)).and_then(|()| id(mark.id)).err(), used))
        })?;
        Ok(Self { count, entries })
    }

    /// How many there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The subjects, each with its last id, in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, MessageId)> + use<'a> {
        let mut left = self.entries;
        std::iter::from_fn(move || {
            let (mark, used): (MarkV3<'a>, usize) = bincode::borrow_decode_from_slice(left, LAYOUT).ok()?;
            left = &left[used..];
            Some((mark.subject, MessageId::new(mark.id)?))
        })
    }
}

impl<'a> Keys<'a> {
    pub(super) fn decode(fields: &'a [u8]) -> Result<Self, RecordError> {
        let (count, entries) = decode_entries(fields, |bytes| {
            let (key, used): (KeyV4, usize) = bincode::decode_from_slice(bytes, LAYOUT)?;
            Ok((id(key.id).err(), used))
        })?;
        Ok(Self { count, entries })
    }

    /// How many there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The keys, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = KeyEntry> + use<'a> {
        let mut left = self.entries;
        std::iter::from_fn(move || {
            let (key, used): (KeyV4, usize) = bincode::decode_from_slice(left, LAYOUT).ok()?;
            left = &left[used..];
            let KeyV4 { name, body, published_at_us, id } = key;
            let published_at = UnixMicros::from_micros(published_at_us);
            Some(KeyEntry { name, body, published_at, id: MessageId::new(id)? })
        })
    }
}

/// What is wrong with an entry, and its length in bytes.
type Checked = Result<(Option<RecordError>, usize), bincode::error::DecodeError>;

/// Counts the entries and looks at each once, so that those who read them later need not.
fn decode_entries(fields: &[u8], check: impl Fn(&[u8]) -> Checked) -> Result<(usize, &[u8]), RecordError> {
    refuse_larger(1 + fields.len())?;
    let (count, entries) = fields.split_first_chunk().ok_or_else(|| malformed(&"it ends before the count"))?;
    let count = u64::from_le_bytes(*count);
    refuse_none(count)?;
    let mut left = entries;
    // Each takes some bytes, so a count that is too high ends at the end of the bytes.
    for _ in 0..count {
        let (wrong, used) = check(left).map_err(|error| malformed(&error))?;
        wrong.map_or(Ok(()), Err)?;
        left = &left[used..];
    }
    super::refuse_more(left, 0)?;
    // Not more than bytes.
    Ok((count as usize, entries))
}

fn refuse_none(count: u64) -> Result<(), RecordError> {
    if count == 0 { Err(malformed(&"a list without entries")) } else { Ok(()) }
}

fn refuse_larger(bytes: usize) -> Result<(), RecordError> {
    if bytes > TAKEN_OVER_BYTES_MAX {
        return Err(malformed(&format_args!("a list of more than {TAKEN_OVER_BYTES_MAX} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
