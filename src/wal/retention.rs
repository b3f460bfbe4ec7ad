//! Trimming: what nobody needs any more gives its files back, oldest first.

use std::io;
use std::sync::Arc;

use crate::event::{Sequence, Trimmed};

use super::error::ReleaseError;
use super::format::spare_name;
use super::shared::{Shared, Spare, State};

/// Trimmed files that are kept as spares: enough that a steady load writes into used blocks only, few enough that
/// disk use falls after a backlog. The rest is deleted.
const SPARES_RECYCLED_MAX: usize = 2;

pub(super) fn release(shared: &Arc<Shared>, up_to: Sequence) -> Result<Trimmed, ReleaseError> {
    {
        let mut state = shared.state.lock();
        // Also back: a store that lost what it had confirmed needs it again.
        state.released = up_to.min(shared.durable().sequence());
    }
    while trim_oldest(shared, beyond_retention)? {}
    Ok(shared.trimmed())
}

/// Trims one segment that is released, whether or not it should be kept for replay. False if there is none.
pub(super) fn reclaim(shared: &Shared) -> Result<bool, ReleaseError> {
    trim_oldest(shared, |_, _| true)
}

fn beyond_retention(shared: &Shared, state: &State) -> bool {
    let released =
        state.segments.iter().take(state.segments.len() - 1).filter(|segment| segment.last <= state.released);
    let kept_bytes: u64 = released.map(|segment| segment.bytes).sum();
    // A segment was closed when the one after it was made.
    let closed_at = state.segments.get(1).map(|next| next.header.created_at);
    let closed_for = closed_at.map(|closed_at| closed_at.elapsed_at(shared.fs.now()));
    kept_bytes > shared.options.keep_bytes || closed_for.is_some_and(|elapsed| elapsed >= shared.options.keep_for)
}

fn trim_oldest(shared: &Shared, due: impl Fn(&Shared, &State) -> bool) -> Result<bool, ReleaseError> {
    let _one_at_a_time = shared.trimming.lock();
    let (segment, mut recycle_as) = {
        let mut state = shared.state.lock();
        let Some(oldest) = state.segments.front() else { return Ok(false) };
        // A segment that is trimmed already is one whose file could not be removed the last time.
        let again = oldest.last <= shared.trimmed().sequence();
        if state.segments.len() < 2 || oldest.last > state.released || !(again || due(shared, &state)) {
            return Ok(false);
        }
        let whole = oldest.bytes == shared.options.segment_bytes;
        let recycle_as = (whole && state.spares.len() < SPARES_RECYCLED_MAX).then(|| {
            state.next_number += 1;
            shared.options.dir.join(spare_name(state.next_number, true))
        });
        shared.set_trimmed(state.segments[0].last);
        state.in_transit += 1;
        (state.segments.pop_front().expect("there is a front"), recycle_as)
    };
    let dir = &shared.options.dir;
    let mut gone = match &recycle_as {
        Some(spare) => shared.fs.rename(&segment.path, spare),
        None => shared.fs.remove(&segment.path),
    };
    if gone.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        // The last attempt got as far as this, and failed to sync the directory. If it made a spare, the next start
        // finds it.
        (gone, recycle_as) = (Ok(()), None);
    }
    #[cfg(feature = "fault-controls")]
    super::crash_points::pass(super::crash_points::CrashPoint::Trimming);
    // Each one before the next, so that a crash never leaves a hole; and before its blocks are written again.
    let outcome = gone.and_then(|()| shared.fs.sync_dir(dir));
    let mut state = shared.state.lock();
    state.in_transit -= 1;
    match outcome {
        Ok(()) => {
            #[cfg(feature = "fault-controls")]
            super::crash_points::pass(super::crash_points::CrashPoint::Trimmed);
            tracing::debug!(file = %segment.path.display(), trimmed = segment.last.get(), "segment trimmed");
            if let Some(path) = recycle_as {
                state.spares.push(Spare { path, reused: true });
                state.obstacle = None;
            }
            shared.changed.notify_all();
            Ok(true)
        }
        Err(source) => {
            let file = segment.path.clone();
            state.segments.push_front(segment);
            Err(ReleaseError { file, source })
        }
    }
}
