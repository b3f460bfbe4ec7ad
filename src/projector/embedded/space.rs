//! Room on the disk. fjall cannot go on after a write that failed, so the store does not begin one that may.

use std::io;
use std::path::Path;

use super::KIND;
use super::errors::failed;
use crate::projector::StoreError;

/// Free bytes below which nothing is applied: two journals of 64 MiB, the memtables on their way to tables, and a
/// compaction of the first level, which all may happen behind a batch.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// On a small disk the reserve is this part of it.
const RESERVE_PART: u64 = 8;

/// Whether a batch of `bytes` can be applied.
///
/// # Errors
/// [`StoreError::Unavailable`] if there is too little room: space may come back.
pub(super) fn check(path: &Path, bytes: u64) -> Result<(), StoreError> {
    let (free, total) = of_disk(path).map_err(|error| failed(&error))?;
    // Into the journal, and later into a table.
    let needed = RESERVE_BYTES.min(total / RESERVE_PART) + 2 * bytes;
    if free >= needed {
        return Ok(());
    }
    let reason = format!("{free} bytes are free on the disk of {}, it needs {needed}", path.display());
    Err(StoreError::Unavailable { store: KIND, reason })
}

/// Bytes that are free for an ordinary user, and bytes in all.
fn of_disk(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).map_err(io::Error::from)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_no_more_than_there_is_and_says_what_is_missing() {
        let directory = tempfile::tempdir().expect("a directory");
        let (free, _) = of_disk(directory.path()).expect("a disk");
        check(directory.path(), 0).expect("the disk of the tests has room");
        let error = check(directory.path(), free).expect_err("twice what is free");
        assert!(error.retryable(), "{error}");
        assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    }
}
