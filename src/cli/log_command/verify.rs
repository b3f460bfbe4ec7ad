//! `walcast log verify`: reads every byte and checks it, and decodes every record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::super::output::Output;
use super::super::{Exit, Failure};
use super::progress::Progress;
use super::{WAY_OUT, must_exist, unreadable};
use crate::config::Settings;
use crate::event::Sequence;
use crate::event::record::{self, RecordError};
use crate::ingest::{CheckpointError, Checkpointer};
use crate::wal::{DamageReason, DiskFileSystem, Frame, Inspection, VerifyError, inspect};

/// How far the log was durable when the ids checkpoint was taken.
pub(super) fn known_durable(ids_dir: &Path) -> Result<Sequence, Failure> {
    let peeked = Checkpointer::peek(&DiskFileSystem, ids_dir);
    let known = peeked.map_err(|error| match &error {
        CheckpointError::Io { .. } => Failure::new(Exit::Failed, error.to_string()),
        _ => Failure::new(Exit::Damaged, error.to_string()),
    })?;
    Ok(known.unwrap_or(Sequence::ZERO))
}

/// Every record that is there can be valid, and some be gone from the end.
pub(super) fn refuse_lost(inspection: &Inspection, known: Sequence, dir: &Path) -> Result<(), Failure> {
    let last = inspection.segments().last().map_or(Sequence::ZERO, |newest| newest.last);
    if last >= known {
        return Ok(());
    }
    let dir = dir.display();
    let message = format!(
        "the log in {dir} ends at sequence {last}, but sequence {known} is known to have been durable: records are lost or damaged at its end; {WAY_OUT}"
    );
    Err(Failure::new(Exit::Damaged, message))
}

/// Looks at the log, checks all of it, and that its end is there.
pub(super) fn run(settings: &Settings, json: bool, output: &mut Output) -> Result<(), Failure> {
    // Before the log is looked at: a broker beside this may go on.
    let known = known_durable(&settings.ids_dir())?;
    let dir = settings.log_dir();
    must_exist(&dir)?;
    let inspection = inspect(Arc::new(DiskFileSystem), &dir).map_err(|error| damaged(&error, json, output))?;
    let ends = refuse_lost(&inspection, known, &dir);
    if json && ends.is_err() {
        let reason = format!("the log ends before sequence {known}, which is known to have been durable");
        let next = inspection.last().next().get();
        output
            .json(&ShownDamaged { damaged: ShownDamage { file: dir, offset: None, sequence: Some(next), reason } })?;
        output.flush()?;
        return ends;
    }
    verify(&inspection, json, output)?;
    ends
}

/// The first damage as JSON.
#[derive(Debug, Serialize)]
struct ShownDamaged {
    damaged: ShownDamage,
}

#[derive(Debug, Serialize)]
struct ShownDamage {
    /// The segment; the log's folder if the log as a whole ends too early.
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// The first record that is not there, or cannot be read, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    reason: String,
}

/// The failure, of which damage is shown as JSON too.
fn damaged(error: &VerifyError, json: bool, output: &mut Output) -> Failure {
    let failure = unreadable(error);
    let VerifyError::Damaged(damage) = error else { return failure };
    if !json {
        return failure;
    }
    let sequence = match &damage.reason {
        DamageReason::Frame { expected }
        | DamageReason::Gap { expected, .. }
        | DamageReason::MissingBefore { expected } => Some(expected.get()),
        _ => None,
    };
    let (file, offset, reason) = (damage.file.clone(), Some(damage.offset), damage.reason.to_string());
    let shown = ShownDamaged { damaged: ShownDamage { file, offset, sequence, reason } };
    output.json(&shown).and_then(|()| output.flush()).err().unwrap_or(failure)
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

/// A record that is as it was written and does not decode.
#[derive(Debug)]
struct Unread {
    sequence: Sequence,
    file: PathBuf,
    error: RecordError,
}

/// Decodes the records of a frame; `first` has the first one of all that does not.
fn decode_all(file: &Path, frame: &Frame, first: &Mutex<Option<Unread>>) {
    let failed = frame.iter().find_map(|(sequence, bytes)| Some((sequence, record::decode(&bytes).err()?)));
    let Some((sequence, error)) = failed else { return };
    let mut first = first.lock();
    if first.as_ref().is_none_or(|known| sequence < known.sequence) {
        *first = Some(Unread { sequence, file: file.to_owned(), error });
    }
}

/// Checks the log and says how fast that went.
pub(super) fn verify(inspection: &Inspection, json: bool, output: &mut Output) -> Result<(), Failure> {
    let total: u64 = inspection.segments().iter().map(|segment| segment.bytes).sum();
    let mut progress = Progress::new("MB", total / 1_000_000);
    let first_unread = Mutex::new(None);
    let each = |file: &Path, frame: &Frame| decode_all(file, frame, &first_unread);
    let verified = inspection.verify_with(&each, &mut |bytes| progress.set(bytes / 1_000_000));
    progress.end();
    let verified = verified.map_err(|error| damaged(&error, json, output))?;
    if let Some(Unread { sequence, file, error }) = first_unread.into_inner() {
        if json {
            let (sequence, reason) = (Some(sequence.get()), error.to_string());
            let damaged = ShownDamage { file: file.clone(), offset: None, sequence, reason };
            output.json(&ShownDamaged { damaged })?;
            output.flush()?;
        }
        let file = file.display();
        let message = format!("record {sequence} of the log, in {file}, cannot be read by this build: {error}");
        return Err(Failure::new(Exit::Damaged, message));
    }
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
