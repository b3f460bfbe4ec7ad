//! What the driver's errors mean for walcast.
//!
//! Everything that may pass is `Unavailable`. Two things the protocol does not tell apart, and the server's words must: a row
//! that is too large comes as a failed write, or as an error of the server itself.

use std::fmt;

use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError, MetadataError,
    NewSessionError, PrepareError, RequestAttemptError, UseKeyspaceError,
};

use super::KIND;
use crate::projector::StoreError;

/// What Cassandra, and ScyllaDB, say of a row that does not fit into their commit log or into a request.
const TOO_LARGE: [&str; 4] =
    ["oversized mutation", "too large for the maximum size", "MutationExceededMaxSize", "Request is too big"];

/// What went wrong, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It may pass: not reached, too slow, not enough nodes, overloaded.
    Passing(String),
    /// The user may not do this, or is not let in.
    Denied(String),
    /// The statement, or what is bound to it, is not valid for the tables as they are.
    Invalid(String),
    /// The row is larger than the server takes.
    TooLarge(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Passing(said) | Self::Denied(said) | Self::Invalid(said) | Self::TooLarge(said)) = self;
        formatter.write_str(said)
    }
}

/// A store that may answer later.
pub(super) fn unavailable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable { store: KIND, reason: reason.into() }
}

/// A store whose content cannot be right.
pub(super) fn inconsistent(reason: impl Into<String>) -> StoreError {
    StoreError::Inconsistent { store: KIND, reason: reason.into() }
}

/// What any failed request means where nobody can act on the kind of failure.
pub(super) fn passing(error: &ExecutionError) -> StoreError {
    unavailable(fault(error).to_string())
}

/// What a failed request means.
pub(super) fn fault(error: &ExecutionError) -> Fault {
    match error {
        ExecutionError::LastAttemptError(error)
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt: error }) => of_attempt(error),
        ExecutionError::PrepareError(PrepareError::ConnectionPoolError(error))
        | ExecutionError::ConnectionPoolError(error) => of_pool(error),
        ExecutionError::BadQuery(error) => Fault::Invalid(error.to_string()),
        other => Fault::Passing(one_line(&other.to_string())),
    }
}

/// What a failure to prepare a statement means.
pub(super) fn of_prepare(error: PrepareError) -> Fault {
    fault(&ExecutionError::PrepareError(error))
}

/// What a failure to make first contact means.
pub(super) fn of_session(error: &NewSessionError) -> Fault {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(error)) => of_pool(error),
        NewSessionError::UseKeyspaceError(UseKeyspaceError::RequestError(error)) => of_attempt(error),
        NewSessionError::IllegalConfig(said) => Fault::Denied(one_line(said)),
        other => Fault::Passing(one_line(&other.to_string())),
    }
}

fn of_attempt(error: &RequestAttemptError) -> Fault {
    let RequestAttemptError::DbError(error, said) = error else {
        return match error {
            RequestAttemptError::SerializationError(_)
            | RequestAttemptError::CqlRequestSerialization(_)
            | RequestAttemptError::CqlResultParseError(_)
            | RequestAttemptError::RepreparedIdChanged { .. } => Fault::Invalid(one_line(&error.to_string())),
            other => Fault::Passing(one_line(&other.to_string())),
        };
    };
    let said = one_line(said);
    if TOO_LARGE.iter().any(|words| said.contains(words)) {
        return Fault::TooLarge(said);
    }
    match error {
        DbError::AuthenticationError | DbError::Unauthorized => Fault::Denied(said),
        DbError::SyntaxError | DbError::Invalid | DbError::ConfigError => Fault::Invalid(said),
        other => Fault::Passing(format!("{} ({said})", one_line(&other.to_string()))),
    }
}

fn of_pool(error: &ConnectionPoolError) -> Fault {
    let ConnectionPoolError::Broken { last_connection_error } = error else {
        return Fault::Passing(one_line(&error.to_string()));
    };
    match last_connection_error {
        ConnectionError::ConnectionSetupRequestError(request) => match request.get_error() {
            ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, said) => {
                Fault::Denied(one_line(said))
            }
            ConnectionSetupRequestErrorKind::MissingAuthentication => {
                Fault::Denied("it asks for a user and a password, and none is set".to_owned())
            }
            other => Fault::Passing(one_line(&other.to_string())),
        },
        // What rustls says of a certificate comes as an invalid stream.
        ConnectionError::IoError(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Fault::Denied(format!("TLS: {}", one_line(&error.to_string())))
        }
        other => Fault::Passing(format!("cannot connect: {}", one_line(&other.to_string()))),
    }
}

/// Reasons stand in one log line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(error: DbError, said: &str) -> Fault {
        fault(&ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, said.to_owned())))
    }

    #[test]
    fn answers_are_told_apart() {
        assert!(matches!(answered(DbError::Overloaded, "busy"), Fault::Passing(said) if said.contains("busy")));
        assert_eq!(answered(DbError::Unauthorized, "no\n way"), Fault::Denied("no way".to_owned()));
        assert_eq!(answered(DbError::Invalid, "no column"), Fault::Invalid("no column".to_owned()));
        let oversized = "Encountered an oversized mutation (5/4) for keyspace: w";
        assert_eq!(answered(DbError::ServerError, oversized), Fault::TooLarge(oversized.to_owned()));
        assert!(matches!(answered(DbError::ServerError, "a null pointer"), Fault::Passing(_)));
        let timeout = ExecutionError::RequestTimeout(std::time::Duration::from_secs(5));
        assert!(matches!(fault(&timeout), Fault::Passing(_)));
    }
}
