//! Fetch: one message by subject and id, from memory, from the log or from the store, in this order.
//!
//! Owns the hot tail: recent messages in memory. What falls out of it is found in the log through the index, and what
//! the log no longer has is in the store. So a publisher reads its own write whatever the store does.
//!
//! Owns also the reading of a subject's history for subscribers (`history`), which `delivery` asks for through a trait.
//!
//! Must never call a message expired or never published on a doubt: an index that is not complete, or a store that
//! cannot tell, is an error.

mod history;
mod hot_tail;
mod outage;
mod service;

pub use history::SubjectHistory;
pub use hot_tail::{HotMessage, HotTail};
pub use service::{Fetch, FetchError};
