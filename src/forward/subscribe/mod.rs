//! Subscriptions on other nodes' subjects.
//!
//! Each begins with a stream of its own at the owner, which knows what the subscriber is to get: the headers of the answer
//! mean that it is subscribed there. A stream that has come to the end of its subject becomes the feed of all subscribers of
//! that subject here: its messages go into one ring, as the owner's encoded bytes, and each subscriber has a place in it.
//! Others that come to where the feed is go over to it, and end theirs. Who reads too slowly for the ring gets a stream of its own
//! again, which the owner serves from its history at the reader's pace.
//!
//! # Why nothing is missed and nothing comes twice
//!
//! `settled` rises only, and an id is handed out only if it is above `settled`. A subscriber goes over to a ring at a place that
//! it was given when the feed had pushed up to `through` (both under the ring's lock), and only once `settled` is not
//! below `through`: what is above is in the ring or comes there, unless the place was lost, which the ring tells. A stream of its own
//! that is opened later asks for everything above `settled`, expired or not, as the owner itself does for one of its slow subscribers.

mod feed;
mod stream;
mod upstream;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use stream::ForwardedSubscription;
pub use upstream::{OWED_AFTER, SUBSCRIBED_AT};

use super::{ForwardError, Owner};
use crate::event::Subject;
use crate::telemetry::metrics::ForwardMetrics;
use feed::Feed;
use upstream::Upstream;

/// How subscriptions are bounded. Operators set these as `limits.*`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Subscriptions at once (`limits.subscribers`).
    pub subscribers_max: usize,
    /// Unread bytes of one subject (`limits.subscriber_bytes`).
    pub subscriber_bytes_max: usize,
    /// Unread bytes of all subjects together (`limits.delivery_bytes`).
    pub delivery_bytes_max: usize,
}

/// A subscription that is to be passed on.
#[derive(Debug)]
pub struct Ask {
    /// The caller's metadata: all of it goes on.
    pub headers: HeaderMap,
    /// When the caller gives up waiting for the subscription.
    pub deadline: Option<Instant>,
    /// The subject.
    pub subject: Subject,
    /// Where it resumes, if it does.
    pub after: Option<u32>,
    /// The request with its prefix of five bytes.
    pub framed: Bytes,
}

/// Why there is no subscription.
#[derive(Debug)]
pub enum Refusal {
    /// The owner refused it.
    Owner(Status),
    /// The owner did not answer.
    Forward(ForwardError),
    /// This node has as many as it may.
    TooMany {
        /// The limit.
        max: usize,
    },
}

/// How a stream ends.
#[derive(Debug, Clone)]
pub enum End {
    /// As the owner ended it.
    Owner(Status),
    /// The owner was lost.
    Lost(String),
    /// What comes next is not what must come next.
    Contradiction(String),
    /// This node is shutting down.
    ShuttingDown,
}

/// All subscriptions on other nodes' subjects.
pub(super) struct Subscriptions {
    config: Config,
    feeds: Mutex<HashMap<Box<str>, Arc<Feed>>>,
    /// Unread bytes of all feeds.
    bytes: AtomicUsize,
    subscribers: AtomicUsize,
    closing: CancellationToken,
    metrics: ForwardMetrics,
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Subscriptions").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Subscriptions {
    pub fn new(config: Config, metrics: ForwardMetrics) -> Arc<Self> {
        Arc::new(Self {
            config,
            feeds: Mutex::default(),
            bytes: AtomicUsize::new(0),
            subscribers: AtomicUsize::new(0),
            closing: CancellationToken::new(),
            metrics,
        })
    }

    /// Subscribes at the owner. Once this returns, everything that is published is delivered.
    pub async fn subscribe(self: &Arc<Self>, owner: &Owner, ask: Ask) -> Result<ForwardedSubscription, Refusal> {
        let counted = self.count()?;
        let Ask { headers, deadline, subject, after, framed } = ask;
        let opened = Upstream::open(owner, headers, deadline, framed).await.map_err(Refusal::Forward)?;
        let (upstream, known) = opened.map_err(Refusal::Owner)?;
        Ok(ForwardedSubscription::new(counted, owner.clone(), subject, upstream, after.unwrap_or(known), known))
    }

    /// Ends all streams, each once it has read what is in its ring; none begins any more.
    pub fn close(&self) {
        self.closing.cancel();
    }

    fn count(self: &Arc<Self>) -> Result<Counted, Refusal> {
        let max = self.config.subscribers_max;
        let before = self.subscribers.fetch_add(1, Ordering::Relaxed);
        self.metrics.subscribers.inc();
        let counted = Counted(Arc::clone(self));
        if before >= max { Err(Refusal::TooMany { max }) } else { Ok(counted) }
    }
}

/// A subscription that counts until it is dropped.
#[derive(Debug)]
struct Counted(Arc<Subscriptions>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.subscribers.dec();
    }
}
