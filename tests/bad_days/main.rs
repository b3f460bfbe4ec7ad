//! The table of bad days: what a real Postgres, a real Cassandra and the broker itself can do wrong while messages come in.
//!
//! Each row injects one trouble into the real servers while a load goes on, and afterwards reads all rows of the database by
//! itself and compares them with what publishers were told. Controls, in which something is done wrong on purpose, must fail
//! in the column that is there for it. `docs/bad-days.md` says how to read the table.
//!
//! Arguments: `--quick` for seconds instead of minutes (`make test`); `--write` puts the table into the document; words without
//! dashes choose rows by any part of their name. `BAD_DAYS_BINARY` is a build of the broker for full runs, and
//! `FAULT_CONTROLS_BINARY` one with the feature `fault-controls`.
#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "a rig has no supervisor; the runtime ends its tasks"))]

#[cfg(test)]
mod cassandra;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod day;
#[cfg(test)]
#[path = "../faults/guard.rs"]
mod guard;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the tests of the store, which use all of it")]
#[path = "../cassandra/harness/mod.rs"]
mod harness;
#[cfg(test)]
mod history;
#[cfg(test)]
mod judge;
#[cfg(test)]
#[path = "../postgres/keeper.rs"]
mod keeper;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod load;
#[cfg(test)]
mod postgres;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of the store, which use all of it")]
#[path = "../postgres/proxy.rs"]
mod proxy;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod runner;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of the store, which use all of it")]
#[path = "../postgres/server.rs"]
mod server;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
#[cfg(test)]
mod table;

#[cfg(test)]
fn main() -> std::process::ExitCode {
    runner::main()
}

#[cfg(not(test))]
fn main() {}
