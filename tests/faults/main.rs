//! The table of faults: each is injected into the real broker under load and judged by the oracle.
//!
//! Every row has negative controls: runs in which the fault is left out, or meets a broker that is broken on purpose, so that
//! the same judgement must fail. A control that passes makes its row fail.
//!
//! Arguments: `--all` for every row at full length (`make faults`), `--quick` for the quick ones (`make test`); without either
//! only the rows that need no other program and no privilege. Words without dashes choose rows by any part of their name;
//! other options, such as those of the usual test harness, are ignored. `FAULT_CONTROLS_BINARY` is the path of a binary that was
//! built with the feature `fault-controls`.
#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "a rig has no supervisor; the runtime ends its tasks"))]

#[cfg(test)]
mod disks;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod fetches;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod load;
#[cfg(test)]
mod needs;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod strace;
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "shared with the integration tests, which use all of it")]
#[path = "../it/support/mod.rs"]
mod support;
#[cfg(test)]
mod table;

#[cfg(test)]
fn main() -> std::process::ExitCode {
    harness::main()
}

#[cfg(not(test))]
fn main() {}
