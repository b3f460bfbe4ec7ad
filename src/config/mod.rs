//! One validated configuration: [`Settings`], what each key means, and how a run's values are found.
//!
//! Owns the keys, their defaults, bounds and units, the layering (defaults, then a TOML file, then the
//! environment, then flags) and the record of where each value came from.
//!
//! Must never: read the environment or the command line itself (both are passed in), start anything, or
//! show a secret.

mod error;
mod keys;
mod layers;
mod rules;
mod secret;
mod settings;
mod values;

pub use error::ConfigError;
pub use layers::{Effective, Entry, Layers, load};
pub use secret::Secret;
pub use settings::{
    CassandraSettings, ClusterSettings, EmbeddedSettings, LimitSettings, LogFormat, LogSettings, PostgresSettings,
    Settings, ShutdownSettings, StoreKind, StoreSettings, TelemetrySettings,
};
