//! A message: its id, its life time and its parts.

use std::fmt;
use std::num::NonZeroU32;

use bytes::Bytes;

use super::limits::MESSAGE_ID_MAX;
use super::record::Record;
use super::{IdempotencyKey, Subject, Traceparent, UnixMicros};

/// The id of a message on its subject: 1 to 2^31 - 1, dense, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(NonZeroU32);

impl MessageId {
    /// The last id that a subject can have.
    pub const MAX: Self = Self(NonZeroU32::MIN.saturating_add(MESSAGE_ID_MAX - 1));

    /// The id `value`, if it is in 1..=2^31 - 1.
    pub const fn new(value: u32) -> Option<Self> {
        match NonZeroU32::new(value) {
            Some(id) if value <= MESSAGE_ID_MAX => Some(Self(id)),
            _ => None,
        }
    }

    /// The id of a wire value, if it is at least 1.
    pub fn from_wire(value: i32) -> Option<Self> {
        u32::try_from(value).ok().and_then(Self::new)
    }

    /// The number itself, 1 to 2^31 - 1.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// As the contract's `int32`.
    pub const fn to_wire(self) -> i32 {
        self.get() as i32
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How long `Fetch` finds a message after it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiration(u32);

impl Expiration {
    /// Logged and delivered, never fetched.
    pub const FIRE_AND_FORGET: Self = Self(0);

    /// The contract's `expirationSeconds`: None if it is negative.
    pub fn from_wire(seconds: i32) -> Option<Self> {
        u32::try_from(seconds).ok().map(Self)
    }

    /// Seconds, 0 to 2^31 - 1.
    pub const fn seconds(self) -> u32 {
        self.0
    }

    /// Whether `Fetch` can never find the message.
    pub const fn is_fire_and_forget(self) -> bool {
        self.0 == 0
    }

    /// When a message published at `published_at` expires. From that instant on it is expired.
    pub const fn expires_at(self, published_at: UnixMicros) -> UnixMicros {
        published_at.plus_seconds(self.0)
    }
}

/// One published message with everything the broker knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its subject.
    pub subject: Subject,
    /// Its id on the subject.
    pub id: MessageId,
    /// When the broker took it.
    pub published_at: UnixMicros,
    /// How long `Fetch` finds it.
    pub expiration: Expiration,
    /// What made a retry of its publish known as one.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Its publisher's place in a trace.
    pub traceparent: Option<Traceparent>,
    /// Its body, byte for byte as published.
    pub body: Bytes,
}

impl Message {
    /// The record of it.
    pub fn record(&self) -> Record<'_> {
        Record {
            subject: self.subject.as_str(),
            id: self.id,
            published_at: self.published_at,
            expiration: self.expiration,
            idempotency_key: self.idempotency_key.as_ref().map(IdempotencyKey::as_str),
            traceparent: self.traceparent.as_ref().map(Traceparent::as_str),
            body: &self.body,
        }
    }
}
