//! What becomes of fjall's errors.

use std::fmt;

use super::KIND;
use crate::projector::StoreError;

/// An error of fjall's. It poisons the database when a write fails, and a read that fails is a broken file
/// or disk: in both cases only a new start, or a rebuild from the log, helps.
pub(super) fn failed(error: &dyn fmt::Display) -> StoreError {
    StoreError::Failed { store: KIND, reason: error.to_string() }
}

pub(super) fn inconsistent(reason: &str) -> StoreError {
    StoreError::Inconsistent { store: KIND, reason: reason.to_owned() }
}
