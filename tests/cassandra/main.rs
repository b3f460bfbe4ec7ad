//! The Cassandra store against real Cassandra servers, which the tests start themselves.
//!
//! One node is shared by all tests that only need a keyspace of their own; what kills, freezes or configures a node has a
//! private one. `tests/services/install cassandra` brings the server; without it these tests fail and say so.

#[cfg(test)]
mod access;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod fencing;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the measurement in benches/cassandra")]
mod harness;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod tables;
