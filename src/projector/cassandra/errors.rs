//! What the driver's errors mean for walcast.
//!
//! A message becomes a dead letter only for what is plainly its own fault. Whatever may concern every row waits instead: a
//! projection that stands still is seen and mended, a history in dead letters is not.
//!
//! | error of a request | is | a row that is written | a start |
//! |---|---|---|---|
//! | any of the server's but the next four, with the words of [`is_too_large`] | [`Fault::TooLarge`] | is rejected | waits |
//! | `Unavailable`, `ReadTimeout`, `WriteTimeout`, `Overloaded` | [`Fault::Passing`] | waits | waits |
//! | `AuthenticationError`, `Unauthorized` | [`Fault::Denied`] | waits | is refused |
//! | `SyntaxError`, `Invalid`, `ConfigError`, `AlreadyExists`, `FunctionFailure`, `Unprepared` | [`Fault::Invalid`] | waits; the tables are looked at for the reason | waits |
//! | `IsBootstrapping`, `TruncateError`, `ReadFailure`, `WriteFailure`, `ServerError`, `ProtocolError`, `RateLimitReached`, others | [`Fault::Passing`] | waits | waits |
//! | of the driver: a subject too long for a key | [`Fault::TooLarge`] | is rejected | |
//! | of the driver: values or an answer that do not fit the statement, a statement that is another when it is prepared again | [`Fault::Invalid`] | waits; the tables are looked at | waits |
//! | of the driver: no connection, a lost one, no answer in time, no stream, an answer that is none | [`Fault::Passing`] | waits | waits |
//!
//! So `Invalid` waits: it is also what a server says to a consistency that a guardrail forbids, to a full disk, to a write
//! time that its own clock finds too far ahead, and to tables that somebody altered.

use std::fmt;

use scylla::errors::{
    BadQuery, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError, UseKeyspaceError,
};

use super::KIND;
use crate::projector::StoreError;

/// What servers say of a row that does not fit into their commit log, into a request, or under a guardrail for values, in this
/// order: Cassandra since 4.1, Cassandra 4.0, any Cassandra, Cassandra since 4.1.
const TOO_LARGE: [&str; 4] = [
    "Rejected an oversized mutation (",
    "Encountered an oversized mutation (",
    "Request is too big: length ",
    "Guardrail column_value_size violated",
];

/// Longest reason, in bytes: some lines. What a server says may quote a whole row, and reasons go into log lines, into `/status`
/// and into dead letters.
const REASON_BYTES_MAX: usize = 1_024;

/// What stands at the end of a reason that was cut.
const CUT: &str = " ...";

/// What went wrong, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It may pass: not reached, too slow, not enough nodes, overloaded.
    Passing(String),
    /// The user may not do this, or is not let in.
    Denied(String),
    /// The statement, or what is bound to it, is not valid for the tables or the settings as they are.
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
    StoreError::Unavailable { store: KIND, reason: bounded(reason.into()) }
}

/// A store whose content cannot be right.
pub(super) fn inconsistent(reason: impl Into<String>) -> StoreError {
    StoreError::Inconsistent { store: KIND, reason: bounded(reason.into()) }
}

/// A store that does not let walcast in.
pub(super) fn refused(reason: impl Into<String>) -> StoreError {
    StoreError::Refused { store: KIND, reason: bounded(reason.into()) }
}

/// Another process has the store.
pub(super) fn fenced(reason: impl Into<String>) -> StoreError {
    StoreError::Fenced { store: KIND, reason: bounded(reason.into()) }
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
        ExecutionError::BadQuery(BadQuery::ValuesTooLongForKey(..)) => Fault::TooLarge(one_line(&error.to_string())),
        ExecutionError::BadQuery(error) => Fault::Invalid(one_line(&error.to_string())),
        other => Fault::Passing(one_line(&other.to_string())),
    }
}

/// Whether it was more than the cluster does in time, so that less at once may succeed.
pub(super) fn is_too_much(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::RequestTimeout(_) => true,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => {
            matches!(error, DbError::WriteTimeout { .. } | DbError::Overloaded | DbError::RateLimitReached { .. })
        }
        ExecutionError::LastAttemptError(RequestAttemptError::UnableToAllocStreamId) => true,
        _ => false,
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
    match error {
        RequestAttemptError::DbError(error, said) => of_server(error, one_line(said)),
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_)
        | RequestAttemptError::CqlResultParseError(_)
        | RequestAttemptError::RepreparedIdChanged { .. }
        | RequestAttemptError::RepreparedIdMissingInBatch => Fault::Invalid(one_line(&error.to_string())),
        other => Fault::Passing(one_line(&other.to_string())),
    }
}

fn of_server(error: &DbError, said: String) -> Fault {
    match error {
        DbError::AuthenticationError | DbError::Unauthorized => Fault::Denied(said),
        // It was not the row that kept the server from it.
        DbError::Unavailable { .. }
        | DbError::ReadTimeout { .. }
        | DbError::WriteTimeout { .. }
        | DbError::Overloaded => passing_words(error, &said),
        _ if is_too_large(&said) => Fault::TooLarge(said),
        DbError::SyntaxError
        | DbError::Invalid
        | DbError::ConfigError
        | DbError::AlreadyExists { .. }
        | DbError::FunctionFailure { .. }
        | DbError::Unprepared { .. } => Fault::Invalid(said),
        other => passing_words(other, &said),
    }
}

fn passing_words(error: &DbError, said: &str) -> Fault {
    Fault::Passing(bounded(format!("{} ({said})", one_line(&error.to_string()))))
}

/// Whether the server speaks of a row that is larger than it takes. The protocol has no code for it, so its words must tell,
/// and only its first ones: what follows may be quoted from a row.
fn is_too_large(said: &str) -> bool {
    let mut said = said;
    // The names of Java's exceptions, each in front of what it wraps.
    while let Some((name, rest)) = said.split_once(": ") {
        if !name.ends_with("Exception") || name.contains(' ') {
            break;
        }
        said = rest;
    }
    let of_scylladb = said.starts_with("Mutation of ") && said.contains(" is too large for the maximum size of ");
    of_scylladb || TOO_LARGE.iter().any(|words| said.starts_with(words))
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

/// Reasons stand in one log line, and are not longer than [`REASON_BYTES_MAX`].
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > REASON_BYTES_MAX {
            break;
        }
    }
    bounded(line)
}

/// Cuts between two characters what is longer than [`REASON_BYTES_MAX`].
fn bounded(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX - CUT.len()));
        reason.push_str(CUT);
    }
    reason
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
        assert!(matches!(answered(DbError::ServerError, "a null pointer"), Fault::Passing(_)));
        let timeout = ExecutionError::RequestTimeout(std::time::Duration::from_secs(5));
        assert!(matches!(fault(&timeout), Fault::Passing(_)));
    }

    #[test]
    fn what_less_at_once_may_help_against_is_told() {
        let timeout = ExecutionError::RequestTimeout(std::time::Duration::from_secs(5));
        assert!(is_too_much(&timeout));
        let of_server =
            |error| is_too_much(&ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, String::new())));
        assert!(of_server(DbError::Overloaded));
        assert!(!of_server(DbError::Invalid) && !of_server(DbError::ServerError));
        assert!(!is_too_much(&ExecutionError::EmptyPlan));
    }

    #[test]
    fn a_row_that_is_too_large_is_told_by_the_first_words() {
        for said in [
            "Rejected an oversized mutation (5/4) for keyspace: w. Top keys are: t.k",
            "Encountered an oversized mutation (5/4) for keyspace: w",
            "java.lang.RuntimeException: org.apache.cassandra.db.MutationExceededMaxSizeException: Rejected an oversized \
             mutation (5/4) for keyspace: w",
            "Request is too big: length 17 exceeds maximum allowed length 16.",
            "Guardrail column_value_size violated: Value of column 'body' has size 2MiB",
            "Mutation of 17 bytes is too large for the maximum size of 16",
        ] {
            for error in [DbError::ServerError, DbError::Invalid, DbError::ProtocolError, DbError::Other(7)] {
                assert_eq!(answered(error.clone(), said), Fault::TooLarge(said.to_owned()), "{error:?}: {said}");
            }
            assert!(matches!(answered(DbError::Overloaded, said), Fault::Passing(_)), "{said}");
        }
        // A subject can have any words, and servers quote keys.
        for said in [
            "cannot write key Request is too big: length 17",
            "java.io.IOException: cannot write key k, Rejected an oversized mutation (5/4)",
            "Mutation of k failed",
        ] {
            assert!(matches!(answered(DbError::ServerError, said), Fault::Passing(_)), "{said}");
            assert!(matches!(answered(DbError::Invalid, said), Fault::Invalid(_)), "{said}");
        }
    }

    #[test]
    fn a_reason_is_cut_between_two_characters() {
        let fits = "x".repeat(REASON_BYTES_MAX);
        assert_eq!(answered(DbError::Invalid, &fits), Fault::Invalid(fits));
        for shift in 0..4 {
            let said = "x".repeat(shift) + &"🦀".repeat(REASON_BYTES_MAX);
            let many_words = "🦀 ".repeat(REASON_BYTES_MAX);
            for said in [said, many_words] {
                let Fault::Invalid(reason) = answered(DbError::Invalid, &said) else { unreachable!() };
                assert!((REASON_BYTES_MAX - 4..=REASON_BYTES_MAX).contains(&reason.len()), "{}", reason.len());
                assert!(said.starts_with(reason.strip_suffix(CUT).expect("cut")), "{reason}");
                // Where a reason is put together from several.
                for error in [unavailable(&said), inconsistent(&said), refused(&said), fenced(&said)] {
                    assert!(error.to_string().len() <= REASON_BYTES_MAX + 100, "{error}");
                }
            }
        }
        let said = "x".repeat(REASON_BYTES_MAX * 2);
        let Fault::Passing(reason) = answered(DbError::Overloaded, &said) else { unreachable!() };
        assert!(reason.len() <= REASON_BYTES_MAX, "{}", reason.len());
        let pool = ConnectionPoolError::Broken {
            last_connection_error: ConnectionError::IoError(std::sync::Arc::new(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                said,
            ))),
        };
        assert!(of_pool(&pool).to_string().len() <= REASON_BYTES_MAX + 10);
    }

    /// The rows of the table above.
    #[test]
    fn nothing_else_is_the_fault_of_a_row() {
        let (consistency, text) = (scylla::statement::Consistency::LocalQuorum, || "w".to_owned());
        let (received, required, alive, numfailures) = (0, 2, 1, 1);
        let (write_type, data_present) = (scylla::errors::WriteType::Simple, false);
        let op_type = scylla::errors::OperationType::Write;
        let passing = [
            DbError::Unavailable { consistency, required, alive },
            DbError::Overloaded,
            DbError::IsBootstrapping,
            DbError::TruncateError,
            DbError::ReadTimeout { consistency, received, required, data_present },
            DbError::WriteTimeout { consistency, received, required, write_type: write_type.clone() },
            DbError::ReadFailure { consistency, received, required, numfailures, data_present },
            DbError::WriteFailure { consistency, received, required, numfailures, write_type },
            DbError::ServerError,
            DbError::ProtocolError,
            DbError::RateLimitReached { op_type, rejected_by_coordinator: true },
            DbError::Other(-1),
        ];
        for error in passing {
            assert!(matches!(answered(error.clone(), "x"), Fault::Passing(_)), "{error:?}");
        }
        let invalid = [
            DbError::SyntaxError,
            DbError::Invalid,
            DbError::ConfigError,
            DbError::AlreadyExists { keyspace: text(), table: text() },
            DbError::FunctionFailure { keyspace: text(), function: text(), arg_types: vec![text()] },
            DbError::Unprepared { statement_id: bytes::Bytes::new() },
        ];
        for error in invalid {
            assert!(matches!(answered(error.clone(), "x"), Fault::Invalid(_)), "{error:?}");
        }
        let of_driver = [
            RequestAttemptError::UnableToAllocStreamId,
            RequestAttemptError::NonfinishedPagingState,
            RequestAttemptError::UnexpectedResponse(scylla::errors::CqlResponseKind::Ready),
        ];
        for error in of_driver {
            let said = error.to_string();
            assert!(matches!(fault(&ExecutionError::LastAttemptError(error)), Fault::Passing(_)), "{said}");
        }
        let reprepared = RequestAttemptError::RepreparedIdMissingInBatch;
        assert!(matches!(fault(&ExecutionError::LastAttemptError(reprepared)), Fault::Invalid(_)));
        assert!(matches!(fault(&ExecutionError::EmptyPlan), Fault::Passing(_)));
        assert!(matches!(fault(&BadQuery::PartitionKeyExtraction.into()), Fault::Invalid(_)));
        assert!(matches!(fault(&BadQuery::ValuesTooLongForKey(70_000, 65_535).into()), Fault::TooLarge(_)));
    }
}
