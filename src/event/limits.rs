//! Bounds that belong to the wire contract and the record format, each with its reason.
//! Bounds that operators set are in `config`.

/// Longest subject in bytes of UTF-8. From the contract; one byte of length in every index.
pub const SUBJECT_BYTES_MAX: usize = 255;

/// Longest idempotency key in bytes of UTF-8: what people make keys of (a UUID, a hash, a path) fits many times, and one
/// byte could count it. A key is written with its record, so it must stay small beside a body.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Longest `traceparent` that is kept, in bytes. Version 00 has 55; a later version may go on behind them, and has as much
/// again and more here. A longer one is ignored.
pub const TRACEPARENT_BYTES_MAX: usize = 128;

/// Largest id of a subject: the contract's `int32`.
pub const MESSAGE_ID_MAX: u32 = i32::MAX as u32;

/// Largest body that any configuration may allow, in bytes. A frame of the log holds at least one
/// record of this size, and a reader must be able to hold one frame in memory.
pub const BODY_BYTES_CEILING: usize = 16 * 1024 * 1024;

/// Bytes that a record adds to its texts and body at most: version byte, four lengths, id, time
/// and expiration.
pub const RECORD_OVERHEAD_BYTES: usize = 64;

/// Largest part of a record that is not its body, in bytes.
pub const RECORD_HEAD_BYTES_MAX: usize =
    RECORD_OVERHEAD_BYTES + SUBJECT_BYTES_MAX + IDEMPOTENCY_KEY_BYTES_MAX + TRACEPARENT_BYTES_MAX;
