//! `walcast store retry`: dead letters once more.

use std::sync::Arc;

use super::super::client;
use super::super::output::{self, Output};
use super::super::stopped::store_failure;
use super::super::{Exit, Failure};
use super::Stopped;
use crate::config::Settings;
use crate::event::clock;
use crate::projector::{ApplyError, DeadLetter, Opening};

/// Refuses a store that cannot have rejected the letters, because it is not as far: an empty one would take them all, and they
/// would be gone for the one that lacks them.
fn of_this_store(stopped: &Stopped, letters: &[DeadLetter]) -> Result<(), Failure> {
    let (kind, at) = (stopped.store.kind(), stopped.projected);
    match letters.iter().map(|letter| letter.row.sequence).max() {
        Some(last) if last > at.sequence() => Err(Failure::new(
            Exit::Usage,
            format!(
                "the {kind} store is at sequence {at}, before the dead letter of sequence {last}: it is not the store that \
                 rejected it; name that one with --store"
            ),
        )),
        _ => Ok(()),
    }
}

/// Writes each letter to the store, and forgets those that it takes.
pub(super) fn run(settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    client::block_on(async {
        // Only looked at first: the wrong store must not be made one of this log.
        let looked = Stopped::open(settings, Opening::Look).await?;
        let letters = looked.letters.all().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        of_this_store(&looked, &letters)?;
        drop(looked);
        let stopped = Stopped::open(settings, Opening::Take).await?;
        let (mut taken, mut expired, mut refused) = (0, 0, 0);
        for letter in &letters {
            let row = &letter.row;
            if row.expiration.expires_at(row.published_at) <= clock::now() {
                expired += 1;
            } else {
                match stopped.store.rewrite(&Arc::new(vec![row.clone()])).await {
                    Ok(()) => taken += 1,
                    Err(ApplyError::Store(error)) => return Err(store_failure(&error)),
                    Err(error) => {
                        refused += 1;
                        output::note(&format!("{} {} at sequence {}: {error}", row.subject, row.id, row.sequence));
                        continue;
                    }
                }
            }
            stopped.letters.remove(row).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        }
        let kind = stopped.store.kind();
        output.line(format!(
            "{taken} dead letters are in the {kind} store now, {expired} had expired, {refused} are left"
        ))?;
        match refused {
            0 => Ok(()),
            _ => Err(Failure::new(Exit::Failed, "the store still does not take what is left")),
        }
    })
}
