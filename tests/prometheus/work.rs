//! What a [`Load`](crate::load::Load) can do to a broker, each a loop that survives the broker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use tokio::net::TcpStream;
use tonic::{Request, Status};
use walcast::proto::client::PublishRequest;

use crate::load::{PACE, Site};
use crate::support::publish_stream::request;
use crate::support::{Client, random_bytes};

/// One thing to do again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Publishes one message after the other on 20 subjects.
    Publish,
    /// Streams of 100 publishes each.
    PublishStream,
    /// Fetches from memory, log and store, and what is expired or was never published.
    Fetch,
    /// Five subscribers, each of which comes again after 100 messages.
    Subscribe,
    /// A subscriber that leaves a mebibyte unread, falls back to the log, reads it all and is live again.
    FallBehind,
    /// Publishes with idempotency keys, each of them twice.
    Repeat,
    /// Publishes that are refused: invalid, too large, with the key of another body.
    Reject,
    /// More connections than are allowed, none of which speaks.
    Connect,
}

impl Work {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Publish,
        Self::PublishStream,
        Self::Fetch,
        Self::Subscribe,
        Self::FallBehind,
        Self::Repeat,
        Self::Reject,
        Self::Connect,
    ];
}

/// `limits.connections` of [`setup`](crate::load::setup): far more than the works and a proxy open.
pub const CONNECTIONS: usize = 100;
const SUBJECTS: u64 = 20;
const HOUR: i32 = 3_600;
/// The subject whose messages are fetched back.
const HISTORY: &str = "history";

/// Does it until it is dropped. After an error it begins anew, with a new connection.
pub async fn go_on(work: Work, site: &Site, count: &AtomicU64) {
    loop {
        if work == Work::Connect {
            connect_without_a_word(site, count).await;
        } else if let Some(client) = Client::try_connect(&site.address()).await {
            // What the broker says while it is away or full is not judged here.
            drop(repeat(work, site, &client, count).await);
        }
        tokio::time::sleep(10 * PACE).await;
    }
}

async fn repeat(work: Work, site: &Site, client: &Client, count: &AtomicU64) -> Result<(), Status> {
    for round in 0.. {
        match work {
            Work::Publish => publish(client, round).await?,
            Work::PublishStream => publish_stream(client).await?,
            Work::Fetch => fetch(client).await?,
            Work::Subscribe => subscribe(client, round).await?,
            Work::FallBehind => fall_behind(client, site).await?,
            Work::Repeat => publish_twice(client).await?,
            Work::Reject => be_rejected(client).await?,
            Work::Connect => return Ok(()),
        }
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

fn name(number: u64) -> String {
    format!("s{}", number % SUBJECTS)
}

async fn publish(client: &Client, round: u64) -> Result<(), Status> {
    client.publish(&name(round), random_bytes(round, 512), HOUR).await.map(drop)
}

async fn publish_stream(client: &Client) -> Result<(), Status> {
    let requests = (0..100).map(|number| request(&name(number), random_bytes(number, 256), HOUR));
    let (_, ended) = client.publish_all(requests).await?.drain().await;
    ended.map_or(Ok(()), Err)
}

/// Four kibibytes more a round, so that what is old soon is in the store only.
async fn fetch(client: &Client) -> Result<(), Status> {
    let newest = client.publish(HISTORY, random_bytes(0, 4_096), HOUR).await?;
    client.fetch(HISTORY, newest).await?;
    let old = rand::rng().random_range(1..=newest);
    client.fetch(HISTORY, old).await?;
    let gone = client.publish("fire and forget", "", 0).await?;
    drop(client.fetch("fire and forget", gone).await);
    drop(client.fetch(HISTORY, i32::MAX).await);
    Ok(())
}

/// Five at once; 100 messages are read together, which [`Work::Publish`] sends.
async fn subscribe(client: &Client, round: u64) -> Result<(), Status> {
    let mut subscriptions = Vec::new();
    for number in 0..5 {
        subscriptions.push(client.try_subscribe(&name(round + number)).await?);
    }
    let reading = async {
        for _ in 0..20 {
            for subscription in &mut subscriptions {
                if subscription.try_next().await?.is_none() {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    // Where nobody publishes there is nothing to read.
    tokio::time::timeout(Duration::from_secs(5), reading).await.unwrap_or(Ok(()))
}

async fn fall_behind(client: &Client, site: &Site) -> Result<(), Status> {
    const MESSAGES: usize = 64;
    let Some(narrow) = Client::try_connect_narrow(&site.address()).await else { return Ok(()) };
    let mut subscription = narrow.try_subscribe("slow").await?;
    let mut last = 0;
    for number in 0..MESSAGES {
        last = client.publish("slow", random_bytes(number as u64, 16 * 1024), HOUR).await?;
    }
    while let Some(message) = subscription.try_next().await? {
        if message.id >= last {
            break;
        }
    }
    // Live again: what comes now is read at once.
    client.publish("slow", "now", HOUR).await?;
    subscription.try_next().await.map(drop)
}

async fn publish_twice(client: &Client) -> Result<(), Status> {
    let key = format!("key {:x}", rand::rng().random::<u64>());
    for _ in 0..2 {
        client.publish_request(Request::new(with_key(&key, "twice"))).await?;
    }
    Ok(())
}

async fn be_rejected(client: &Client) -> Result<(), Status> {
    drop(client.publish("", "no subject", HOUR).await);
    drop(client.publish("large", vec![0; 33 * 1024], HOUR).await);
    let key = format!("key {:x}", rand::rng().random::<u64>());
    client.publish_request(Request::new(with_key(&key, "one body"))).await?;
    drop(client.publish_request(Request::new(with_key(&key, "another body"))).await);
    // An error that no caller makes would end the others' work, too.
    client.publish("after", "refused", 0).await.map(drop)
}

fn with_key(key: &str, body: &'static str) -> PublishRequest {
    PublishRequest { idempotency_key: key.to_owned(), ..request("keys", body, HOUR) }
}

/// Until the limit is passed and the rest has missed the time for a first word.
async fn connect_without_a_word(site: &Site, count: &AtomicU64) {
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS + 10 {
        silent.push(TcpStream::connect(site.address()).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(silent);
    count.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
}
