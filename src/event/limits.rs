//! Bounds that belong to the wire contract and the record format, each with its reason.
//! Bounds that operators set are in `config`.

/// Longest subject in bytes of UTF-8. From the contract; one byte of length in every index.
pub const SUBJECT_BYTES_MAX: usize = 255;

/// Largest id of a subject: the contract's `int32`.
pub const MESSAGE_ID_MAX: u32 = i32::MAX as u32;

/// Largest body that any configuration may allow, in bytes. A frame of the log holds at least one
/// record of this size, and a reader must be able to hold one frame in memory.
pub const BODY_BYTES_CEILING: usize = 16 * 1024 * 1024;

/// Bytes that a record adds to its subject and body at most: version byte, two lengths, id, two times
/// and the expiration.
pub const RECORD_OVERHEAD_BYTES: usize = 64;
