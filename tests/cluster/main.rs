//! Bad days of a cluster: three real brokers behind a real Envoy with the shipped configuration, under a load that keeps a
//! journal of every promise.
//!
//! `WALCAST_ROUNDS` (1), `WALCAST_RATE` (300 publishes a second), `WALCAST_FROZEN` (5 s), `WALCAST_DATABASE_AWAY` (2 s, twice).
//! `make soak-cluster` takes ten rounds at 3,000 a second, a minute, and 30 s.
#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests have no supervisor; the runtime ends their tasks")
)]

#[cfg(test)]
mod days;
#[cfg(test)]
mod doubled;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of Envoy itself")]
#[path = "../envoy/envoy.rs"]
mod envoy;
#[cfg(test)]
mod journal;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of Postgres, which use all of it")]
#[path = "../postgres/keeper.rs"]
mod keeper;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod load;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod net;
#[cfg(test)]
mod rig;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of Postgres, which use all of it")]
#[path = "../postgres/server.rs"]
mod server;
#[cfg(test)]
mod shared;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;

#[cfg(not(test))]
fn main() {}
