//! What the shared server wants of its surroundings.

use std::time::Duration;

/// Nothing that is waited for takes this long.
pub const PATIENCE: Duration = Duration::from_secs(60);
