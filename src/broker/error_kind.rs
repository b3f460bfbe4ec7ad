//! What a failure means for whoever started the broker.

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something on the disk is damaged, missing or another's.
    Damaged,
    /// Another process uses the data directory.
    InUse,
    /// The settings do not fit what they meet.
    Configuration,
    /// Everything else.
    Failed,
}
