//! `walcast log`: a read-only look at the log of a stopped or running broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::config_command::SettingsArguments;
use super::message::rfc3339;
use super::output::{self, Output};
use super::{Exit, Failure};
use crate::event::record::{self, Logged};
use crate::event::{Sequence, UnixMicros};
use crate::ingest::{CheckpointError, Checkpointer};
use crate::wal::{DiskFileSystem, Inspection, SegmentInfo, VerifyError, inspect};

#[derive(Debug, Args)]
pub struct LogArguments {
    #[command(subcommand)]
    pub command: LogCommand,
    /// Settings as a TOML file
    #[arg(long, global = true, value_name = "PATH", env = "WALCAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// The broker's folder [default: ./data]
    #[arg(long, global = true, value_name = "PATH")]
    pub data_dir: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// List the segments: sequences, records, bytes, publish times, state
    Ls {
        /// One JSON object a segment
        #[arg(long)]
        json: bool,
    },
    /// Read every byte and check it; damage is exit code 3, with file and offset
    Verify {
        /// The result as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print records, one JSON object a line
    Show(ShowArguments),
}

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

/// Lists, checks or prints.
pub fn run(arguments: &LogArguments, output: &mut Output) -> Result<(), Failure> {
    let flags = SettingsArguments {
        config: arguments.config.clone(),
        data_dir: arguments.data_dir.clone(),
        ..SettingsArguments::default()
    };
    let settings = flags.load()?.settings;
    // Before the log is looked at: a broker beside this may go on.
    let known = match &arguments.command {
        LogCommand::Verify { .. } => known_durable(&settings.ids_dir())?,
        LogCommand::Ls { .. } | LogCommand::Show(_) => Sequence::ZERO,
    };
    let inspection = look(&settings.log_dir())?;
    match &arguments.command {
        LogCommand::Ls { json } => list(&inspection, *json, output),
        LogCommand::Verify { json } => {
            let verified = verify(&inspection, *json, output);
            verified.and_then(|()| refuse_lost(&inspection, known, &settings.log_dir()))
        }
        LogCommand::Show(show) => print(&inspection, show, output),
    }
}

/// How far the log was durable when the ids checkpoint was taken.
fn known_durable(ids_dir: &Path) -> Result<Sequence, Failure> {
    let peeked = Checkpointer::peek(&DiskFileSystem, ids_dir);
    let known = peeked.map_err(|error| match &error {
        CheckpointError::Io { .. } => Failure::new(Exit::Failed, error.to_string()),
        _ => Failure::new(Exit::Damaged, error.to_string()),
    })?;
    Ok(known.unwrap_or(Sequence::ZERO))
}

/// Every record that is there can be valid, and some be gone from the end.
fn refuse_lost(inspection: &Inspection, known: Sequence, dir: &Path) -> Result<(), Failure> {
    let last = inspection.segments().last().map_or(Sequence::ZERO, |newest| newest.last);
    if last >= known {
        return Ok(());
    }
    let dir = dir.display();
    let message = format!(
        "the log in {dir} ends at sequence {last}, but sequence {known} is known to have been durable: records are lost or damaged at its end"
    );
    Err(Failure::new(Exit::Damaged, message))
}

fn look(dir: &Path) -> Result<Inspection, Failure> {
    if !dir.is_dir() {
        let message = format!("there is no log in {}; name the data directory with --data-dir", dir.display());
        return Err(Failure::new(Exit::Failed, message));
    }
    inspect(Arc::new(DiskFileSystem), dir).map_err(|error| unreadable(&error))
}

fn unreadable(error: &VerifyError) -> Failure {
    match error {
        VerifyError::Damaged(damage) => Failure::new(Exit::Damaged, format!("the log is damaged: {damage}")),
        VerifyError::Io { .. } => Failure::new(Exit::Failed, error.to_string()),
        VerifyError::Trimmed { .. } => Failure::new(Exit::Failed, format!("{error}; try again")),
    }
}

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

fn list(inspection: &Inspection, json: bool, output: &mut Output) -> Result<(), Failure> {
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
            Logged::Lost => None,
        })
    };
    Ok((published_at(segment.first)?, published_at(segment.last)?))
}

fn decode(sequence: Sequence, bytes: &[u8]) -> Result<Logged<'_>, Failure> {
    // The frame's checksum held, so these bytes are as they were written: a newer build wrote them.
    record::decode(bytes).map_err(|error| {
        Failure::new(Exit::Damaged, format!("record {sequence} of the log cannot be read by this build: {error}"))
    })
}

/// The outcome of `verify` as JSON.
#[derive(Debug, Serialize)]
struct ShownVerified {
    segments: usize,
    trimmed_meanwhile: usize,
    records: u64,
    bytes: u64,
    torn_bytes: u64,
    seconds: f64,
    mb_per_second: f64,
}

/// How often `verify` says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

fn verify(inspection: &Inspection, json: bool, output: &mut Output) -> Result<(), Failure> {
    let total: u64 = inspection.segments().iter().map(|segment| segment.bytes).sum();
    let mut said = Instant::now();
    let mut progress = |bytes: u64| {
        if said.elapsed() >= PROGRESS_EVERY {
            said = Instant::now();
            output::note(&format!("{} of {} MB", bytes / 1_000_000, total / 1_000_000));
        }
    };
    let verified = inspection.verify(&mut progress).map_err(|error| unreadable(&error))?;
    let seconds = verified.elapsed.as_secs_f64();
    let shown = ShownVerified {
        segments: verified.segments,
        trimmed_meanwhile: verified.trimmed_meanwhile,
        records: verified.records,
        bytes: verified.bytes,
        torn_bytes: verified.torn_bytes,
        seconds,
        mb_per_second: if seconds > 0.0 { verified.bytes as f64 / 1e6 / seconds } else { 0.0 },
    };
    if json {
        return output.json(&shown);
    }
    output.line(format!(
        "{} records in {} segments are valid: {} bytes, {:.0} MB/s",
        shown.records, shown.segments, shown.bytes, shown.mb_per_second
    ))?;
    if shown.torn_bytes > 0 {
        let torn = shown.torn_bytes;
        output.line(format!(
            "{torn} bytes behind the last whole record are a write that is not finished: of a broker that runs, or that ended in the middle of it"
        ))?;
    }
    Ok(())
}

/// A record as JSON.
#[derive(Debug, Serialize)]
struct ShownRecord<'a> {
    sequence: u64,
    subject: &'a str,
    id: u32,
    published_at: Option<String>,
    expiration_seconds: u32,
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

fn print(inspection: &Inspection, show: &ShowArguments, output: &mut Output) -> Result<(), Failure> {
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

fn shown_record<'a>(sequence: Sequence, record: &record::Record<'a>, text: bool) -> ShownRecord<'a> {
    ShownRecord {
        sequence: sequence.get(),
        subject: record.subject,
        id: record.id.get(),
        published_at: rfc3339(record.published_at),
        expiration_seconds: record.expiration.seconds(),
        body_base64: (!text).then(|| STANDARD.encode(record.body)),
        body: text.then(|| String::from_utf8_lossy(record.body).into_owned()),
    }
}

/// Whether a whole text matches: `*` is any text, `?` one character. Linear in memory, no recursion.
fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<_>, Vec<_>) = (glob.chars().collect(), text.chars().collect());
    let (mut at_glob, mut at_text) = (0, 0);
    // Where to go on when a guess of what the last `*` covers was too short.
    let mut retry: Option<(usize, usize)> = None;
    while at_text < text.len() {
        if glob.get(at_glob) == Some(&'*') {
            retry = Some((at_glob, at_text));
            at_glob += 1;
        } else if glob.get(at_glob).is_some_and(|wanted| *wanted == '?' || *wanted == text[at_text]) {
            at_glob += 1;
            at_text += 1;
        } else if let Some((star, covered)) = retry {
            retry = Some((star, covered + 1));
            at_glob = star + 1;
            at_text = covered + 1;
        } else {
            return false;
        }
    }
    glob[at_glob..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests;
