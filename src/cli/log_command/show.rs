//! `walcast log show`: records as JSON lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Serialize;

use super::super::Failure;
use super::super::message::rfc3339;
use super::super::output::Output;
use super::glob::matches;
use super::{decode, unreadable};
use crate::event::Sequence;
use crate::event::record::{self, KeyEntry, Logged, TakenOver};
use crate::wal::Inspection;

#[derive(Debug, Clone, Args)]
pub struct ShowArguments {
    /// First sequence
    #[arg(long, value_name = "SEQUENCE", default_value_t = 1)]
    pub from: u64,
    /// Last sequence
    #[arg(long, value_name = "SEQUENCE", default_value_t = u64::MAX, hide_default_value = true)]
    pub to: u64,
    /// Only subjects that match; `*` stands for any text, `?` for one character
    #[arg(long, value_name = "GLOB")]
    pub subject: Option<String>,
    /// At most this many records
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Bodies as text instead of base64; bytes that are not UTF-8 are replaced
    #[arg(long)]
    pub text: bool,
}

/// A record as JSON.
#[derive(Debug, Serialize)]
pub(super) struct ShownRecord<'a> {
    sequence: u64,
    subject: &'a str,
    id: u32,
    published_at: Option<String>,
    expiration_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

/// A lost record as JSON.
#[derive(Debug, Serialize)]
struct ShownLost {
    sequence: u64,
    lost: bool,
}

/// High-water marks that were taken over from another node, as JSON.
#[derive(Debug, Serialize)]
struct ShownMarks<'a> {
    sequence: u64,
    marks: Vec<ShownMark<'a>>,
}

#[derive(Debug, Serialize)]
struct ShownMark<'a> {
    subject: &'a str,
    id: u32,
}

/// Idempotency keys that were taken over from another node, as JSON.
#[derive(Debug, Serialize)]
struct ShownKeys {
    sequence: u64,
    keys: Vec<ShownKey>,
}

#[derive(Debug, Serialize)]
struct ShownKey {
    name_hash: String,
    body_hash: String,
    published_at: Option<String>,
    id: u32,
}

impl From<KeyEntry> for ShownKey {
    fn from(key: KeyEntry) -> Self {
        Self {
            name_hash: format!("{:032x}", u128::from_be_bytes(key.name)),
            body_hash: format!("{:032x}", u128::from_be_bytes(key.body)),
            published_at: rfc3339(key.published_at),
            id: key.id.get(),
        }
    }
}

/// Prints the records that are asked for.
pub(super) fn print(inspection: &Inspection, show: &ShowArguments, output: &mut Output) -> Result<(), Failure> {
    let mut left = show.limit.unwrap_or(u64::MAX);
    let mut scanner = inspection.scanner(Sequence::new(show.from).previous());
    while let Some(frame) = scanner.next().map_err(|error| unreadable(&error))? {
        for (sequence, bytes) in frame.iter() {
            if left == 0 || sequence.get() > show.to {
                return Ok(());
            }
            left -= u64::from(print_one(sequence, decode(sequence, &bytes)?, show, output)?);
        }
    }
    Ok(())
}

/// Prints a record if it is asked for, and says whether it was.
fn print_one(
    sequence: Sequence,
    logged: Logged<'_>,
    show: &ShowArguments,
    output: &mut Output,
) -> Result<bool, Failure> {
    let is_chosen = |subject: &str| show.subject.as_deref().is_none_or(|glob| matches(glob, subject));
    match logged {
        Logged::Message(record) if is_chosen(record.subject) => {
            output.json(&shown_record(sequence, &record, show.text))?;
        }
        Logged::TakenOver(TakenOver::Marks(marks)) => {
            let chosen = marks.iter().filter(|(subject, _)| is_chosen(subject));
            let marks: Vec<_> = chosen.map(|(subject, id)| ShownMark { subject, id: id.get() }).collect();
            if marks.is_empty() {
                return Ok(false);
            }
            output.json(&ShownMarks { sequence: sequence.get(), marks })?;
        }
        // Nobody knows the subjects of these, so no choice of subjects has them.
        Logged::TakenOver(TakenOver::Keys(keys)) if show.subject.is_none() => {
            let keys = keys.iter().map(ShownKey::from).collect();
            output.json(&ShownKeys { sequence: sequence.get(), keys })?;
        }
        Logged::Lost if show.subject.is_none() => {
            output.json(&ShownLost { sequence: sequence.get(), lost: true })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A record as `show` prints it.
pub(super) fn shown_record<'a>(sequence: Sequence, record: &record::Record<'a>, text: bool) -> ShownRecord<'a> {
    ShownRecord {
        sequence: sequence.get(),
        subject: record.subject,
        id: record.id.get(),
        published_at: rfc3339(record.published_at),
        expiration_seconds: record.expiration.seconds(),
        idempotency_key: record.idempotency_key,
        traceparent: record.traceparent,
        body_base64: (!text).then(|| STANDARD.encode(record.body)),
        body: text.then(|| String::from_utf8_lossy(record.body).into_owned()),
    }
}
