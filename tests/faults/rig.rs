//! What many rigs have in common.

use std::path::{Path, PathBuf};

use crate::needs;
use crate::support::Setup;
use crate::table::{Run, Variant};

/// Small segments, so that the next one is needed soon, and a small hot tail, so that the log is asked soon.
pub fn small_segments() -> Setup {
    let setup = Setup::new().set("limits.body_bytes", "256KiB").set("log.segment_bytes", "1MiB");
    setup.set("log.keep_bytes", "64MiB").set("limits.hot_tail_bytes", "1MiB")
}

/// What a broker with a failed log says.
pub fn announce_failure(setup: Setup) -> Setup {
    let said = ["log has failed", "log failed", "a task failed", "strace:", "walcast: committer failed"];
    said.into_iter().fold(setup, Setup::expect_log)
}

/// The setup for this run: another binary and no judgement of its log lines if it is a control.
pub fn for_run(setup: Setup, run: Run) -> Setup {
    let setup = if run.variant.is_control() { setup.expect_log("") } else { setup };
    match run.variant {
        Variant::Broken(how) => {
            let binary = needs::controls().expect("it was asked for");
            setup.binary(binary).under(["env".to_owned(), format!("WALCAST_FAULT_CONTROL={how}")])
        }
        _ => setup,
    }
}

/// The file with the highest name of those with this extension.
pub fn newest(log: &Path, extension: &str) -> Option<PathBuf> {
    let files = std::fs::read_dir(log).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).max()
}

/// The number in the name of a spare.
pub fn spare_number(spare: &Path) -> u64 {
    spare.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).expect("a spare is named by its number")
}
