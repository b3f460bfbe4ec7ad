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
use crate::event::record::{self, Logged};
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

/// Prints the records that are asked for.
pub(super) fn print(inspection: &Inspection, show: &ShowArguments, output: &mut Output) -> Result<(), Failure> {
    let mut left = show.limit.unwrap_or(u64::MAX);
    let mut scanner = inspection.scanner(Sequence::new(show.from).previous());
    while let Some(frame) = scanner.next().map_err(|error| unreadable(&error))? {
        for (sequence, bytes) in frame.iter() {
            if left == 0 || sequence.get() > show.to {
                return Ok(());
            }
            let Logged::Message(record) = decode(sequence, &bytes)? else {
                // Nobody knows its subject, so no choice of subjects has it.
                if show.subject.is_none() {
                    output.json(&ShownLost { sequence: sequence.get(), lost: true })?;
                    left -= 1;
                }
                continue;
            };
            if show.subject.as_deref().is_none_or(|glob| matches(glob, record.subject)) {
                output.json(&shown_record(sequence, &record, show.text))?;
                left -= 1;
            }
        }
    }
    Ok(())
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
