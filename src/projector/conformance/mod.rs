//! What every [`Store`] must pass, whatever is behind it.
//!
//! A test hands a [`Harness`] to [`with_history`] or [`without_history`]; each check gets an empty
//! [`Place`] of its own, in which it opens the store as often as it likes. Nothing here panics: a check
//! that fails says what it saw.
//!
//! Always compiled, so that the tests of a store in another crate or against a real server use it too.

mod checks;
mod samples;

pub use samples::batch;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::Store;

/// Makes empty places for stores: directories, schemas, keyspaces.
#[async_trait]
pub trait Harness: Send + Sync {
    /// An empty place that no other check uses.
    ///
    /// # Errors
    /// Why there is none.
    async fn create(&self) -> Result<Box<dyn Place>, String>;
}

/// Where one store lives; dropped after the check.
#[async_trait]
pub trait Place: Send + Sync {
    /// Opens the store that lives here, for the log `log_id`. The check has dropped the one it opened before.
    ///
    /// # Errors
    /// Why it does not open.
    async fn open(&self, log_id: u128) -> Result<Box<dyn Store>, String>;
}

/// What a check found wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {reason}")]
pub struct Failure {
    /// The name of the check.
    pub check: &'static str,
    /// What it saw.
    pub reason: String,
}

type Check = (&'static str, for<'a> fn(&'a dyn Place) -> BoxFuture<'a, Result<(), String>>);

/// Every check, for a store with [`Store::keeps_history`].
///
/// # Errors
/// The first failure.
pub async fn with_history(harness: &dyn Harness) -> Result<(), Failure> {
    first(run(harness, checks::WITH_HISTORY).await)
}

/// The checks that a store without history passes.
///
/// # Errors
/// The first failure.
pub async fn without_history(harness: &dyn Harness) -> Result<(), Failure> {
    first(run(harness, checks::WITHOUT_HISTORY).await)
}

/// Runs every check of [`with_history`] and returns all failures.
pub async fn failures(harness: &dyn Harness) -> Vec<Failure> {
    run(harness, checks::WITH_HISTORY).await
}

async fn run(harness: &dyn Harness, checks: &[Check]) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (check, run) in checks {
        let outcome = match harness.create().await {
            Ok(place) => run(place.as_ref()).await,
            Err(reason) => Err(format!("no place for the store: {reason}")),
        };
        if let Err(reason) = outcome {
            failures.push(Failure { check, reason });
        }
    }
    failures
}

fn first(failures: Vec<Failure>) -> Result<(), Failure> {
    failures.into_iter().next().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
