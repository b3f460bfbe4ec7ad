//! What the shared servers want of their surroundings.

use std::time::Duration;

#[allow(dead_code, clippy::panic, reason = "shared with the tests")]
#[path = "../../tests/it/support/http.rs"]
pub mod http;
#[path = "../../tests/it/support/programs.rs"]
pub mod programs;

/// Nothing that is waited for takes this long.
pub const PATIENCE: Duration = Duration::from_secs(120);
