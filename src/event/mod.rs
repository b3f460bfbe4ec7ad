//! The event types: what every other room speaks about.
//!
//! Owns validated names ([`Subject`]) and the slots in which they are shared out ([`SlotSet`]), keys ([`IdempotencyKey`]),
//! places in a trace ([`Traceparent`]), numbers ([`MessageId`], [`Sequence`] and the positions built
//! from it), times ([`UnixMicros`]), the record as it is stored in the log ([`record`]) and the
//! message as it goes over the wire ([`EncodedMessage`]).
//!
//! Must never: touch a file, a socket or a clock other than through [`clock`].

pub mod clock;
mod encoded;
mod idempotency_key;
pub mod limits;
mod message;
mod position;
pub mod record;
mod slot_set;
mod slots;
mod subject;
mod traceparent;

pub use clock::UnixMicros;
pub use encoded::EncodedMessage;
pub use idempotency_key::{IdempotencyKey, IdempotencyKeyError};
pub use message::{Expiration, Message, MessageId};
pub use position::{Durable, Projected, Sequence, Trimmed};
pub use slot_set::{SlotSet, SlotSetError};
pub use slots::{SLOTS, Slot, slot_of};
pub use subject::{Subject, SubjectError};
pub use traceparent::Traceparent;
