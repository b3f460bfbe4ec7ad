//! contract.md as tests: every sentence, every line of its tables, every case that clients exercise.
//!
//! Shown elsewhere: acks wait for fdatasync (`sync_before_ack`), nothing acknowledged is lost (`kill_nine`),
//! ids end at 2^31 - 1 (unit tests of the rooms; two thousand million publishes take too long here).

mod bad_calls;
mod bounds;
mod edge;
mod fetch;
mod flood;
mod hostile_frames;
mod idempotency;
mod publish;
mod publish_stream;
mod resume;
mod shutdown;
mod slow_subscribers;
mod subscribe;
mod traceparent;
