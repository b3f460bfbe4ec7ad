//! How full the disk is.

use std::path::Path;

/// Bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Disk {
    /// Free for this process: what is reserved for root is not, unless it is root.
    pub free: u64,
    /// Free or not.
    pub total: u64,
}

/// The file system that holds `path`; None if the system does not tell. Asks the kernel, not the disk.
pub(super) fn of(path: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(Disk { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_a_directory_and_not_of_what_is_not_there() {
        let folder = tempfile::tempdir().expect("made");
        let disk = of(folder.path()).expect("told");
        assert!(0 < disk.free && disk.free <= disk.total, "{disk:?}");
        assert_eq!(of(&folder.path().join("none")), None);
    }
}
