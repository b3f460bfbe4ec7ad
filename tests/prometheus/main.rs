//! Metrics, dashboards and rules against a real Prometheus that scrapes a loaded broker.
//!
//! The rig, for whoever writes a test here: [`prometheus::Prometheus`] starts the server and asks it, [`load::Load`] does to a
//! broker what it is told to, [`load::setup`] are the settings with which that load reaches every corner of the broker. A
//! program that cannot be had fails the tests, with the command that installs it.
#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests have no supervisor; the runtime ends their tasks")
)]

#[cfg(test)]
mod accelerate;
#[cfg(test)]
mod alerts;
#[cfg(test)]
mod alerts_clients;
#[cfg(test)]
mod alerts_cluster;
#[cfg(test)]
mod alerts_faults;
#[cfg(test)]
mod alerts_stores;
#[cfg(test)]
mod api;
#[cfg(test)]
mod boards;
#[cfg(test)]
mod calm;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the benchmark of traces, which counts its calls")]
#[path = "../../benches/telemetry/collector.rs"]
mod collector;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of Envoy, which use all of it")]
#[path = "../envoy/envoy.rs"]
mod envoy;
#[cfg(test)]
mod every_query;
#[cfg(test)]
mod exposition;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of Postgres, which use all of it")]
#[path = "../postgres/keeper.rs"]
mod keeper;
#[cfg(test)]
mod load;
#[cfg(test)]
mod places;
#[cfg(test)]
mod plots;
#[cfg(test)]
mod prometheus;
#[cfg(test)]
mod rig;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of Postgres, which use all of it")]
#[path = "../postgres/server.rs"]
mod server;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the table of faults, which uses all of it")]
#[path = "../faults/strace.rs"]
mod strace;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
#[cfg(test)]
mod work;

/// What the collector may say.
#[cfg(test)]
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[cfg(not(test))]
fn main() {}
