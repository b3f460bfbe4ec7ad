//! What is varied, and what is compared on the way.

use std::fmt;

use crate::client::Plan;
use crate::client::connect::{CONNECTIONS, IN_FLIGHT, SUBJECTS};
use crate::program::BODY_BYTES;

/// What is varied, while all else stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Axis {
    /// Where history goes, and whether calls go through Envoy.
    Stores,
    /// Bytes of a body.
    Size,
    /// Connections.
    Connections,
    /// Subjects that are published on.
    Subjects,
    /// Subscribers of one subject.
    Subscribers,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// The server that does nothing.
    Noop,
    /// The broker without a store.
    NoStore,
    /// With its default, the store in its own process.
    Embedded,
    /// With Postgres.
    Postgres,
    /// With Cassandra.
    Cassandra,
}

/// A system, and the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Side {
    /// Through Envoy.
    pub envoy: bool,
    /// Which.
    pub system: System,
}

/// Before all others that have a store of their own to get warm.
pub const CASSANDRA: Side = Side { envoy: false, system: System::Cassandra };

/// Calls in flight in all while the number of connections is varied: a share of them on each.
const IN_FLIGHT_IN_ALL: usize = 512;
/// Bytes of bodies in flight, at the most: of large messages there are fewer, or nothing but memory would be measured.
const BYTES_IN_FLIGHT: usize = 8 * 1024 * 1024;

/// A closed loop of publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// Calls on each of them.
    pub in_flight: usize,
    /// Of each body.
    pub body_bytes: usize,
    /// In turn.
    pub subjects: usize,
}

impl Axis {
    /// In the order of the page.
    pub const ALL: [Self; 5] = [Self::Stores, Self::Size, Self::Connections, Self::Subjects, Self::Subscribers];

    /// Where it is measured. Each is so many times the one before, so equal steps are a logarithmic scale.
    pub fn values(self, plan: &Plan) -> Vec<usize> {
        match self {
            Self::Stores => vec![0],
            Self::Size => vec![64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10],
            Self::Connections => vec![1, 8, 64, 512],
            Self::Subjects => vec![1, 100, 10_000, plan.scaled(1_000_000) as usize],
            Self::Subscribers => vec![1, 10, 100, 1_000],
        }
    }

    /// What is compared at each value.
    pub fn sides(self) -> Vec<Side> {
        if self != Self::Stores {
            return vec![Side { envoy: false, system: System::Noop }, Side { envoy: false, system: System::Embedded }];
        }
        [false, true].into_iter().flat_map(|envoy| System::ALL.map(|system| Side { envoy, system })).collect()
    }

    /// The publishes at a value.
    pub fn load(self, value: usize) -> Load {
        let base = Load { connections: CONNECTIONS, in_flight: IN_FLIGHT, body_bytes: BODY_BYTES, subjects: SUBJECTS };
        match self {
            Self::Stores | Self::Subscribers => base,
            Self::Size => {
                let in_flight = (BYTES_IN_FLIGHT / value / CONNECTIONS).clamp(1, IN_FLIGHT);
                Load { body_bytes: value, in_flight, ..base }
            }
            Self::Connections => Load { connections: value, in_flight: (IN_FLIGHT_IN_ALL / value).max(1), ..base },
            Self::Subjects => Load { subjects: value, ..base },
        }
    }

    /// A value as people write it.
    pub fn label(self, value: usize) -> String {
        match self {
            Self::Size if value < 1024 => format!("{value} B"),
            Self::Size => format!("{} KiB", value / 1024),
            // Thousands have commas, and all of these are round.
            _ if value < 1_000 => value.to_string(),
            _ => crate::pages::number(value as f64),
        }
    }

    /// What the values are.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Stores => "store",
            Self::Size => "size of a body",
            Self::Connections => "connections",
            Self::Subjects => "subjects",
            Self::Subscribers => "subscribers",
        }
    }

    /// What rates and costs are of.
    pub const fn counted(self) -> &'static str {
        if matches!(self, Self::Subscribers) { "deliveries" } else { "publishes" }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stores => "stores",
            Self::Size => "size",
            Self::Connections => "connections",
            Self::Subjects => "subjects",
            Self::Subscribers => "subscribers",
        })
    }
}

impl System {
    const ALL: [Self; 5] = [Self::Noop, Self::NoStore, Self::Embedded, Self::Postgres, Self::Cassandra];

    /// In tables and plots.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::NoStore => "none",
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
            Self::Cassandra => "cassandra",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.system.name(), if self.envoy { " through Envoy" } else { "" })
    }
}
