//! The command line as a whole.

use clap::{Parser, Subcommand};

use super::arguments::{FetchArguments, PublishArguments, StatusArguments, SubscribeArguments};
use super::bench::BenchArguments;
use super::cluster_command::ClusterArguments;
use super::config_command::ConfigArguments;
use super::log_command::LogArguments;
use super::serve::ServeArguments;
use super::store_command::StoreArguments;

/// A durable-ack gRPC broker: a publish is acknowledged once it is on the local disk.
#[derive(Debug, Parser)]
#[command(name = "walcast", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker
    Serve(ServeArguments),
    /// Publish a message, or one a line, and print its id
    Publish(PublishArguments),
    /// Print the messages of a subject as they are published
    Subscribe(SubscribeArguments),
    /// Print one message by its id
    Fetch(FetchArguments),
    /// Put load on a broker and measure it
    Bench(BenchArguments),
    /// Show a running broker on one screen
    Status(StatusArguments),
    /// Look at the nodes that act as one broker
    Cluster(ClusterArguments),
    /// Look at the log of a stopped or running broker
    Log(LogArguments),
    /// Look at the history store, check it against the log, or fill it from there
    Store(StoreArguments),
    /// Show or check the effective configuration
    Config(ConfigArguments),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::error::ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command).map_err(|error| error.kind())
    }

    #[test]
    fn publish_needs_one_source_of_its_body() {
        assert!(matches!(parse("walcast publish s b"), Ok(Command::Publish(_))));
        assert!(matches!(parse("walcast publish s --file f --lines"), Ok(Command::Publish(_))));
        assert_eq!(parse("walcast publish s").err(), Some(clap::error::ErrorKind::MissingRequiredArgument));
        assert_eq!(parse("walcast publish s b --file f").err(), Some(clap::error::ErrorKind::ArgumentConflict));
    }

    #[test]
    fn an_id_may_be_wrong_but_reaches_the_broker() {
        assert!(matches!(parse("walcast fetch s -1"), Ok(Command::Fetch(arguments)) if arguments.id == -1));
        let after = |line| {
            parse(line).map(|command| matches!(command, Command::Subscribe(SubscribeArguments { after: Some(-1), .. })))
        };
        assert_eq!(after("walcast subscribe s --after -1").ok(), Some(true));
        assert_eq!(parse("walcast subscribe s --count 0").err(), Some(clap::error::ErrorKind::ValueValidation));
    }
}
