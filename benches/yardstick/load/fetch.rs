//! What is there to be fetched.

use bytes::Bytes;
use tokio::task::JoinSet;
use tonic::Status;
use walcast::proto::client::PublishRequest;

use super::{BODY_BYTES, connect, subjects};
use crate::Failure;
use crate::server::ServerProcess;

/// Messages of each subject, ids from 1.
pub const FETCHED_PER_SUBJECT: i32 = 20;

/// Publishes what will be fetched.
pub async fn prepare_fetches(server: &ServerProcess) -> Result<(), Failure> {
    let client = connect(server, 1).await?.remove(0);
    let mut tasks = JoinSet::new();
    for subject in subjects() {
        let mut client = client.clone();
        tasks.spawn(async move {
            for _ in 0..FETCHED_PER_SUBJECT {
                let body = Bytes::from_static(&[b'x'; BODY_BYTES]);
                client.publish(PublishRequest { subject: subject.clone(), body, expiration_seconds: 600 }).await?;
            }
            Ok::<(), Status>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
