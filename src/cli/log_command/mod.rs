//! `walcast log`: a look at the log of a stopped or running broker, its repair, and its replay into something else.

mod glob;
mod ls;
pub(in crate::cli) mod progress;
mod repair;
mod replay;
mod show;
mod verify;

use std::path::Path;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::config_command::{DirectoryArguments, StoreFlags};
use super::output::Output;
use super::{Exit, Failure};
use crate::event::Sequence;
use crate::event::record::{self, Logged};
use crate::wal::{DiskFileSystem, Inspection, VerifyError, inspect};

#[derive(Debug, Args)]
pub struct LogArguments {
    #[command(subcommand)]
    pub command: LogCommand,
    #[command(flatten)]
    pub directory: DirectoryArguments,
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
    Show(show::ShowArguments),
    /// Send the records of the log once more: to standard output, to a broker, or into the history store
    Replay(replay::ReplayArguments),
    /// Make a damaged log whole again, without what is lost for good; the broker must be stopped
    Repair(repair::RepairArguments),
}

impl LogCommand {
    /// The store of the one that writes to any kind.
    fn store(&self) -> StoreFlags {
        match self {
            Self::Replay(arguments) => arguments.store.clone(),
            Self::Ls { .. } | Self::Verify { .. } | Self::Show(_) | Self::Repair(_) => StoreFlags::default(),
        }
    }
}

/// Lists, checks, prints or repairs.
pub fn run(arguments: &LogArguments, output: &mut Output) -> Result<(), Failure> {
    let settings = arguments.directory.settings(&arguments.command.store()).load()?.settings;
    let log = || look(&settings.log_dir());
    match &arguments.command {
        LogCommand::Ls { json } => ls::list(&log()?, *json, output),
        LogCommand::Verify { json } => verify::run(&settings, *json, output),
        LogCommand::Show(show) => show::print(&log()?, show, output),
        LogCommand::Replay(arguments) => replay::run(arguments, &settings, output),
        LogCommand::Repair(arguments) => repair::run(arguments, &settings, output),
    }
}

/// The way out of damage, as every refusal names it.
const WAY_OUT: &str = "`walcast log repair --dry-run` shows what a repair would keep and lose";

pub(in crate::cli) fn look(dir: &Path) -> Result<Inspection, Failure> {
    must_exist(dir)?;
    inspect(Arc::new(DiskFileSystem), dir).map_err(|error| unreadable(&error))
}

pub(in crate::cli) fn must_exist(dir: &Path) -> Result<(), Failure> {
    if dir.is_dir() {
        return Ok(());
    }
    let message = format!("there is no log in {}; name the data directory with --data-dir", dir.display());
    Err(Failure::new(Exit::Failed, message))
}

pub(in crate::cli) fn unreadable(error: &VerifyError) -> Failure {
    match error {
        VerifyError::Damaged(_) => Failure::new(Exit::Damaged, format!("the log is damaged: {error}")),
        VerifyError::Io { .. } => Failure::new(Exit::Failed, error.to_string()),
        VerifyError::Trimmed { .. } => Failure::new(Exit::Failed, format!("{error}; try again")),
    }
}

pub(in crate::cli) fn decode(sequence: Sequence, bytes: &[u8]) -> Result<Logged<'_>, Failure> {
    record::decode(bytes).map_err(|error| not_understood(sequence, &error))
}

/// The frame's checksum held, so the bytes are as they were written: a newer build wrote them.
pub(in crate::cli) fn not_understood(sequence: Sequence, error: &record::RecordError) -> Failure {
    Failure::new(Exit::Damaged, format!("record {sequence} of the log cannot be read by this build: {error}"))
}

#[cfg(test)]
mod tests;
