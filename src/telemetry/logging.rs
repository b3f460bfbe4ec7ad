//! Log lines: structured, to standard error, so that standard output stays for data.

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;

use prometheus::IntCounter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

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
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(terminal);
    let text = format == Format::Text || (format == Format::Auto && terminal);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match text {
        true => Box::new(lines.and_then(LineCounter).with_filter(filter)),
        false => Box::new(
            lines.json().flatten_event(true).with_current_span(false).and_then(LineCounter).with_filter(filter),
        ),
    };
    tracing_subscriber::registry().with(lines).try_init().map_err(|_| LoggingError::AlreadySet)
}

/// Where lines of level WARN and ERROR are counted. A static, as the lines of a process are.
static COUNTERS: OnceLock<[IntCounter; 2]> = OnceLock::new();

/// Counts the lines of level WARN and ERROR that are written from now on. The first node of a process has them.
pub fn count_lines(warnings: IntCounter, errors: IntCounter) {
    COUNTERS.get_or_init(|| [warnings, errors]);
}

/// Counts lines beside whoever writes them, behind the same filter.
struct LineCounter;

impl<S: Subscriber> Layer<S> for LineCounter {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let Some([warnings, errors]) = COUNTERS.get() else { return };
        match *event.metadata().level() {
            Level::ERROR => errors.inc(),
            Level::WARN => warnings.inc(),
            _ => {}
        }
    }
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
