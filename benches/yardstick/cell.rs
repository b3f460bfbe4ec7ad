//! What is measured: the cells, and what each compares.

use std::fmt;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Cell {
    /// Publish, kept for 60 seconds, 8 connections with 32 in flight each.
    Publish,
    /// The same, fire and forget.
    PublishForget,
    /// PublishStream, kept for 60 seconds, 8 connections with one stream each; noop answers calls of their own, 8 x 32.
    Stream,
    /// The same, fire and forget.
    StreamForget,
    /// Publish, one connection, one in flight.
    PublishAlone,
    /// Publish at half the rate that the broker reached, sent when due whether or not others are answered.
    PublishHalf,
    /// Fetch of what was just published, 8 connections with 32 in flight each.
    Fetch,
    /// 256 publishes in flight on one connection to one subscriber; counts deliveries.
    #[value(name = "fan-out-1")]
    FanOut1,
    /// 16 publishes in flight to 64 subscribers of one subject; counts deliveries.
    #[value(name = "fan-out-64", alias = "fan-out")]
    FanOut64,
    /// The same to 1,000 subscribers of one subject.
    #[value(name = "fan-out-1000")]
    FanOut1000,
    /// Publish to delivery with one subscriber, at half the rate that the broker reached.
    #[value(name = "delivery-1")]
    Delivery1,
    /// The same with 64 subscribers.
    #[value(name = "delivery-64")]
    Delivery64,
    /// The same with 1,000 subscribers.
    #[value(name = "delivery-1000")]
    Delivery1000,
    /// 100 fast subscribers, without and with a stalled and a slow one beside them.
    Slow,
    /// Memory of 10,000 subscribers on 1,000 connections to which nothing is published.
    Idle,
    /// Fetch of what only the embedded store has.
    FetchCold,
    /// Publish on 100 subjects, and on 1,000,000.
    Subjects,
}

/// One of the two, or the only one, that a cell measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The server that does nothing.
    Noop,
    /// The broker without what the cell is about.
    Without,
    /// The broker.
    Walcast,
    /// The disk, without a server: pwrite and fdatasync of 4 KiB in a file that was written before.
    Disk,
}

impl Cell {
    /// In the order in which they run.
    pub const ALL: [Self; 17] = [
        Self::Publish,
        Self::PublishForget,
        Self::Stream,
        Self::StreamForget,
        Self::PublishAlone,
        Self::PublishHalf,
        Self::Fetch,
        Self::FanOut1,
        Self::FanOut64,
        Self::FanOut1000,
        Self::Delivery1,
        Self::Delivery64,
        Self::Delivery1000,
        Self::Slow,
        Self::Idle,
        Self::FetchCold,
        Self::Subjects,
    ];

    /// The name in the tables and in the JSON file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish 8x32, 60 s",
            Self::PublishForget => "publish 8x32, 0 s",
            Self::Stream => "streams 8, 60 s",
            Self::StreamForget => "streams 8, 0 s",
            Self::PublishAlone => "publish 1x1, 60 s",
            Self::PublishHalf => "publish, half load",
            Self::Fetch => "fetch 8x32, hot",
            Self::FanOut1 => "fan-out to 1",
            Self::FanOut64 => "fan-out to 64",
            Self::FanOut1000 => "fan-out to 1000",
            Self::Delivery1 => "half load to 1",
            Self::Delivery64 => "half load to 64",
            Self::Delivery1000 => "half load to 1000",
            Self::Slow => "slow beside 100",
            Self::Idle => "idle subscribers",
            Self::FetchCold => "fetch 8x32, cold",
            Self::Subjects => "subjects, 8x32",
        }
    }

    /// What it compares: the first is what the last is measured by.
    pub const fn sides(self) -> &'static [Side] {
        match self {
            Self::Idle => &[Side::Walcast],
            Self::Slow | Self::Subjects => &[Side::Without, Side::Walcast],
            _ => &[Side::Noop, Side::Walcast],
        }
    }

    /// All that its figures are of.
    pub fn rows(self) -> impl Iterator<Item = Side> {
        self.sides().iter().copied().chain(self.counts_in_syncs().then_some(Side::Disk))
    }

    /// What a side is called.
    pub const fn side_name(self, side: Side) -> &'static str {
        match (self, side) {
            (Self::Slow, Side::Without) => "without",
            (Self::Slow, Side::Walcast) => "with",
            (Self::Subjects, Side::Without) => "few",
            (Self::Subjects, Side::Walcast) => "many",
            (Self::Stream | Self::StreamForget, Side::Noop) => "noop, calls",
            (_, Side::Noop) => "noop",
            (_, Side::Disk) => "fdatasync",
            (_, Side::Without | Side::Walcast) => "walcast",
        }
    }

    /// The cell whose rate, as the broker reached it in the same round, this one offers the half of.
    pub const fn half_of(self) -> Option<Self> {
        match self {
            Self::PublishHalf => Some(Self::Publish),
            Self::Delivery1 => Some(Self::FanOut1),
            Self::Delivery64 => Some(Self::FanOut64),
            Self::Delivery1000 => Some(Self::FanOut1000),
            _ => None,
        }
    }

    /// Subscribers that each message is delivered to; 1 where deliveries are not counted.
    pub const fn subscribers(self) -> usize {
        match self {
            Self::FanOut64 | Self::Delivery64 => 64,
            Self::FanOut1000 | Self::Delivery1000 => 1_000,
            _ => 1,
        }
    }

    /// Publishes in flight of a fan-out. With one subscriber a delivery costs no more than a publish, so there are as many as in
    /// the loads that only publish.
    pub const fn in_flight(self) -> usize {
        if matches!(self, Self::FanOut1) { 256 } else { 16 }
    }

    /// Whether its floor counts in fdatasyncs.
    pub const fn counts_in_syncs(self) -> bool {
        matches!(self, Self::PublishAlone | Self::PublishHalf)
    }

    /// Whether its servers are prepared once, at length, and then kept through all rounds.
    pub const fn keeps_servers(self) -> bool {
        matches!(self, Self::FetchCold | Self::Subjects)
    }

    /// Whether publishes carry the time to their subscribers.
    pub const fn is_timed(self) -> bool {
        matches!(self, Self::Delivery1 | Self::Delivery64 | Self::Delivery1000)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
