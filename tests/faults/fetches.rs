//! Fetches of messages that memory no longer has.

use crate::support::oracle::Ledger;
use crate::support::{Broker, Client};

/// How often the log has answered a Fetch.
async fn from_log(broker: &Broker) -> f64 {
    broker.metric("walcast_fetches_total{source=\"log\"}").await
}

/// Fetches the messages of subject 0, oldest first, until the log has answered one: the hot tail of
/// [`crate::rig::small_segments`] holds no more than the last thousand of all.
///
/// # Errors
/// What was answered otherwise: each message must be found or have expired, and one of them must come from the log.
pub async fn one_from_the_log(broker: &Broker, client: &Client) -> Result<(), String> {
    let before = from_log(broker).await;
    for id in 1.. {
        match client.fetch(&Ledger::name(0), id).await {
            Ok(_) if from_log(broker).await > before => return Ok(()),
            Ok(_) => {}
            Err(status) if is_expired(&status) => {}
            Err(status) => return Err(format!("the log has answered none before id {id}: {status}")),
        }
    }
    unreachable!("ids end, and the answer to the next one ends the loop")
}

/// Whether it is what the contract says of a message that was not kept.
pub fn is_expired(status: &tonic::Status) -> bool {
    status.message() == "message with id provided is expired"
}
