//! The figures of all rounds, and the floors that they must keep.

use serde_json::{Value as Json, json};

use crate::cell::{Cell, Side};
use crate::figures::{Figure, Measured, Quantile, median};

/// What a cell must keep.
pub struct Floor {
    /// Number in the list of what is to be shown.
    pub item: u8,
    /// Whose figures they are.
    pub cell: Cell,
    /// In words.
    pub what: &'static str,
    value: Value,
    /// The bound.
    pub bound: Bound,
    /// Why this figure and this bound.
    pub reason: &'static str,
}

/// How a floor's value is made of the figures of a round; the median of the rounds counts, for what stands in one round met the
/// same weather on the machine.
#[derive(Debug, Clone, Copy)]
enum Value {
    /// The last side's as a part of the first side's.
    Ratio(Figure),
    /// The last side's above the first side's, in fdatasyncs of that quantile.
    Syncs(Figure, Quantile),
    /// The last side's.
    Plain(Figure),
}

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Memory that a load may add while two subscribers are behind: their ring of 8 MiB at most, two chunks of 256 KiB for each,
/// and what the allocator keeps of a load of some 8 MB.
const GROWTH_MAX_MIB: f64 = 24.0;

const P50: Figure = Figure::Call(Quantile::P50);
const P99: Figure = Figure::Call(Quantile::P99);
const DELIVERY_P99: Figure = Figure::Delivery(Quantile::P99);

/// In the order of the issue. What the whole is measured on: two cores, server and client together.
#[rustfmt::skip]
const FLOORS: [Floor; 21] = [
    floor(1, Cell::Publish, "rate, of noop's", Value::Ratio(Figure::Rate), Bound::AtLeast(0.80),
        "a durable publish costs little beside the transport"),
    floor(1, Cell::Publish, "server CPU a publish, of noop's", Value::Ratio(Figure::Cpu), Bound::AtMost(1.5),
        "the log and the store together take half of what the transport takes"),
    floor(1, Cell::PublishHalf, "p99 above noop's, in p99 of an fdatasync", Value::Syncs(P99, Quantile::P99), Bound::AtMost(2.0),
        "who just missed an fdatasync waits for two"),
    floor(1, Cell::PublishHalf, "answered at the offered rate", Value::Plain(Figure::Kept), Bound::AtLeast(KEPT_MIN), KEPT_REASON),
    floor(1, Cell::PublishAlone, "p50 above noop's, in p50 of an fdatasync", Value::Syncs(P50, Quantile::P50), Bound::AtMost(1.3),
        "one fdatasync that overwrites, and three tenths of one for all else"),
    floor(2, Cell::Stream, "messages/s, of noop's calls/s", Value::Ratio(Figure::Rate), Bound::AtLeast(5.0), STREAM_REASON),
    floor(2, Cell::StreamForget, "messages/s, of noop's calls/s", Value::Ratio(Figure::Rate), Bound::AtLeast(5.0), STREAM_REASON),
    floor(3, Cell::FanOut1, "deliveries/s, of noop's", Value::Ratio(Figure::Rate), Bound::AtLeast(0.9), FAN_OUT_REASON),
    floor(3, Cell::FanOut64, "deliveries/s, of noop's", Value::Ratio(Figure::Rate), Bound::AtLeast(0.9), FAN_OUT_REASON),
    floor(3, Cell::FanOut1000, "deliveries/s, of noop's", Value::Ratio(Figure::Rate), Bound::AtLeast(0.9), FAN_OUT_REASON),
    floor(3, Cell::Delivery1, "answered at the offered rate", Value::Plain(Figure::Kept), Bound::AtLeast(KEPT_MIN), KEPT_REASON),
    floor(3, Cell::Delivery64, "answered at the offered rate", Value::Plain(Figure::Kept), Bound::AtLeast(KEPT_MIN), KEPT_REASON),
    floor(3, Cell::Delivery1000, "answered at the offered rate", Value::Plain(Figure::Kept), Bound::AtLeast(KEPT_MIN), KEPT_REASON),
    floor(4, Cell::Slow, "publish p99, of that without", Value::Ratio(P99), Bound::AtMost(1.1), SLOW_REASON),
    floor(4, Cell::Slow, "p99 of fast deliveries, of that without", Value::Ratio(DELIVERY_P99), Bound::AtMost(1.1), SLOW_REASON),
    floor(4, Cell::Slow, "memory that the load adds, MiB", Value::Plain(Figure::Growth), Bound::AtMost(GROWTH_MAX_MIB),
        "who reads slowly costs its place in the log, not memory"),
    floor(4, Cell::Slow, "answered at the offered rate", Value::Plain(Figure::Kept), Bound::AtLeast(KEPT_MIN), KEPT_REASON),
    floor(5, Cell::Idle, "KiB a subscriber, connections included", Value::Plain(Figure::Subscriber), Bound::AtMost(64.0),
        "100,000 subscribers fit into a small machine"),
    floor(5, Cell::Subjects, "server CPU a publish, of that with 100 subjects", Value::Ratio(Figure::Cpu), Bound::AtMost(1.3),
        "a subject costs memory, and next to no time"),
    floor(9, Cell::Fetch, "rate, of noop's", Value::Ratio(Figure::Rate), Bound::AtLeast(0.9),
        "a message in memory is encoded already"),
    floor(9, Cell::FetchCold, "rate, of noop's", Value::Ratio(Figure::Rate), Bound::AtLeast(0.5),
        "a read of the store costs as much as its transport"),
];

const STREAM_REASON: &str = "a message of a stream costs no headers, no task and no wake-up of its own";
const FAN_OUT_REASON: &str = "a message is encoded once, whoever gets it";
const SLOW_REASON: &str = "who reads slowly costs others nothing; a tenth is what such percentiles spread by";
/// A queue that grew all the time would end in a longer run.
const KEPT_MIN: f64 = 0.95;
const KEPT_REASON: &str = "the load was the half that it is called";

const fn floor(item: u8, cell: Cell, what: &'static str, value: Value, bound: Bound, reason: &'static str) -> Floor {
    Floor { item, cell, what, value, bound, reason }
}

impl Floor {
    /// Whether a broker that stands still most of the time must break it: rates and high percentiles, not CPU, memory or medians.
    pub fn finds_pauses(&self) -> bool {
        let (Value::Ratio(figure) | Value::Syncs(figure, _)) = self.value else { return false };
        [Figure::Rate, P99, DELIVERY_P99].contains(&figure)
    }
}

/// What of the issue has a command of its own.
pub const ELSEWHERE: &str = "\
elsewhere: 6 (catch-up of one subject): make bench-catch-up; 7 (restarts with subscribers that resume): make resume; \
8 (publishes that are retried): make retries";

/// Whether a floor of this cell does.
pub fn finds_pauses(cell: Cell) -> bool {
    FLOORS.iter().any(|floor| floor.cell == cell && floor.finds_pauses())
}

/// A run of one side of a cell.
struct Run {
    round: usize,
    cell: Cell,
    side: Side,
    measured: Measured,
}

/// The figures of all rounds.
pub struct Report {
    /// In the order of the tables.
    pub cells: Vec<Cell>,
    runs: Vec<Run>,
}

impl Report {
    /// An empty one for these cells.
    pub fn new(cells: Vec<Cell>) -> Self {
        Self { cells, runs: Vec::new() }
    }

    /// Adds a round's figures.
    pub fn add(&mut self, round: usize, cell: Cell, side: Side, measured: Measured) {
        self.runs.push(Run { round, cell, side, measured });
    }

    /// A figure of one round.
    pub fn of_round(&self, round: usize, cell: Cell, side: Side, figure: Figure) -> Option<f64> {
        let run = self.runs.iter().find(|run| (run.round, run.cell, run.side) == (round, cell, side))?;
        run.measured.get(figure)
    }

    /// A figure of all rounds that have it, in their order.
    pub fn values(&self, cell: Cell, side: Side, figure: Figure) -> Vec<f64> {
        let of_side = self.runs.iter().filter(|run| (run.cell, run.side) == (cell, side));
        of_side.filter_map(|run| run.measured.get(figure)).collect()
    }

    /// Its median, if any round has it.
    pub fn median(&self, cell: Cell, side: Side, figure: Figure) -> Option<f64> {
        let values = self.values(cell, side, figure);
        (!values.is_empty()).then(|| median(values))
    }

    /// The median of the rounds' ratios of a figure: the last side's as a part of the first's. None where either has none.
    pub fn ratio(&self, cell: Cell, figure: Figure) -> Option<f64> {
        let (first, last) = (cell.sides().first()?, cell.sides().last()?);
        let (first, last) = (self.values(cell, *first, figure), self.values(cell, *last, figure));
        let ratios: Vec<f64> = last.iter().zip(first).map(|(last, first)| last / first).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }

    /// The floors of the cells that were measured.
    pub fn floors(&self) -> impl Iterator<Item = &'static Floor> {
        FLOORS.iter().filter(|floor| self.cells.contains(&floor.cell))
    }

    /// The median of a floor's value over the rounds.
    pub fn value(&self, floor: &Floor) -> f64 {
        let mut rounds: Vec<usize> = self.runs.iter().map(|run| run.round).collect();
        rounds.sort_unstable();
        rounds.dedup();
        median(rounds.into_iter().filter_map(|round| self.value_in(round, floor)).collect())
    }

    fn value_in(&self, round: usize, floor: &Floor) -> Option<f64> {
        let sides = floor.cell.sides();
        let first = |figure| self.of_round(round, floor.cell, *sides.first()?, figure);
        let last = |figure| self.of_round(round, floor.cell, *sides.last()?, figure);
        Some(match floor.value {
            Value::Ratio(figure) => last(figure)? / first(figure)?,
            Value::Syncs(figure, quantile) => {
                let sync = self.of_round(round, floor.cell, Side::Disk, Figure::Call(quantile))?;
                (last(figure)? - first(figure)?) / sync
            }
            Value::Plain(figure) => last(figure)?,
        })
    }

    /// Whether a floor holds; one without a value does not.
    pub fn holds(&self, floor: &Floor) -> bool {
        let value = self.value(floor);
        match floor.bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }

    /// One sentence for each floor that a hampered broker should have broken and has not.
    pub fn not_found_out(&self) -> Vec<String> {
        self.floors()
            .filter(|floor| floor.finds_pauses() && self.holds(floor))
            .map(|floor| format!("{}: {} holds for a broker that stands still", floor.cell, floor.what))
            .collect()
    }

    /// One sentence for each floor that does not hold.
    pub fn beyond_floors(&self) -> Vec<String> {
        self.floors()
            .filter(|floor| !self.holds(floor))
            .map(|floor| format!("{}: {} is beyond its floor", floor.cell, floor.what))
            .collect()
    }

    /// Every round's figures, and what became of the floors.
    pub fn json(&self) -> Json {
        let figures: Vec<Json> = self
            .runs
            .iter()
            .map(|run| {
                let mut fields = serde_json::Map::new();
                fields.insert("round".to_owned(), run.round.into());
                fields.insert("load".to_owned(), run.cell.name().into());
                fields.insert("system".to_owned(), run.cell.side_name(run.side).into());
                fields.extend(run.measured.all().map(|(figure, value)| (figure.key(), value.into())));
                fields.into()
            })
            .collect();
        let floors: Vec<Json> = self
            .floors()
            .map(|floor| {
                json!({
                    "item": floor.item, "load": floor.cell.name(), "what": floor.what, "value": self.value(floor),
                    "bound": floor.bound.to_string(), "kept": self.holds(floor),
                })
            })
            .collect();
        json!({ "figures": figures, "floors": floors })
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(formatter, "at least {bound}"),
            Self::AtMost(bound) => write!(formatter, "at most {bound}"),
        }
    }
}
