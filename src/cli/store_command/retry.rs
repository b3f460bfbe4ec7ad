//! `walcast store retry`: dead letters once more.

use std::sync::Arc;

use super::super::client;
use super::super::output::{self, Output};
use super::super::stopped::store_failure;
use super::super::{Exit, Failure};
use super::Stopped;
use crate::config::Settings;
use crate::event::clock;
use crate::projector::{ApplyError, Opening};

/// Writes each letter to the store, and forgets those that it takes.
pub(super) fn run(settings: &Settings, output: &mut Output) -> Result<(), Failure> {
    client::block_on(async {
        let stopped = Stopped::open(settings, Opening::Take).await?;
        let letters = stopped.letters.all().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
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
        output.line(format!("{taken} dead letters are in the store now, {expired} had expired, {refused} are left"))?;
        match refused {
            0 => Ok(()),
            _ => Err(Failure::new(Exit::Failed, "the store still does not take what is left")),
        }
    })
}
