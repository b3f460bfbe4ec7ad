//! What the shared server wants of its surroundings.

use std::time::Duration;

#[path = "../../tests/it/support/programs.rs"]
pub mod programs;

/// Nothing that is waited for takes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);
