//! Log lines: structured, to standard error, so that standard output stays for data.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// [`Format::Text`] if standard error is a terminal, else [`Format::Json`].
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directives of the filter cannot be read.
    #[error("the log filter {filter} is not valid: {reason}")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This process logs already.
    #[error("logging is set up twice in this process")]
    AlreadySet,
}

/// What libraries say that we say ourselves, once and in our words: the driver of Cassandra warns of every attempt to connect.
/// Part of every filter, and first in it, so that a filter that names them has its way.
const QUIET: &str = "scylla=off";

/// Sets up logging for the process, once. `filter` has the form of `RUST_LOG`, such as `info,walcast::wal=debug`.
///
/// # Errors
/// [`LoggingError`] if the filter is not valid or the process logs already.
pub fn init(format: Format, filter: &str) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|reason| LoggingError::Filter { filter: filter.to_owned(), reason: reason.to_string() })?;
    let terminal = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter).with_ansi(terminal);
    let set = match format {
        Format::Text => lines.finish().try_init(),
        Format::Auto if terminal => lines.finish().try_init(),
        Format::Auto | Format::Json => lines.json().flatten_event(true).with_current_span(false).finish().try_init(),
    };
    set.map_err(|_| LoggingError::AlreadySet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_filter_is_named() {
        let refused = init(Format::Auto, "walcast=loud").err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| text.starts_with("the log filter walcast=loud is not valid")));
    }
}
