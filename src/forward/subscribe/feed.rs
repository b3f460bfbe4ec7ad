//! The one stream of a subject that all its subscribers here share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::upstream::Upstream;
use super::{End, Subscriptions};
use crate::delivery::{Place, Ring, Taken, Unread};
use crate::event::{EncodedMessage, Subject};

/// Messages that are pushed at once, so that a ring's lock is taken once for what one read of the socket brings.
const PUSHED_AT_ONCE: usize = 64;

/// A feed of one subject.
#[derive(Debug)]
pub(super) struct Feed {
    ring: Mutex<Ring>,
    /// The last id in the ring, ever; written under its lock.
    pushed: AtomicU32,
    end: OnceLock<End>,
    /// Nobody is subscribed any more.
    deserted: CancellationToken,
}

/// A subscriber's place at a feed, left when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    subscriptions: Arc<Subscriptions>,
    subject: Subject,
    feed: Arc<Feed>,
    place: Place,
}

/// What a subscriber finds when it looks for a feed.
pub(super) enum Found {
    /// A seat, from which everything above `through` can be read.
    Seat {
        /// The seat.
        seat: Seat,
        /// What the feed had brought already.
        through: u32,
    },
    /// A feed whose end is far from where the subscriber is.
    Far,
    /// None.
    Nothing,
}

impl Subscriptions {
    /// A seat at the feed of the subject, unless that is more than `near` ids ahead of `settled`: the ring would only keep for
    /// the subscriber what it cannot keep for so long.
    pub(super) fn find(self: &Arc<Self>, subject: &Subject, settled: u32, near: u32) -> Found {
        let feeds = self.feeds.lock();
        let Some(feed) = feeds.get(subject.as_str()).filter(|feed| feed.end.get().is_none()) else {
            return Found::Nothing;
        };
        if feed.pushed.load(Ordering::Relaxed).saturating_sub(settled) > near {
            return Found::Far;
        }
        // Joined under the lock of the map, so that a feed with a subscriber is never taken for deserted.
        let (place, through) = {
            let mut ring = feed.ring.lock();
            (ring.join(), feed.pushed.load(Ordering::Relaxed))
        };
        let seat = Seat { subscriptions: Arc::clone(self), subject: subject.clone(), feed: Arc::clone(feed), place };
        Found::Seat { seat, through }
    }

    /// Makes a stream the feed of its subject from `settled` on, unless there is one by now, and returns a seat.
    pub(super) fn promote(
        self: &Arc<Self>,
        subject: &Subject,
        settled: u32,
        upstream: Box<Upstream>,
    ) -> Result<Seat, Box<Upstream>> {
        let mut feeds = self.feeds.lock();
        if feeds.get(subject.as_str()).is_some_and(|feed| feed.end.get().is_none()) {
            return Err(upstream);
        }
        let feed = Arc::new(Feed {
            ring: Mutex::default(),
            pushed: AtomicU32::new(settled),
            end: OnceLock::new(),
            deserted: CancellationToken::new(),
        });
        let place = {
            let mut ring = feed.ring.lock();
            let place = ring.join();
            ring.go_live(place, settled);
            place
        };
        feeds.insert(subject.as_str().into(), Arc::clone(&feed));
        drop(feeds);
        self.metrics.feeds.inc();
        let running = run(Arc::clone(self), subject.clone(), Arc::clone(&feed), upstream);
        #[expect(clippy::disallowed_methods, reason = "it ends with its last subscriber, its stream, or the broker")]
        drop(tokio::spawn(running));
        Ok(Seat { subscriptions: Arc::clone(self), subject: subject.clone(), feed, place })
    }

    fn remove(&self, subject: &Subject, feed: &Arc<Feed>) {
        let mut feeds = self.feeds.lock();
        if feeds.get(subject.as_str()).is_some_and(|found| Arc::ptr_eq(found, feed)) {
            feeds.remove(subject.as_str());
        }
    }

    fn push(&self, feed: &Feed, messages: Vec<Unread>) {
        let Some(last) = messages.last().map(|message| message.id.get()) else { return };
        let mut wakers = Vec::new();
        self.with_ring(feed, |ring| {
            ring.push(messages.into_iter(), self.config.subscriber_bytes_max, &mut wakers);
            feed.pushed.store(last, Ordering::Relaxed);
        });
        // Outside the lock: whoever wakes up wants it.
        wakers.into_iter().for_each(Waker::wake);
        if self.bytes.load(Ordering::Relaxed) > self.config.delivery_bytes_max {
            self.relieve();
        }
    }

    /// Works on a ring and keeps the count of unread bytes.
    fn with_ring<T>(&self, feed: &Feed, work: impl FnOnce(&mut Ring) -> T) -> T {
        let mut ring = feed.ring.lock();
        let before = ring.bytes();
        let result = work(&mut ring);
        let after = ring.bytes();
        // Before others can give back what is added here.
        match after.checked_sub(before) {
            Some(more) => self.bytes.fetch_add(more, Ordering::Relaxed),
            None => self.bytes.fetch_sub(before - after, Ordering::Relaxed),
        };
        result
    }

    /// Evicts the subjects that hold most: at least the mean of all. Their slow subscribers get streams of their own.
    fn relieve(&self) {
        let feeds: Vec<_> = self.feeds.lock().values().cloned().collect();
        feeds.iter().for_each(|feed| self.with_ring(feed, Ring::drop_read));
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes <= self.config.delivery_bytes_max {
            return;
        }
        let mean = bytes / feeds.len().max(1);
        for feed in feeds {
            self.with_ring(&feed, |ring| {
                if ring.bytes() >= mean {
                    ring.evict_all();
                }
            });
        }
    }
}

/// Brings what the stream has until that ends, or nobody is subscribed.
async fn run(subscriptions: Arc<Subscriptions>, subject: Subject, feed: Arc<Feed>, upstream: Box<Upstream>) {
    let mut batches = upstream.ready_chunks(PUSHED_AT_ONCE);
    let end = loop {
        let batch = tokio::select! {
            () = feed.deserted.cancelled() => break End::ShuttingDown,
            () = subscriptions.closing.cancelled() => break End::ShuttingDown,
            batch = batches.next() => batch.unwrap_or_default(),
        };
        let mut end = None;
        let messages = batch.into_iter().map_while(|item| match item {
            Ok((id, encoded)) => Some(Unread { id, encoded }),
            Err(ended) => {
                end = Some(ended);
                None
            }
        });
        let messages: Vec<_> = messages.collect();
        let ended_silently = messages.is_empty() && end.is_none();
        subscriptions.push(&feed, messages);
        if ended_silently {
            break End::Lost("the stream of the subject ended".to_owned());
        }
        if let Some(end) = end {
            break end;
        }
    };
    subscriptions.metrics.feeds.dec();
    // In this order: who finds an end finds no feed to sit at, and who waits finds the end.
    drop(feed.end.set(end));
    subscriptions.remove(&subject, &feed);
    let mut wakers = Vec::new();
    feed.ring.lock().wake_all(&mut wakers);
    wakers.into_iter().for_each(Waker::wake);
}

impl Seat {
    /// Begins to read above `settled`. False if what comes next is not in the ring any more.
    pub fn go_live(&self, settled: u32) -> bool {
        self.subscriptions.with_ring(&self.feed, |ring| ring.go_live(self.place, settled))
    }

    /// Takes what is there, or leaves the waker.
    pub fn take(&self, count: usize, bytes: usize, waker: &Waker, into: &mut VecDeque<EncodedMessage>) -> Taken {
        self.subscriptions.with_ring(&self.feed, |ring| ring.take(self.place, count, bytes, waker, into))
    }

    /// How the feed ended, if it has.
    pub fn end(&self) -> Option<&End> {
        self.feed.end.get()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut feeds = self.subscriptions.feeds.lock();
        let last = self.subscriptions.with_ring(&self.feed, |ring| {
            ring.leave(self.place);
            ring.subscribers() == 0
        });
        if last {
            let name = self.subject.as_str();
            if feeds.get(name).is_some_and(|found| Arc::ptr_eq(found, &self.feed)) {
                feeds.remove(name);
            }
            self.feed.deserted.cancel();
        }
    }
}
