//! The load client: one program for all systems that speak gRPC.

#[allow(dead_code, reason = "not every program times deliveries")]
pub mod audience;
#[allow(dead_code, reason = "not every program has all kinds of calls")]
pub mod calls;
#[allow(dead_code, reason = "not every program has all sizes")]
pub mod connect;
#[allow(dead_code, reason = "not every program times deliveries")]
pub mod fan_out;
#[allow(dead_code, reason = "not every program has open loops")]
pub mod open_loop;
#[allow(dead_code, reason = "not every program times deliveries")]
pub mod stamp;
#[allow(dead_code, reason = "not every program makes subjects first")]
pub mod subjects;

use std::time::Duration;

/// Goes before each measurement: connections, caches and the servers' memory are warm by then.
pub const WARM_UP: Duration = Duration::from_millis(500);

/// How long, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Measured time of a load, after the warm-up.
    pub measured: Duration,
    /// A tenth of subjects, subscribers and messages: shows that everything works.
    pub quick: bool,
}

impl Plan {
    /// What the run goes through: all, or a tenth.
    pub fn scaled(&self, all: u32) -> u32 {
        if self.quick { all / 10 } else { all }
    }
}
