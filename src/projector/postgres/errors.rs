//! What becomes of the errors of Postgres and of the way to it.

use std::error::Error;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use super::KIND;
use crate::projector::{ApplyError, StoreError};

/// It may work again later.
pub(super) fn unavailable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable { store: KIND, reason: reason.into() }
}

pub(super) fn inconsistent(reason: impl Into<String>) -> StoreError {
    StoreError::Inconsistent { store: KIND, reason: reason.into() }
}

pub(super) fn fenced(reason: impl Into<String>) -> StoreError {
    StoreError::Fenced { store: KIND, reason: reason.into() }
}

/// No answer within the bound.
pub(super) fn late(what: &str, after: Duration) -> StoreError {
    unavailable(format!("{what} took longer than {}", humantime::format_duration(after)))
}

/// Once the broker runs, somebody may be mending what keeps it out.
pub(super) fn at_run_time(error: StoreError) -> StoreError {
    match error {
        StoreError::Refused { store, reason } => StoreError::Unavailable { store, reason },
        other => other,
    }
}

/// What an error means that is not about a row. Refused, where somebody has to act.
pub(super) fn store(error: &tokio_postgres::Error) -> StoreError {
    let reason = describe(error);
    match error.as_db_error() {
        Some(said) if keeps_out(said.code()) => StoreError::Refused { store: KIND, reason },
        Some(_) => unavailable(reason),
        None if of_tls_or_settings(error) => StoreError::Refused { store: KIND, reason },
        None => unavailable(reason),
    }
}

/// What an error of a batch means.
pub(super) fn apply(error: &tokio_postgres::Error) -> ApplyError {
    match error.as_db_error() {
        // About its partition, which was dropped at this moment.
        Some(_) if is_without_partition(error) => ApplyError::Store(unavailable(describe(error))),
        Some(said) if is_about_a_row(said) => ApplyError::Rejected { reason: describe(error) },
        _ => ApplyError::Store(at_run_time(store(error))),
    }
}

/// Whether the server says that a key is there already.
pub(super) fn is_duplicate(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// Whether a row had no partition to go to: one that was there has been dropped by somebody else.
pub(super) fn is_without_partition(error: &tokio_postgres::Error) -> bool {
    let said = error.as_db_error();
    // The code of a check that fails, but there is no constraint that it could name.
    said.is_some_and(|said| *said.code() == SqlState::CHECK_VIOLATION && said.constraint().is_none())
}

/// Whether a lock was not to be had within its bound.
pub(super) fn is_locked(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Wrong name or password, no such database, no right: waiting does not mend it.
fn keeps_out(code: &SqlState) -> bool {
    let codes = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    codes.contains(code)
}

/// Class 22 is data that a type does not take, class 23 a constraint, 54 a limit of the server's (a value too large for
/// somebody's index), P0001 a trigger that says no.
fn is_about_a_row(said: &DbError) -> bool {
    let code = said.code().code();
    code.starts_with("22") || code.starts_with("23") || code.starts_with("54") || code == "P0001" || code == "44000"
}

/// The driver has no public kinds. A password that is wanted and not there, or a mode of TLS that the server does not have,
/// comes without a cause of the operating system's; a certificate that is not trusted comes from rustls.
fn of_tls_or_settings(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    if ["authentication error", "invalid configuration", "invalid connection string"].contains(&text.as_str()) {
        return true;
    }
    if text != "error performing TLS handshake" {
        return false;
    }
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(found) = found.downcast_ref::<std::io::Error>() {
            // A connection that broke in the middle can be tried again.
            return found.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        }
        cause = found.source();
    }
    // "server does not support TLS"
    true
}

/// The error in one sentence, of about 1 KiB at most: for the server's the message with its code, detail, and what it names.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    let Some(said) = error.as_db_error() else {
        return shortened(&chain(error), MESSAGE_CHARS_MAX);
    };
    // A function or a trigger of somebody's may say anything.
    let message = shortened(said.message(), MESSAGE_CHARS_MAX);
    let mut text = format!("the server says: {message} (SQLSTATE {})", said.code().code());
    for (name, value) in [("table", said.table()), ("column", said.column()), ("constraint", said.constraint())] {
        if let Some(value) = value {
            text.push_str(&format!(", {name} {value}"));
        }
    }
    // "Failing row contains (...)" would put bodies into logs; the constraint and the column are named above.
    if let Some(detail) = said.detail().filter(|_| !quotes_a_row(said.code())) {
        text.push_str(&format!(": {}", shortened(detail, DETAIL_CHARS_MAX)));
    }
    if let Some(hint) = hint(said.code()) {
        text.push_str("; ");
        text.push_str(hint);
    }
    text
}

/// Whether the detail is the row, bodies included.
fn quotes_a_row(code: &SqlState) -> bool {
    [SqlState::CHECK_VIOLATION, SqlState::NOT_NULL_VIOLATION].contains(code)
}

/// What an operator would look at.
fn hint(code: &SqlState) -> Option<&'static str> {
    Some(match code.code() {
        "25006" => "it only takes reads, as a standby does: point store.postgres.url at the one that takes writes",
        "3F000" | "42P01" | "42703" | "42804" => {
            "somebody has altered the schema walcast: undo that, or move the schema away and start again"
        }
        "42501" => "the role needs its own schema walcast, or CREATE on the database (docs/stores-postgres.md)",
        "53100" => "make room on the server's disk",
        "53300" => "raise max_connections of the server, or lower store.postgres.readers",
        _ => return None,
    })
}

/// Causes from the outermost inwards, each once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        let said = found.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = found.source();
    }
    text
}

/// Longer than any message of the server's own.
const MESSAGE_CHARS_MAX: usize = 500;

/// A detail may quote values, such as keys.
const DETAIL_CHARS_MAX: usize = 300;

fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_bounded_and_keep_characters_whole() {
        assert_eq!(shortened("short", DETAIL_CHARS_MAX), "short");
        let long = shortened(&"🦀".repeat(1_000), DETAIL_CHARS_MAX);
        assert_eq!(long.chars().count(), DETAIL_CHARS_MAX + 3);
    }

    #[test]
    fn what_keeps_out_at_the_start_is_waited_for_later() {
        let refused = StoreError::Refused { store: KIND, reason: "no".into() };
        assert!(!refused.retryable());
        assert!(at_run_time(refused).retryable());
        assert!(!at_run_time(fenced("other")).retryable());
    }
}
