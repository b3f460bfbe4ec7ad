//! The deployment with Envoy: the shipped configuration in a real Envoy before real brokers, with a real rate limit service.
//!
//! The rig, for whoever writes a test here: [`envoy::Plan`] is the shipped configuration and what differs from it,
//! [`ratelimit::RateLimit`] the service of global limits with its Redis, [`offered::Offered`] calls at a steady rate. A
//! program that cannot be had fails the tests, with the command that installs it.
#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests have no supervisor; the runtime ends their tasks")
)]

#[cfg(test)]
mod access_log;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of metrics and traces")]
mod envoy;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod offered;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod ratelimit;
#[cfg(test)]
mod refusing;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod shipped;
#[cfg(test)]
mod streams;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;

#[cfg(not(test))]
fn main() {}
