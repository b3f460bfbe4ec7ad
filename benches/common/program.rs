//! What the programs that compare servers have in common: how they begin and end, and the server that does nothing, which each of
//! them is, too, so that every system is a process of its own whose CPU time and memory can be read.

use std::process::ExitCode;

use clap::Subcommand;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::noop;

/// Why a run ended early, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Body of every message, in bytes, where nothing else is said.
pub const BODY_BYTES: usize = 256;

/// Another thing to be than a comparison.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Role {
    /// Runs the server that does nothing, until it is killed.
    #[command(hide = true)]
    Noop {
        /// What is delivered has the published body in it.
        #[arg(long)]
        stamped: bool,
    },
}

/// Runs what was asked for; says on stderr why it failed.
pub fn run(name: &str, role: Option<Role>, compare: impl Future<Output = Result<ExitCode, Failure>>) -> ExitCode {
    let outcome = tokio::runtime::Runtime::new().map_err(Failure::from).and_then(|runtime| match role {
        Some(Role::Noop { stamped }) => runtime.block_on(noop::serve(stamped)).map(|()| ExitCode::SUCCESS),
        None => {
            raise_open_files();
            runtime.block_on(compare)
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        ExitCode::FAILURE
    })
}

/// A thousand connections are more than many systems allow at first; where they allow no more, the load says so.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}
