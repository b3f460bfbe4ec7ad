//! Subscribers to whom nothing is published: what each costs of memory, its part of a connection included.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::Failure;
use crate::client::Plan;
use crate::client::connect::{connect, connect_one, publish, subjects, subscribe};
use crate::figures::{Figure, Measured};
use crate::system::ServerProcess;

const CONNECTIONS: u32 = 1_000;
/// Each on a subject of its own.
const SUBSCRIBERS_PER_CONNECTION: usize = 10;
/// Connections that are opened, and subjects that are published on, at a time.
const AT_ONCE: usize = 64;
/// A delivery that takes longer is lost.
const DELIVERY_MAX: Duration = Duration::from_secs(20);

/// Subscribes, weighs, and proves that each one was subscribed: each gets one message.
pub async fn run(server: &ServerProcess, plan: &Plan) -> Result<Measured, Failure> {
    let connections = plan.scaled(CONNECTIONS) as usize;
    let subjects = subjects(connections * SUBSCRIBERS_PER_CONNECTION);
    let publisher = &connect(server, 1).await?[0];
    let before = server.resident_mib()?;
    let open = subjects.chunks(SUBSCRIBERS_PER_CONNECTION).map(|subjects| async move {
        let mut client = connect_one(server).await?;
        let mut streams = Vec::with_capacity(subjects.len());
        for subject in subjects {
            streams.push(client.subscribe(subscribe(subject.clone())).await?.into_inner());
        }
        Ok::<_, Failure>(streams)
    });
    let streams: Vec<_> = stream::iter(open).buffered(AT_ONCE).try_collect().await?;
    server.cpu_seconds_when_quiet().await?;
    let weight_mib = server.resident_mib()? - before;
    let (subscribed, connected) =
        (server.metric("active_subscribers").await?, server.metric("walcast_connections").await?);
    // The publisher has a connection, too.
    if (subscribed, connected) != (subjects.len() as f64, connections as f64 + 1.0) {
        return Err(format!("{subscribed} subscribers on {connected} connections").into());
    }
    let publishes = subjects.iter().map(|subject| {
        let mut client = publisher.clone();
        async move { client.publish(publish(subject.clone(), Bytes::new(), 0)).await }
    });
    stream::iter(publishes).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
    for (mut stream, subject) in streams.into_iter().flatten().zip(&subjects) {
        let message = tokio::time::timeout(DELIVERY_MAX, stream.message()).await??;
        if message.as_ref().map(|message| (&message.subject, message.id)) != Some((subject, 1)) {
            return Err(format!("the subscriber of {subject} got {message:?}").into());
        }
    }
    Ok(Measured::default()
        .with(Figure::Subscriber, weight_mib * 1024.0 / subjects.len() as f64)
        .with(Figure::PeakMemory, server.peak_memory_mib()?))
}
