//! `walcast store`: the history store of a data directory.
//!
//! `status` asks a running broker, or the store itself where none runs. The others take the data directory as a broker does,
//! because a store belongs to one process.

mod check;
mod rebuild;
mod retry;
mod schema;
mod status;

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::config_command::{DirectoryArguments, StoreFlags};
use super::log_command::{look, must_exist, unreadable};
use super::output::Output;
use super::{Exit, Failure, stopped};
use crate::config::{Settings, StoreKind};
use crate::event::{Projected, Sequence};
use crate::projector::{DeadLetters, Opening, Store};
use crate::wal::{FileLock, Inspection};

#[derive(Debug, Args)]
pub struct StoreArguments {
    #[command(subcommand)]
    pub command: StoreCommand,
    #[command(flatten)]
    pub directory: DirectoryArguments,
    #[command(flatten)]
    pub store: StoreFlags,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Show how far the store is, how fast it moves, and what it did not take
    Status {
        /// The admin address of a running broker [default: the one of the settings]
        #[arg(long, value_name = "URL", env = "WALCAST_ADMIN")]
        admin: Option<String>,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Compare every message of the log with the store and list the differences; exit code 3 if there are any
    Check {
        /// One JSON object a difference
        #[arg(long)]
        json: bool,
    },
    /// Print the statements that make the tables, for operators who make them themselves
    Schema,
    /// Fill an empty store from the log, or go on with that; Ctrl-C ends in order, and the same command goes on
    Rebuild,
    /// Put what the store did not take into it, once the cause is gone
    Retry,
}

/// Looks, checks or fills.
pub fn run(arguments: &StoreArguments, output: &mut Output) -> Result<(), Failure> {
    let settings = arguments.directory.settings(&arguments.store).load()?.settings;
    match &arguments.command {
        StoreCommand::Status { admin, json } => status::run(&settings, admin.as_deref(), *json, output),
        StoreCommand::Check { json } => check::run(&settings, *json, output),
        StoreCommand::Schema => schema::run(&settings, output),
        StoreCommand::Rebuild => rebuild::run(&settings, output),
        StoreCommand::Retry => retry::run(&settings, output),
    }
}

/// A data directory whose broker is stopped, with its store.
struct Stopped {
    inspection: Inspection,
    store: Arc<dyn Store>,
    letters: DeadLetters,
    projected: Projected,
    _lock: Box<dyn FileLock>,
}

impl Stopped {
    /// Takes the directory and opens the store, to write or only to look: the directory may be the copy of one whose broker
    /// runs. Call it within the runtime, where blocking is allowed.
    async fn open(settings: &Settings, opening: Opening) -> Result<Self, Failure> {
        if settings.store.kind == StoreKind::None {
            return Err(Failure::new(Exit::Usage, "this data directory keeps no history (store.kind is none)"));
        }
        let log_dir = settings.log_dir();
        must_exist(&log_dir)?;
        let lock = stopped::lock(&log_dir)?;
        let inspection = look(&log_dir)?;
        // What a killed broker wrote last may not be on the disk yet: a store must not be ahead of its log.
        inspection.make_end_durable().map_err(|error| unreadable(&error))?;
        let Some(log_id) = inspection.log_id() else {
            return Err(Failure::new(Exit::Failed, "the log is empty: start the broker once"));
        };
        let (store, projected) = stopped::open_store(settings, &inspection, log_id, opening).await?;
        Ok(Self { inspection, store, letters: stopped::letters(settings)?, projected, _lock: lock })
    }

    /// The first sequence of the log; the next one if it is empty.
    fn first(&self) -> Sequence {
        self.inspection.segments().first().map_or_else(|| self.inspection.last().next(), |segment| segment.first)
    }
}
