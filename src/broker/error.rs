//! Why the broker did not run, or ended.

use std::io;
use std::net::SocketAddr;

pub use super::error_kind::ErrorKind;
use super::open::OpenDataError;

/// Why the broker did not run, or ended other than by an orderly stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("listen on {address} ({setting}): {source}{}", hint(source))]
    Listen {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    Data(#[from] OpenDataError),
    /// The system gives no thread or signal handler.
    #[error("start the broker: {0}")]
    System(#[source] io::Error),
    /// A task ended by itself.
    #[error("{name} failed: {reason}")]
    Task {
        /// Its name.
        name: &'static str,
        /// The reason.
        reason: String,
        /// What kind of failure it was.
        kind: ErrorKind,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "; another process uses it: stop that one or choose another address",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

impl Error {
    /// What kind of failure it is: decides the exit code.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Data(error) => error.kind(),
            Self::Task { kind, .. } => *kind,
            Self::Listen { .. } | Self::System(_) => ErrorKind::Failed,
        }
    }
}
