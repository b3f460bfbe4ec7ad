//! Builders that let a test read as a sentence.
//!
//! A test fails on any WARN or ERROR line of its broker that it did not announce with `expect_log`.

mod broker;
mod client;
mod disk;
#[allow(dead_code, reason = "each suite uses some of it")]
pub mod frames;
pub mod http;
pub mod load;
pub mod logs;
pub mod nodes;
pub mod oracle;
pub mod programs;
pub mod publish_stream;
pub mod raw;

use std::process::{Command, Stdio};
use std::time::Duration;

pub use broker::{Broker, Setup, Stopped};
pub use client::{Client, Subscription, body_of, error_reason, random_bytes};
pub use disk::{Mounted, broker_on_a_small_disk};

/// Nothing that a test waits for takes this long, even on a loaded machine. Not a performance bound.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives something.
///
/// # Panics
/// When it gives nothing for [`PATIENCE`]; `what` says what was waited for.
pub async fn eventually<T, Attempt>(what: &str, mut condition: impl FnMut() -> Attempt) -> T
where
    Attempt: Future<Output = Option<T>>,
{
    let waiting = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Awaits `future`, which must not take for ever.
///
/// # Panics
/// After [`PATIENCE`]; `what` says what did not happen.
pub async fn within_patience<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("this did not happen: {what}"))
}

/// The number in an environment variable.
///
/// # Panics
/// When it holds something else.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// A command line of walcast that hears nothing of the settings of whoever runs the tests.
pub fn walcast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
    command.args(arguments).stdin(Stdio::null());
    without_settings(&mut command);
    command
}

/// Takes away the settings of whoever runs the tests.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WALCAST_")) {
        command.env_remove(name);
    }
}

/// Checks that `strace` can be run.
///
/// # Panics
/// With what to do, if it cannot.
pub fn require_strace() {
    let found = Command::new("strace").arg("-V").output();
    assert!(found.is_ok_and(|output| output.status.success()), "this test needs strace: apt-get install strace");
}
