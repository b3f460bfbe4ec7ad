//! What the broker's traces are in a real Jaeger.
//!
//! One Jaeger serves all tests, each of which has its own broker and its own subjects. It dies with this process.
#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests have no supervisor; the runtime ends their tasks")
)]

#[cfg(test)]
mod calls;
#[cfg(test)]
mod collectors;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of Envoy, which use all of it")]
#[path = "../envoy/envoy.rs"]
mod envoy;
#[cfg(test)]
mod jaeger;
#[cfg(test)]
mod joined;
#[cfg(test)]
#[path = "../postgres/keeper.rs"]
mod keeper;
#[cfg(test)]
mod picture;
#[cfg(test)]
mod proxied;
#[cfg(test)]
mod sampling;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of the Postgres store, which use all of it")]
#[path = "../postgres/server.rs"]
mod server;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
#[cfg(test)]
mod trace;

#[cfg(not(test))]
fn main() {}
