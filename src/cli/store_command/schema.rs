//! `walcast store schema`: the statements that a store makes its tables with.

use super::super::output::Output;
use super::super::{Exit, Failure};
use crate::broker::cassandra_config;
use crate::config::{Settings, StoreKind};
use crate::projector::{cassandra, postgres};

/// Prints them, each ended by a semicolon, as the settings would have them. Connects to nothing.
pub(super) fn run(settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    match settings.store.kind {
        StoreKind::Postgres => {
            output.line("-- To read: the first start makes these itself. The role needs CREATE on the database, or a schema of its own:")?;
            output.line("-- CREATE SCHEMA walcast AUTHORIZATION walcast;\n")?;
            postgres::schema_statements().iter().try_for_each(|text| output.line(text.trim_end()))
        }
        StoreKind::Cassandra => {
            let config = cassandra_config(settings);
            let config = config.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
            let statements = cassandra::schema_statements(&config);
            statements.iter().try_for_each(|statement| output.line(format!("{statement};")))
        }
        StoreKind::Embedded | StoreKind::None => {
            let kind = settings.store.kind.name();
            Err(Failure::new(Exit::Usage, format!("the store {kind} has no tables; name another with --store")))
        }
    }
}
