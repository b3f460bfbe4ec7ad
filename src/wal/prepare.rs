//! Spare files: the next segment's space, taken before it is needed.
//!
//! Filling 64 MiB with zeros takes a third of a second, so a thread does it ahead of need. Zeros are written, not
//! merely allocated: an fdatasync into unwritten extents also commits the file system's journal and takes twice as long.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{LogFailed, RoomError};
use super::file_system::FileSystem;
use super::format::{making_name, spare_name};
use super::options::{Options, Preparation};
use super::retention;
use super::shared::{Obstacle, Shared, Spare};

/// How many spares the thread keeps ready: one is filled again long before the segment before it is full.
const SPARES_READY: usize = 1;
/// How often an obstacle is looked at again: appends resume within this and the time to fill a file.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// On a small disk the reserve is this part of it: twice what the embedded store keeps free, so that projection goes on,
/// and the log can be trimmed, when publishes are refused.
const RESERVE_PART: u64 = 4;
/// Zeros written at once, which also decides how large the page cache's folios are that commits are written to later. The
/// kernel walks all blocks of a dirty folio: a commit of 2 KiB takes 8 % longer in folios of 1 MiB than in 16 KiB, and one of
/// 256 KiB takes 12 % longer in 16 KiB than in 64 KiB (Linux 6.18, ext4). Commits are small more often than not.
const FILL_BYTES: usize = 16 * 1024;
/// Zeros written between two syncs, so that a commit never waits behind a whole file of them.
const SYNC_EVERY_BYTES: u64 = 8 * 1024 * 1024;

/// Takes a spare, which is in transit then; waits for one that is being filled.
pub(super) fn take_spare(shared: &Shared) -> Result<Spare, RoomError> {
    let mut state = shared.state.lock();
    loop {
        if let Some(failed) = shared.failed() {
            return Err(RoomError::Failed(failed.clone()));
        }
        if let Some(spare) = state.spares.pop() {
            state.in_transit += 1;
            shared.changed.notify_all();
            return Ok(spare);
        }
        match (shared.options.preparation, &state.obstacle) {
            (Preparation::Background, Some(obstacle)) => return Err(shared.room_error(obstacle)),
            (Preparation::Background, None) => shared.changed.wait(&mut state),
            (Preparation::Inline, _) => {
                drop(state);
                prepare(shared)?;
                state = shared.state.lock();
                if let (None, Some(obstacle)) = (state.spares.last(), &state.obstacle) {
                    return Err(shared.room_error(obstacle));
                }
            }
        }
    }
}

/// The thread: keeps spares ready until the writer goes away or the log fails.
pub(super) fn run(shared: &Arc<Shared>) {
    loop {
        let mut state = shared.state.lock();
        while !state.stop && shared.failed().is_none() && state.spares.len() >= SPARES_READY {
            shared.changed.wait(&mut state);
        }
        if state.obstacle.is_some() && !state.stop {
            shared.changed.wait_for(&mut state, RETRY_EVERY);
        }
        if state.stop {
            return;
        }
        drop(state);
        if shared.failed().is_some() || prepare(shared).is_err() {
            return;
        }
    }
}

/// Makes one spare or notes the obstacle. Fails when the log has failed.
fn prepare(shared: &Shared) -> Result<(), LogFailed> {
    let bytes_needed = shared.options.segment_bytes;
    let number = loop {
        let mut state = shared.state.lock();
        let bytes = shared.bytes(&state);
        if !state.spares.is_empty() {
            return Ok(());
        }
        if bytes + bytes_needed <= shared.options.max_bytes {
            state.making = true;
            state.next_number += 1;
            break state.next_number;
        }
        drop(state);
        // What is only kept for replay gives way to what has to be kept.
        if !retention::reclaim(shared).unwrap_or(false) {
            let mut state = shared.state.lock();
            note(&mut state.obstacle, Obstacle::LogFull { bytes });
            shared.changed.notify_all();
            return Ok(());
        }
    };
    let made =
        make_spare(&*shared.fs, &shared.options, shared.options.reserve_bytes, number, &|| shared.state.lock().stop);
    let mut state = shared.state.lock();
    state.making = false;
    match made {
        Ok(Some(spare)) => {
            if state.obstacle.take().is_some() {
                tracing::info!("log has room again");
            }
            state.spares.push(spare);
        }
        Ok(None) => {}
        Err(error) if is_shortage(&error) => {
            drop(state);
            // What is only kept for replay gives way here, too; the next attempt takes its place.
            if retention::reclaim(shared).unwrap_or(false) {
                return Ok(());
            }
            state = shared.state.lock();
            note(&mut state.obstacle, Obstacle::DiskFull { reason: error.to_string() });
        }
        Err(error) => {
            drop(state);
            let making = shared.options.dir.join(making_name(number));
            return Err(shared.fail("prepare a segment in", &making, error));
        }
    }
    shared.changed.notify_all();
    Ok(())
}

/// Fills a new file and names it a spare, if it leaves `reserve` bytes of the disk free. None if it was told to stop meanwhile.
pub(super) fn make_spare(
    fs: &dyn FileSystem,
    options: &Options,
    reserve: u64,
    number: u64,
    stopped: &dyn Fn() -> bool,
) -> io::Result<Option<Spare>> {
    let making = options.dir.join(making_name(number));
    let path = options.dir.join(spare_name(number, false));
    let made = match fill(fs, options, reserve, &making, stopped) {
        Ok(true) => fs.rename(&making, &path).map(|()| Some(Spare { path, reused: false })),
        Ok(false) => Ok(None),
        Err(error) => Err(error),
    };
    if !matches!(made, Ok(Some(_))) {
        // Nothing refers to it; if it cannot be removed now, the next start does.
        drop(fs.remove(&making));
    }
    made
}

fn note(current: &mut Option<Obstacle>, found: Obstacle) {
    if current.is_none() {
        match &found {
            Obstacle::LogFull { bytes } => tracing::warn!(bytes, "log has no room, its limit is reached"),
            Obstacle::DiskFull { reason } => tracing::warn!(reason, "log has no room, the disk is full"),
        }
    }
    *current = Some(found);
}

/// Whether the failure passes when somebody frees what is short: space, quota, descriptors, memory.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::OutOfMemory,
    ];
    kinds.contains(&error.kind()) || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// Writes a file of zeros, durably. False if it was told to stop meanwhile.
fn fill(
    fs: &dyn FileSystem,
    options: &Options,
    reserve: u64,
    path: &Path,
    stopped: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let total = options.segment_bytes;
    // Without trying: the store and the system's own files live on the same disk.
    let space = fs.space(&options.dir)?;
    let needed = total.saturating_add(reserve.min(space.total / RESERVE_PART));
    if space.available < needed {
        let and_reserve = if reserve > 0 { " (log.segment_bytes and log.reserve_bytes)" } else { "" };
        let reason = format!("less than {needed} bytes are free{and_reserve}");
        return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
    }
    let file = fs.create(path)?;
    let zeros = vec![0; FILL_BYTES.min(usize::try_from(total).unwrap_or(FILL_BYTES))];
    let mut offset = 0;
    let mut synced = 0;
    while offset < total {
        if stopped() {
            return Ok(false);
        }
        let count = zeros.len().min(usize::try_from(total - offset).unwrap_or(usize::MAX));
        file.write_all_at(&zeros[..count], offset)?;
        offset += count as u64;
        if offset - synced >= SYNC_EVERY_BYTES || offset == total {
            file.sync_data()?;
            synced = offset;
        }
    }
    Ok(true)
}
