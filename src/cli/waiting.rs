//! How a tool waits for a store that does not answer.

use std::fmt::Display;

use async_trait::async_trait;

use super::output;
use crate::event::Projected;
use crate::projector::{Patience, Pauses};

/// Waits for as long as it takes, and says for what. Whoever uses it lets go when the tool is told to stop.
pub struct Waiting;

#[async_trait]
impl Patience for Waiting {
    async fn wait(&self, error: &(dyn Display + Sync), at: Projected, pauses: &mut Pauses) {
        output::note(&format!("{error}; waiting at sequence {at}"));
        tokio::time::sleep(pauses.next_pause()).await;
    }

    fn set_aside(&self) {
        output::note("the store does not take a message; it is a dead letter now (`walcast store status`)");
    }
}
