//! The file of one dead letter: JSON, so that a person can read it, with the body in base64 and a checksum.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{DeadLetter, Row};
use crate::event::{Expiration, MessageId, Sequence, Subject, UnixMicros};
use crate::wal::format::is_numbered;

/// The format that this build reads and writes.
const VERSION: u32 = 1;

const SUFFIX: &str = ".json";

/// Why a file is not a dead letter that this build understands.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not the JSON of one.
    #[error("it is not a dead letter: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a newer walcast.
    #[error("the dead letter has version {0}, this walcast knows up to {VERSION}; use a newer walcast")]
    Version(u32),
    /// Its fields break a rule, or are not what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    version: u32,
    reason: String,
    sequence: u64,
    subject: String,
    id: u32,
    published_at_us: i64,
    expiration_seconds: u32,
    set_aside_at_us: i64,
    body_base64: String,
    /// Of the body.
    body_crc32c: u32,
}

/// The content of the file.
pub(super) fn encode(letter: &DeadLetter) -> Vec<u8> {
    let row = &letter.row;
    let letter = Letter {
        version: VERSION,
        reason: letter.reason.clone(),
        sequence: row.sequence.get(),
        subject: row.subject.as_str().to_owned(),
        id: row.id.get(),
        published_at_us: row.published_at.as_micros(),
        expiration_seconds: row.expiration.seconds(),
        set_aside_at_us: letter.set_aside_at.as_micros(),
        body_base64: STANDARD.encode(&row.body),
        body_crc32c: crc32c::crc32c(&row.body),
    };
    let mut content = serde_json::to_vec_pretty(&letter).expect("numbers and text have a JSON form");
    content.push(b'\n');
    content
}

/// The letter in the content of a file.
pub(super) fn decode(content: &[u8]) -> Result<DeadLetter, FileError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(content)?;
    if version != VERSION {
        return Err(FileError::Version(version));
    }
    let letter: Letter = serde_json::from_slice(content)?;
    let body = STANDARD.decode(&letter.body_base64).map_err(|_| FileError::Damaged("the body is not base64"))?;
    if crc32c::crc32c(&body) != letter.body_crc32c {
        return Err(FileError::Damaged("the body has another checksum"));
    }
    let expiration = i32::try_from(letter.expiration_seconds).ok().and_then(Expiration::from_wire);
    let row = Row {
        sequence: Sequence::new(letter.sequence),
        subject: Subject::new(letter.subject).map_err(|_| FileError::Damaged("the subject is not valid"))?,
        id: MessageId::new(letter.id).ok_or(FileError::Damaged("the id is out of range"))?,
        published_at: UnixMicros::from_micros(letter.published_at_us),
        expiration: expiration.ok_or(FileError::Damaged("the expiration is out of range"))?,
        body: Bytes::from(body),
    };
    let set_aside_at = UnixMicros::from_micros(letter.set_aside_at_us);
    Ok(DeadLetter { row, reason: letter.reason, set_aside_at })
}

/// The name of the file of a record.
pub(super) fn name(sequence: Sequence) -> String {
    format!("{:020}{SUFFIX}", sequence.get())
}

/// Whether a file of this name is a letter; one that was being written is not.
pub(super) fn is_letter(name: &str) -> bool {
    name.strip_suffix(SUFFIX).is_some_and(is_numbered)
}
