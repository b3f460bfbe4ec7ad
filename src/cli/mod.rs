//! The commands: what is typed, what is shown, and the exit code.
//!
//! Owns the command line, the clients (publish, subscribe, fetch, status), the load client (bench) and the
//! tools for settings and the log. Data goes to standard output, everything else to standard error.
//!
//! Must never: contain broker logic, or show an error in the form it has for programmers.

mod arguments;
mod bench;
mod client;
mod cluster_command;
mod cluster_move;
mod commands;
mod config_command;
mod failure;
mod fetch;
mod log_command;
mod message;
mod output;
mod publish;
mod serve;
mod signals;
mod status;
mod stopped;
mod store_command;
mod subscribe;
mod waiting;

use std::process::ExitCode;

use clap::Parser as _;

use commands::{Cli, Command};
pub use failure::{Exit, Failure};
use output::Output;
pub use serve::Serve;

/// Parses the command line, runs the command, and says how it went. `serve` runs the broker.
pub fn main(serve: Serve) -> ExitCode {
    // clap prints help and usage errors itself; its code for wrong usage is 2 as well.
    let cli = Cli::parse();
    match run(cli.command, serve, &mut Output::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                output::complain(message);
            }
            ExitCode::from(failure.exit().code())
        }
    }
}

fn run(command: Command, serve: Serve, output: &mut Output) -> Result<(), Failure> {
    let result = match command {
        Command::Serve(arguments) => return serve::run(&arguments, serve),
        Command::Publish(arguments) => client::block_on(publish::run(&arguments, output)),
        Command::Subscribe(arguments) => client::block_on(subscribe::run(&arguments, output)),
        Command::Fetch(arguments) => client::block_on(fetch::run(&arguments, output)),
        Command::Bench(arguments) => bench::run(&arguments, output),
        Command::Status(arguments) => status::run(&arguments, output),
        Command::Cluster(arguments) => cluster_command::run(&arguments, output),
        Command::Log(arguments) => log_command::run(&arguments, output),
        Command::Store(arguments) => store_command::run(&arguments, output),
        Command::Config(arguments) => config_command::run(&arguments, output),
    };
    // What was written before a failure is data too.
    let flushed = output.flush();
    result.and(flushed)
}

#[cfg(test)]
mod tests;
