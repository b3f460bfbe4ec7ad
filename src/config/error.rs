//! Why a configuration is refused, each in one sentence.

use std::path::PathBuf;

use super::Entry;

/// Why no [`super::Settings`] could be made of what the operator gave.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is absent or cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Unreadable {
        /// The file of `--config`.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is not valid TOML: {reason}", path.display())]
    Malformed {
        /// The file of `--config`.
        path: PathBuf,
        /// Line, column and what was expected, in one line.
        reason: String,
    },
    /// A name that is no key.
    #[error("unknown setting {name} ({origin}); {hint}")]
    UnknownKey {
        /// As it was written.
        name: String,
        /// Where it was written.
        origin: String,
        /// The nearest known name, or where to find them all.
        hint: String,
    },
    /// A value of a known key that cannot be taken.
    #[error("{setting} {reason}")]
    Value {
        /// What was set.
        setting: Box<Entry>,
        /// The bound or form that it misses.
        reason: String,
    },
    /// Two values that cannot stand together.
    #[error("{setting} does not fit {other}: {rule}")]
    Conflict {
        /// What to change first.
        setting: Box<Entry>,
        /// What it does not fit.
        other: Box<Entry>,
        /// What must hold, and why.
        rule: String,
    },
    /// The configuration library refused the layers.
    #[error("cannot combine the layers of the configuration: {reason}")]
    Layers {
        /// What it said.
        reason: String,
    },
}
