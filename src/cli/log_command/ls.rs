//! `walcast log ls`: a line a segment.

use serde::Serialize;

use super::super::Failure;
use super::super::message::rfc3339;
use super::super::output::Output;
use super::{decode, unreadable};
use crate::event::record::Logged;
use crate::event::{Sequence, UnixMicros};
use crate::wal::{Inspection, SegmentInfo};

/// A segment as JSON.
#[derive(Debug, Serialize)]
struct ShownSegment {
    file: String,
    state: &'static str,
    first: u64,
    last: u64,
    records: u64,
    bytes: u64,
    epoch: u64,
    first_published_at: Option<String>,
    last_published_at: Option<String>,
}

/// Lists the segments.
pub(super) fn list(inspection: &Inspection, json: bool, output: &mut Output) -> Result<(), Failure> {
    if !json {
        let header = ["FIRST", "LAST", "RECORDS", "BYTES", "STATE", "FIRST PUBLISHED", "LAST PUBLISHED"];
        output.line(columns(&header.map(str::to_owned)))?;
    }
    for segment in inspection.segments() {
        let (first, last) = publish_times(inspection, &segment)?;
        let shown = ShownSegment {
            file: segment.path.display().to_string(),
            state: segment.state.as_str(),
            first: segment.first.get(),
            last: segment.last.get(),
            records: segment.records,
            bytes: segment.bytes,
            epoch: segment.epoch,
            first_published_at: first.and_then(rfc3339),
            last_published_at: last.and_then(rfc3339),
        };
        if json { output.json(&shown)? } else { output.line(row(shown))? }
    }
    Ok(())
}

fn row(segment: ShownSegment) -> String {
    columns(&[
        segment.first.to_string(),
        segment.last.to_string(),
        segment.records.to_string(),
        segment.bytes.to_string(),
        segment.state.to_owned(),
        segment.first_published_at.unwrap_or_else(|| "-".to_owned()),
        segment.last_published_at.unwrap_or_else(|| "-".to_owned()),
    ])
}

fn columns([first, last, records, bytes, state, from, to]: &[String; 7]) -> String {
    format!("{first:>12} {last:>12} {records:>10} {bytes:>12}  {state:7} {from:27} {to}")
}

/// When the first and the last record of a segment were published; none of an empty segment.
fn publish_times(
    inspection: &Inspection,
    segment: &SegmentInfo,
) -> Result<(Option<UnixMicros>, Option<UnixMicros>), Failure> {
    if segment.records == 0 {
        return Ok((None, None));
    }
    let published_at = |sequence: Sequence| -> Result<Option<UnixMicros>, Failure> {
        let mut scanner = inspection.scanner(sequence.previous());
        let frame = scanner.next().map_err(|error| unreadable(&error))?;
        let Some((found, bytes)) = frame.as_ref().and_then(|frame| frame.iter().next()) else { return Ok(None) };
        decode(found, &bytes).map(|logged| match logged {
            Logged::Message(record) => Some(record.published_at),
            Logged::Lost | Logged::TakenOver(_) => None,
        })
    };
    Ok((published_at(segment.first)?, published_at(segment.last)?))
}
