//! Bad days of a cluster: three real brokers behind a real Envoy with the shipped configuration, under a load that keeps a
//! journal of every promise.
//!
//! `WALCAST_ROUNDS` (1), `WALCAST_RATE` (300 publishes a second), `WALCAST_FROZEN` (5 s). `make soak-cluster` takes ten rounds at
//! 3,000 a second, and a minute.
#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests have no supervisor; the runtime ends their tasks")
)]

#[cfg(test)]
mod days;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of Envoy itself")]
#[path = "../envoy/envoy.rs"]
mod envoy;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod load;
#[cfg(test)]
mod net;
#[cfg(test)]
mod rig;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;

#[cfg(not(test))]
fn main() {}
