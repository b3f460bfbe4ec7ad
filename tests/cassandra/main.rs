//! The Cassandra store against real Cassandra servers, which the tests start themselves.
//!
//! One node is shared by all tests that only need a keyspace of their own, another one, in turns, by those that kill or freeze
//! theirs; what configures a node has a private one. `tests/services/install cassandra` brings the server; without it these
//! tests fail and say so.
#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "a test has no supervisor; the runtime ends its tasks"))]

#[cfg(test)]
mod access;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod datacenters;
#[cfg(test)]
mod fencing;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the measurement in benches/cassandra")]
mod harness;
#[cfg(test)]
mod looking;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod shared;
#[cfg(test)]
mod shared_brokers;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod wire;
