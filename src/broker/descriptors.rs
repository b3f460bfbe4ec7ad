//! Open files: enough for the log and the store, whatever clients do.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors that connections leave over: 256 tables of the embedded store, and the segments, journals, readers and
/// sockets of the broker itself. Without one of these the projector, and with it the broker, would end.
const RESERVE: u64 = 384;

/// Raises the process's limit of open files as far as it goes, and returns how many connections fit: at most `wanted`.
pub(super) fn connections(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let fit = limit.current.map_or(wanted, |files| fitting(files, wanted));
    if fit < wanted {
        tracing::info!(
            connections = fit,
            limit = wanted,
            open_files = limit.current,
            "fewer connections than limits.connections are taken, the system allows no more open files"
        );
    }
    fit
}

/// Half of very few, so that a client gets in at all.
fn fitting(files: u64, wanted: usize) -> usize {
    let fit = files.saturating_sub(RESERVE).max(files / 2);
    wanted.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_broker_itself() {
        assert_eq!(fitting(20_000, 10_000), 10_000);
        assert_eq!(fitting(1_024, 10_000), 640);
        assert_eq!(fitting(256, 10_000), 128);
        assert_eq!(fitting(u64::MAX, 7), 7);
    }
}
