//! How a command fails: an exit code, and one sentence for the person who typed it.

use std::io;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::config::ConfigError;
use crate::telemetry::metrics::code_name;

/// The exit codes; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The reader of standard output has gone, as with `| head`: nothing is wrong.
    Quiet,
    /// It was tried and failed.
    Failed,
    /// Wrong usage or configuration.
    Usage,
    /// A damaged log.
    Damaged,
    /// The data directory is in use.
    InUse,
    /// A remote part is unavailable.
    Unavailable,
    /// A signal ended it in order; it can be gone on with.
    Interrupted,
}

impl Exit {
    /// The number that the process ends with.
    pub const fn code(self) -> u8 {
        match self {
            Self::Quiet => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Damaged => 3,
            Self::InUse => 4,
            Self::Unavailable => 5,
            // As a shell says it of SIGINT.
            Self::Interrupted => 130,
        }
    }
}

/// Why a command ends without success.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    message: Option<String>,
}

impl Failure {
    /// A failure with one sentence: what, why, and the way out.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: Some(message.into()) }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The sentence; none where there is nothing to say.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// The same failure with more to its sentence.
    pub(super) fn with_note(mut self, note: &str) -> Self {
        self.message.get_or_insert_default().push_str(note);
        self
    }

    /// Standard output or a file could not be written.
    pub(super) fn writing(place: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::Quiet, message: None };
        }
        Self::new(Exit::Failed, format!("cannot write to {place}: {error}"))
    }

    /// The broker answered with a status. `what` begins the sentence, such as "publishing on orders".
    pub(super) fn status(what: &str, server: &str, status: &Status) -> Self {
        // A status that the client made of a broken connection has the transport's error as its source.
        if std::error::Error::source(status).is_some() {
            let reason = innermost(status);
            return Self::new(Exit::Unavailable, format!("{what} failed: the connection to {server} broke: {reason}"));
        }
        let exit = if status.code() == Code::Unavailable { Exit::Unavailable } else { Exit::Failed };
        let text = format!("{what} failed: {} ({})", status.message(), code_name(status.code()));
        Self::new(exit, text + &why(status))
    }
}

/// What the details of a status say beyond its text: the contract has one text for all reasons of UNAVAILABLE.
fn why(status: &Status) -> String {
    let Some(info) = status.get_details_error_info() else { return String::new() };
    let Some(detail) = info.metadata.get("detail") else { return String::new() };
    let sent = match info.metadata.get("sent").map(String::as_str) {
        Some("no") => "; the owner never saw it",
        Some(_) => "; the owner may have done it all the same",
        None => "",
    };
    format!(": {detail} ({}){sent}", info.reason)
}

/// What lies at the bottom of an error: the wrappers say less ("transport error").
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let failure = Failure::writing("standard output", &io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit().code(), failure.message()), (0, None));
        let failure = Failure::writing("standard output", &io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failure.exit().code(), 1);
    }

    #[test]
    fn statuses_become_sentences_with_their_code() {
        let status = Status::invalid_argument("subject is empty");
        let failure = Failure::status("publishing", "http://x", &status);
        assert_eq!(failure.message(), Some("publishing failed: subject is empty (INVALID_ARGUMENT)"));
        assert_eq!(failure.exit().code(), 1);
        let failure = Failure::status("publishing", "http://x", &Status::unavailable("service is unavailable"));
        assert_eq!(failure.exit().code(), 5);
    }

    #[test]
    fn the_reason_of_an_outage_is_told() {
        let told = |sent: &str| {
            let metadata = [("detail", "node a is away"), ("sent", sent)];
            let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let details = ErrorDetails::with_error_info("OWNER_UNAVAILABLE", "walcast", metadata);
            let status = Status::with_error_details(Code::Unavailable, "service is unavailable", details);
            Failure::status("publishing", "http://x", &status).message().unwrap_or_default().to_owned()
        };
        let begin = "publishing failed: service is unavailable (UNAVAILABLE): node a is away (OWNER_UNAVAILABLE)";
        assert_eq!(told("no"), format!("{begin}; the owner never saw it"));
        assert_eq!(told("perhaps"), format!("{begin}; the owner may have done it all the same"));
    }

    #[test]
    fn a_wrong_configuration_is_wrong_usage() {
        let layers = crate::config::Layers { file: Some("/nowhere/walcast.toml".into()), ..Default::default() };
        let failure = Failure::from(crate::config::load(&layers).expect_err("no such file"));
        assert_eq!(failure.exit().code(), 2);
    }
}
