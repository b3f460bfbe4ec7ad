//! `walcast serve`.

use clap::Args;

use super::Failure;
use super::config_command::SettingsArguments;
use crate::config::Effective;

/// Runs a broker until it is stopped. Passed in by `main`.
pub type Serve = fn(Effective) -> Result<(), Failure>;

#[derive(Debug, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    pub settings: SettingsArguments,
}

/// Loads the configuration and serves.
pub fn run(arguments: &ServeArguments, serve: Serve) -> Result<(), Failure> {
    serve(arguments.settings.load()?)
}
