//! The Postgres store against real servers.
//!
//! Each test has a database of its own, and a server of its own where it does something to the server. Everything is below one
//! folder in /tmp that goes away with the process; the servers die with it, too. A server that cannot be had fails the tests,
//! with the command that installs it.
#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests have no supervisor; the runtime ends their tasks")
)]

#[cfg(test)]
mod altered;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod conforms;
#[cfg(test)]
mod contact;
#[cfg(test)]
mod end_to_end;
#[cfg(test)]
mod expiry;
#[cfg(test)]
mod fencing;
#[cfg(test)]
mod keeper;
#[cfg(test)]
mod lost_answers;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod pooler;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod server;
#[cfg(test)]
mod shared;
#[cfg(test)]
mod store_metrics;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;

#[cfg(not(test))]
fn main() {}
