//! The integration tests: one binary, the real broker as a process, clients of the wire contract.
//!
//! Nothing here needs another program to run, except `sync_before_ack`, `log_failure` and `okaywal`, which need `strace`;
//! a few tests mount a small tmpfs and so need root.
//! `WALCAST_KILL_CYCLES` and `WALCAST_KILL_SEED` make `kill_nine` longer and repeatable, `WALCAST_RESUME_CYCLES` and
//! `WALCAST_RESUME_SEED` `resuming`, `WALCAST_RETRIES`, `WALCAST_RETRIES_KILLS` and `WALCAST_RETRIES_SEED` `retries`.
#![expect(clippy::disallowed_methods, reason = "a test has no supervisor; the runtime of the test ends its tasks")]

#[cfg(test)]
mod alert_rules;
#[cfg(test)]
mod architecture;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod fault_controls;
#[cfg(test)]
mod fault_metrics;
#[cfg(test)]
mod format_document;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_ids;
#[cfg(test)]
mod kill_nine;
#[cfg(test)]
mod log_failure;
#[cfg(test)]
mod log_lines;
#[cfg(test)]
mod log_repair;
#[cfg(test)]
mod log_replay;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod okaywal;
#[cfg(test)]
mod performance_document;
#[cfg(test)]
mod publish_stream;
#[cfg(test)]
mod resuming;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod series;
#[cfg(test)]
mod start_up;
#[cfg(test)]
mod store_command;
#[cfg(test)]
#[allow(dead_code, reason = "shared with the other rigs, each of which uses what it needs")]
mod support;
mod sync_before_ack;
#[cfg(test)]
mod taken_over;
