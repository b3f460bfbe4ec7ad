//! Fetch: one message by subject and id, from memory or from the store.
//!
//! Owns the hot tail: recent messages, and every message that is not projected yet. So a publisher reads its
//! own write whatever the store does.
//!
//! Must never call a message expired or never published on a doubt: a store that cannot tell is an error.

mod hot_tail;
mod service;

pub use hot_tail::{HotMessage, HotTail};
pub use service::{Fetch, FetchError, Lacking};
