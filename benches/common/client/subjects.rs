//! Few and many subjects under the same load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::Plan;
use super::calls::{self, Publish};
use super::connect::{CONNECTIONS, IN_FLIGHT, connect, publish, subjects};
use crate::Failure;
use crate::figures::Measured;
use crate::system::ServerProcess;

/// Next to the golden section of a million (and of the tenth of it), without a factor in common with any power of ten.
pub const STEP: u64 = 618_033;

/// Makes the subjects: one publish on each, fire and forget, so that no rows are there which the others do not have.
pub async fn prepare(server: &ServerProcess, count: usize) -> Result<(), Failure> {
    let clients = connect(server, CONNECTIONS).await?;
    let (names, next): (Arc<[String]>, _) = (subjects(count).into(), Arc::new(AtomicUsize::new(0)));
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for caller in 0..CONNECTIONS * IN_FLIGHT {
        let mut client = clients[caller % CONNECTIONS].clone();
        let (names, next) = (Arc::clone(&names), Arc::clone(&next));
        tasks.spawn(async move {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                client.publish(publish(name.clone(), Bytes::new(), 0)).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let found = server.metric("walcast_subjects").await?;
    if found != count as f64 {
        return Err(format!("{found} subjects, not {count}").into());
    }
    server.cpu_seconds_when_quiet().await?;
    Ok(())
}

/// Publishes as many as are answered, kept for 60 seconds, on subjects that are all there.
pub async fn run(server: &ServerProcess, plan: &Plan, count: usize) -> Result<Measured, Failure> {
    let call = Publish::on(subjects(count).into(), STEP, 60);
    let measured = calls::run(server, plan, CONNECTIONS, IN_FLIGHT, call).await?;
    let found = server.metric("walcast_subjects").await?;
    if found == count as f64 { Ok(measured) } else { Err(format!("{found} subjects, not {count}").into()) }
}
