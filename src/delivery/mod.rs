//! Delivery: durable messages to whoever is subscribed.
//!
//! Owns the subscriptions, the ring of unread messages of each subject that has subscribers, and the fan-out. Who is
//! behind reads history, which another room keeps ([`History`]), and goes live where nothing is missed or comes twice
//! (`hand_over`).
//!
//! Must never block ingest, and never read a database for a live message.

mod fanout;
mod hand_over;
mod history;
mod readers;
mod registry;
mod ring;
mod subscription;

pub use fanout::{Delivery, Fanout, Live, Moved, Start};
pub use history::{Ask, Chunk, FromLog, History, HistoryError};
pub use readers::Readers;
pub use registry::SubscribeError;
pub use ring::{Place, Ring, Taken, Unread};
pub use subscription::{StreamEnd, Subscription};

/// How delivery is set. Operators set these as `limits.*`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Subscriptions at once.
    pub subscribers_max: usize,
    /// Unread bytes that a subscriber may be behind; further behind, it is served from history.
    pub subscriber_bytes_max: usize,
    /// Unread bytes of all subjects together.
    pub delivery_bytes_max: usize,
}

#[cfg(test)]
mod tests;
