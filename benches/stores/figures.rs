//! What is measured: one list of values for each figure and store, a value a round.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// A store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
pub enum Kind {
    /// In the broker's own process.
    Embedded,
    /// One server.
    Postgres,
    /// One node.
    Cassandra,
}

impl Kind {
    /// In the order of the tables.
    pub const ALL: [Self; 3] = [Self::Embedded, Self::Postgres, Self::Cassandra];

    /// As in `store.kind`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
            Self::Cassandra => "cassandra",
        }
    }

    /// As people write it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Embedded => "Embedded",
            Self::Postgres => "Postgres",
            Self::Cassandra => "Cassandra",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A figure. The unit is in the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Figure {
    ProjectionSmallRowsPerSecond,
    ProjectionLargeRowsPerSecond,
    DiskSmallBytesPerMessage,
    DiskLargeBytesPerMessage,
    CatchUpMessagesPerSecond,
    FetchColdP50Micros,
    FetchColdP99Micros,
    FetchColdDiskBytes,
    FetchWarmP50Micros,
    FetchWarmP99Micros,
    FetchWarmDiskBytes,
    FetchExpiredP50Micros,
    PublishRate,
    HalfLoadRate,
    LagP50Millis,
    LagP99Millis,
    BrokerCpuSecondsPerMillion,
    DatabaseCpuSecondsPerMillion,
    CalmPublishP50Micros,
    CalmPublishP99Micros,
    KilledPublishP50Micros,
    KilledPublishP99Micros,
    KilledPublishPercent,
    KilledBacklogMessages,
    NoticeSeconds,
    DrainSeconds,
    DrainRatio,
    Setbacks,
    ExpirySeconds,
    ExpiryCpuSeconds,
    ExpiryMiBBefore,
    ExpiryMiBAfter,
    ExpiryFetchP99BeforeMicros,
    ExpiryFetchP99DuringMicros,
}

/// All that was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// Whether the sizes were too small for figures that mean something.
    pub quick: bool,
    /// Machine, versions and settings: what, and which.
    pub settings: Vec<(String, String)>,
    /// The values, in the order of the rounds.
    pub figures: BTreeMap<Figure, BTreeMap<Kind, Vec<f64>>>,
    /// Messages that wait for a database that was killed: seconds since the load began, and how many, in the first round.
    #[serde(default)]
    pub backlogs: BTreeMap<Kind, Vec<(f64, f64)>>,
    /// How many rows expired at once.
    #[serde(default)]
    pub expiring_rows: u64,
}

impl Results {
    /// Adds the value of a round.
    pub fn add(&mut self, kind: Kind, figure: Figure, value: f64) {
        self.figures.entry(figure).or_default().entry(kind).or_default().push(value);
    }

    /// The value of the last round.
    pub fn last(&self, kind: Kind, figure: Figure) -> Option<f64> {
        self.figures.get(&figure)?.get(&kind)?.last().copied()
    }

    /// The values of a figure; None where it was not measured.
    pub fn of(&self, kind: Kind, figure: Figure) -> Option<Spread> {
        Spread::of(self.figures.get(&figure)?.get(&kind)?)
    }

    /// Reads what an earlier run has written.
    ///
    /// # Errors
    /// A file that is not there, cannot be read, or has another form.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Keeps it for another report.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        Ok(fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }
}

/// Values of the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let median = quantile(&values, 0.5)?;
        Some(Self { median, least: *values.first()?, greatest: *values.last()? })
    }
}

/// The value below which a share of the sorted `values` lies; None if there are none.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    values.get((last as f64 * share).round() as usize).copied()
}
