//! Positions in the log, each a type of its own so that one cannot stand in for another.
//!
//! Always `trimmed <= projected <= durable <= appended`, and for each subscriber `delivered <= durable`.

use std::fmt;

/// The number of a record in the log: dense, from 1, never reused. 0 means "before the first record".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(u64);

impl Sequence {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The sequence with this number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sequence `count` records further on. A log would take 500,000 years to overflow at 1 M records/s.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// The sequence that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The sequence before this one; [`Sequence::ZERO`] stays where it is.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub Sequence);

        impl $name {
            /// The sequence at this position.
            pub const fn sequence(self) -> Sequence {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

position! {
    /// The last record whose fdatasync has returned 0. Acks, delivery and readers stop here.
    Durable
}
position! {
    /// The last record that the store has committed, or that needs no store.
    Projected
}
position! {
    /// The last record that the log no longer holds.
    Trimmed
}
