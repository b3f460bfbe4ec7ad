//! `walcast log repair`: what a damaged log has lost, and making it whole again without that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use futures_util::FutureExt as _;
use serde::Serialize;

use super::super::message::rfc3339;
use super::super::output::{self, Output};
use super::super::{Exit, Failure};
use super::must_exist;
use crate::config::{Settings, StoreKind};
use crate::event::record::{self, Logged};
use crate::event::{Sequence, Subject};
use crate::ingest::{CheckpointError, Checkpointer, SubjectTable, forget_lost};
use crate::projector::{EmbeddedStore, Store as _, embedded};
use crate::wal::repair::{self, Finding, Known, Remedy, Repair, RepairError};
use crate::wal::{DiskFileSystem, LogId};

#[derive(Debug, Clone, Args)]
pub struct RepairArguments {
    /// List what is damaged and what is lost for good; change no file of the log. The broker must be stopped: the log's
    /// lock is taken (LOCK then holds this process' id), and the embedded store is opened as the broker opens it, which
    /// may tidy its files. For a look without any write copy the data directory
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Repair: everything valid is kept, the damaged files are moved into a folder beside the log
    #[arg(long)]
    pub yes: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Examines the log and, with `--yes`, repairs it.
pub(super) fn run(arguments: &RepairArguments, settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    if !arguments.dry_run && !arguments.yes {
        let message = "a repair gives up what is lost: look at that with --dry-run, then repair with --yes";
        return Err(Failure::new(Exit::Usage, message));
    }
    must_exist(&settings.log_dir())?;
    let locked = repair::lock(Arc::new(DiskFileSystem), &settings.log_dir()).map_err(|error| failure(&error))?;
    let known = known(settings, locked.log_id().map_err(|error| failure(&error))?)?;
    let mut readable = BTreeMap::new();
    let mut suspect = |sequence: Sequence, bytes: &[u8]| {
        readable.extend(Readable::new(bytes).map(|record| (sequence, record)));
    };
    let examined = locked.examine(&known.log, &mut suspect).map_err(|error| failure(&error))?;
    let mut shown = Shown::new(&examined, &readable, &known);
    if arguments.yes && !examined.findings().is_empty() {
        // First, so that a repair that is interrupted here is run again for what is still damaged.
        shown.keys_forgotten = forget_keys(settings, &examined, known.projected)?;
        let aside = examined.run(record::LOST).map_err(|error| failure(&error))?;
        shown.repaired = true;
        shown.damaged_files = aside.map(|folder| folder.display().to_string());
    }
    if arguments.json { output.json(&shown) } else { shown.write(output) }
}

fn failure(error: &RepairError) -> Failure {
    let exit = match error {
        RepairError::InUse { .. } => Exit::InUse,
        RepairError::Newer(_) | RepairError::StillDamaged(_) => Exit::Damaged,
        RepairError::Io { .. } | RepairError::InTheWay { .. } => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// Takes the idempotency keys of lost records out of their checkpoint, but for those that the store has: a retry brings the
/// message back then, and is not told the id of one that is nowhere.
fn forget_keys(settings: &Settings, repair: &Repair, projected: Sequence) -> Result<u64, Failure> {
    let lost: Vec<_> = repair.findings().iter().filter_map(|finding| finding.lost).collect();
    let is_lost =
        |sequence| sequence > projected && lost.iter().any(|(first, last)| (*first..=*last).contains(&sequence));
    forget_lost(&DiskFileSystem, &settings.ids_dir(), is_lost).map_err(|error| {
        let exit = if matches!(error, CheckpointError::Io { .. }) { Exit::Failed } else { Exit::Damaged };
        Failure::new(exit, format!("nothing was repaired: {error}"))
    })
}

/// What checkpoint and store know.
#[derive(Debug)]
struct KnownOutside {
    log: Known,
    /// Up to here the embedded store has every record.
    projected: Sequence,
}

fn known(settings: &Settings, log_id: Option<LogId>) -> Result<KnownOutside, Failure> {
    let ids_dir = settings.ids_dir();
    let unusable = |error: CheckpointError| Failure::new(Exit::Damaged, error.to_string());
    let checkpointed = Checkpointer::peek(&DiskFileSystem, &ids_dir).map_err(unusable)?;
    let log_id = match (log_id, checkpointed) {
        (None, Some(_)) => {
            let subjects = SubjectTable::new(settings.limits.subjects);
            let checkpoint = Checkpointer::restore(&DiskFileSystem, &ids_dir, &subjects).map_err(unusable)?;
            checkpoint.map(|checkpoint| checkpoint.log_id)
        }
        (log_id, _) => log_id,
    };
    let projected = log_id.map_or(Sequence::ZERO, |log_id| projected(settings, log_id));
    let durable = Checkpointer::durable_at_least(&DiskFileSystem, &ids_dir).map_err(unusable)?.max(projected);
    Ok(KnownOutside { log: Known { log_id, durable }, projected })
}

/// Up to where the embedded store is; a store that cannot be opened says nothing.
fn projected(settings: &Settings, log_id: LogId) -> Sequence {
    let dir = settings.store_dir();
    // Opening makes a store where none is; a look must not.
    let is_empty = std::fs::read_dir(&dir).map_or(true, |mut entries| entries.next().is_none());
    if settings.store.kind != StoreKind::Embedded || is_empty {
        return Sequence::ZERO;
    }
    let config = embedded::Config::default();
    match EmbeddedStore::open(&dir, u128::from_be_bytes(*log_id.as_bytes()), &config) {
        // A local store knows at once.
        Ok(store) => store.projected().now_or_never().and_then(Result::ok).unwrap_or_default().sequence(),
        Err(error) => {
            output::note(&format!("the store is left out of account: {error}"));
            Sequence::ZERO
        }
    }
}

/// What a lost record was, as its bytes say; they are not proven, but they decode in every respect.
#[derive(Debug, Clone, Serialize)]
struct Readable {
    subject: String,
    id: u32,
    published_at: Option<String>,
    body_bytes: usize,
}

impl Readable {
    fn new(bytes: &[u8]) -> Option<Self> {
        let Ok(Logged::Message(record)) = record::decode(bytes) else { return None };
        Subject::new(record.subject.to_owned()).ok()?;
        Some(Self {
            subject: record.subject.to_owned(),
            id: record.id.get(),
            published_at: rfc3339(record.published_at),
            body_bytes: record.body.len(),
        })
    }
}

/// The outcome as JSON.
#[derive(Debug, Serialize)]
struct Shown {
    damaged: Vec<ShownFinding>,
    lost_records: u64,
    /// Of them, those that are in the store.
    lost_records_in_store: u64,
    segments: usize,
    first: u64,
    last: u64,
    repaired: bool,
    /// Idempotency keys of lost records, which are no longer known.
    keys_forgotten: u64,
    /// The folder of the damaged files.
    damaged_files: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownFinding {
    file: PathBuf,
    offset: u64,
    reason: String,
    remedy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_first: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_last: Option<u64>,
    /// Set if records behind `lost_last` may be lost as well: how many bytes of the file are not zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_behind_bytes: Option<u64>,
    /// Lost records that can still be read; their bytes are not proven.
    readable: Vec<ShownReadable>,
}

#[derive(Debug, Serialize)]
struct ShownReadable {
    sequence: u64,
    #[serde(flatten)]
    record: Readable,
}

impl Shown {
    fn new(repair: &Repair, readable: &BTreeMap<Sequence, Readable>, known: &KnownOutside) -> Self {
        let (first, last) = repair.extent();
        let lost = repair.findings().iter().filter_map(|finding| finding.lost);
        let in_store = lost.map(|(first, last)| last.min(known.projected).next().get().saturating_sub(first.get()));
        Self {
            damaged: repair.findings().iter().map(|finding| ShownFinding::new(finding, readable)).collect(),
            lost_records: repair.lost(),
            lost_records_in_store: in_store.sum(),
            segments: repair.segments(),
            first: first.get(),
            last: last.get(),
            repaired: false,
            keys_forgotten: 0,
            damaged_files: None,
        }
    }

    fn write(&self, output: &mut Output) -> Result<(), Failure> {
        for finding in &self.damaged {
            finding.write(output)?;
        }
        let Self { lost_records, lost_records_in_store, segments, first, last, .. } = self;
        if self.damaged.is_empty() {
            return output.line(format!(
                "nothing is damaged in {segments} segments with the records {first} to {last}; nothing was changed"
            ));
        }
        let places = self.damaged.len();
        output.line(format!("{places} damaged places; {lost_records} of the records {first} to {last} are lost"))?;
        if *lost_records_in_store > 0 {
            output.line(format!(
                "{lost_records_in_store} of the lost records were projected before; the store has them"
            ))?;
        }
        if !self.repaired {
            return output
                .line("nothing was changed; --yes repairs, and keeps the damaged files in a folder beside the log");
        }
        let aside = self.damaged_files.as_deref().map(|folder| format!("; the damaged files are in {folder}"));
        if self.keys_forgotten > 0 {
            output.line(format!("{} idempotency keys of lost records are forgotten", self.keys_forgotten))?;
        }
        output.line(format!("the log is repaired{}", aside.unwrap_or_default()))
    }
}

impl ShownFinding {
    fn new(finding: &Finding, readable: &BTreeMap<Sequence, Readable>) -> Self {
        let lost = finding.lost.map(|(first, last)| readable.range(first..=last));
        let of = |(sequence, record): (&Sequence, &Readable)| ShownReadable {
            sequence: sequence.get(),
            record: record.clone(),
        };
        Self {
            file: finding.damage.file.clone(),
            offset: finding.damage.offset,
            reason: finding.damage.reason.to_string(),
            remedy: match finding.remedy {
                Remedy::Rewritten => "the segment is written anew with everything valid in it",
                Remedy::Inserted => "a segment of markers takes the place of what is missing",
                Remedy::PutBack => "the file gets the name that its header says",
                Remedy::MovedAside => "the file is moved aside; nothing in it is proven to belong here",
            },
            lost_first: finding.lost.map(|(first, _)| first.get()),
            lost_last: finding.lost.map(|(_, last)| last.get()),
            unknown_behind_bytes: finding.unknown_behind,
            readable: lost.into_iter().flatten().map(of).collect(),
        }
    }

    fn write(&self, output: &mut Output) -> Result<(), Failure> {
        output.line(format!("{} is damaged at byte {}: {}", self.file.display(), self.offset, self.reason))?;
        let lost = match (self.lost_first, self.lost_last) {
            (Some(first), Some(last)) if first == last => format!("record {first} is lost"),
            (Some(first), Some(last)) => format!("the {} records {first} to {last} are lost", last - first + 1),
            _ => String::new(),
        };
        let and = if lost.is_empty() { "" } else { "; " };
        output.line(format!("  {lost}{and}{}", self.remedy))?;
        if let (Some(bytes), Some(last)) = (self.unknown_behind_bytes, self.lost_last) {
            output.line(format!(
                "  that is the least: the segment's name says that it began, {bytes} bytes of it are not zero, and how many records came after {last} is unknown; ids of those may be given again"
            ))?;
        }
        for ShownReadable { sequence, record } in &self.readable {
            let Readable { subject, id, published_at, body_bytes } = record;
            let when = published_at.as_deref().map(|when| format!(", published {when}"));
            output.line(format!(
                "  {sequence} reads as id {id} of {subject:?}{}, {body_bytes} bytes; not proven",
                when.unwrap_or_default()
            ))?;
        }
        Ok(())
    }
}
