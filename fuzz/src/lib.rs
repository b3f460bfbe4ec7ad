//! What the fuzz targets do with their bytes.
//!
//! The rooms `event`, `wal` and `index` are compiled into this crate from their sources, not linked: so they, and nothing
//! else, are built with coverage counters, without a second build of all that the broker depends on. A file system in
//! memory comes from the log's own tests.
//!
//! `WALCAST_FUZZ_PLANTED=1` plants a mistake in what is expected of each target: the control, in which a run must fail.

#[path = "../../src/event/mod.rs"]
pub mod event;
#[path = "../../src/index/mod.rs"]
pub mod index;
#[path = "../../src/wal/mod.rs"]
pub mod wal;

// The name under which the file system in memory knows the log's traits.
use wal as file_system;
#[expect(dead_code, reason = "its faults are for other tests")]
#[path = "../../src/wal/sim.rs"]
mod sim;

pub mod index_file;
mod naive;
pub mod record;
pub mod segment;

/// Whether this run is the control.
fn planted() -> bool {
    static PLANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var_os("WALCAST_FUZZ_PLANTED").is_some())
}
