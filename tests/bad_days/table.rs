//! What a row is, what it saw, and how it is shown.

use futures_util::future::BoxFuture;

use crate::history::Comparison;
use crate::ledger::Deliveries;

/// Which run of a row it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Whether there is time: `make bad-days`.
    pub thorough: bool,
    /// What is done on purpose so that the judgement must fail; None for the row itself.
    pub control: Option<Control>,
}

/// Something that the judgement must not let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// A row is deleted afterwards.
    RowDeleted,
    /// Another row is written under a key that is there.
    RowDoubled,
    /// A body is changed by one byte.
    RowAltered,
    /// A publish that the broker must refuse is among them.
    PublishRefused,
    /// The broker is frozen for two seconds.
    BrokerFrozen,
    /// A follower does not see a message.
    DeliveryDropped,
    /// A follower sees a message twice.
    DeliveryTwice,
    /// Fetch asks for what nobody published.
    FetchAstray,
    /// The database stays slow.
    SlowDatabase,
    /// The broker moves the store's position before the rows, and crashes between them.
    Forgetting,
}

impl Control {
    /// What is done.
    pub fn name(self) -> &'static str {
        match self {
            Self::RowDeleted => "a row deleted",
            Self::RowDoubled => "a row doubled",
            Self::RowAltered => "a byte altered",
            Self::PublishRefused => "a publish refused",
            Self::BrokerFrozen => "the broker frozen for 2 s",
            Self::DeliveryDropped => "a delivery dropped",
            Self::DeliveryTwice => "a delivery twice",
            Self::FetchAstray => "a Fetch astray",
            Self::SlowDatabase => "a database that stays slow",
            Self::Forgetting => "a broker that saves before it writes",
        }
    }

    /// The columns that must show it.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::RowDeleted | Self::Forgetting => &[Column::Missing],
            Self::RowDoubled => &[Column::Duplicates],
            Self::RowAltered => &[Column::Altered],
            Self::PublishRefused => &[Column::PublishFailures],
            Self::BrokerFrozen => &[Column::PublishP99, Column::Late],
            Self::DeliveryDropped => &[Column::Undelivered],
            Self::DeliveryTwice => &[Column::Again],
            Self::FetchAstray => &[Column::Fetches],
            Self::SlowDatabase => &[Column::Drain],
        }
    }
}

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Column {
    /// Acknowledged and no row.
    Missing,
    /// Rows twice.
    Duplicates,
    /// Rows with other bytes.
    Altered,
    /// Publishes that failed.
    PublishFailures,
    /// Answer times.
    PublishP99,
    /// Messages that a subscriber did not get, or with other bytes.
    Undelivered,
    /// Messages that a subscriber got again.
    Again,
    /// Messages that a subscriber got late.
    Late,
    /// Fetch of what is not projected.
    Fetches,
    /// How fast the backlog goes.
    Drain,
    /// Whatever a row has of its own.
    Own,
}

/// 99th percentiles of publishes in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Answers {
    /// In all calm windows together.
    pub calm_ms: f64,
    /// While the day was bad.
    pub bad_ms: f64,
}

/// A backlog, and how it went while messages kept coming.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Records drained for each one that came meanwhile; None for a backlog that is gone in a batch or two.
    pub ratio: Option<f64>,
    /// What was behind, in seconds of load.
    pub behind_seconds: f64,
    /// How long it took.
    pub seconds: f64,
}

/// What one run saw.
#[derive(Debug, Default)]
pub struct Report {
    /// How often the fault was injected.
    pub injected: u64,
    /// What is injected, for the table.
    pub unit: &'static str,
    /// Rows against acknowledgements.
    pub comparison: Comparison,
    /// Publishes that failed; None where the broker itself is killed, so that some must.
    pub publish_failures: Option<u64>,
    /// Answer times; None where there is no calm to compare with.
    pub answers: Option<Answers>,
    /// Live delivery; None where the broker itself is killed.
    pub deliveries: Option<Deliveries>,
    /// Fetches of what was not projected, and how many failed.
    pub fetches: Option<(u64, u64)>,
    /// How the backlog went.
    pub drain: Option<Drain>,
    /// What is not as it must be.
    pub violations: Vec<(Column, String)>,
    /// Words worth telling.
    pub notes: Vec<String>,
}

impl Report {
    /// Notes a violation unless `holds`.
    pub fn check(&mut self, column: Column, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push((column, otherwise()));
        }
    }

    /// Notes what a judgement found.
    pub fn take(&mut self, column: Column, verdict: Result<(), String>) {
        self.violations.extend(verdict.err().map(|found| (column, found)));
    }

    /// Whether a column shows something.
    pub fn shows(&self, column: Column) -> Option<&str> {
        self.violations.iter().find(|(of, _)| *of == column).map(|(_, text)| text.as_str())
    }
}

/// Which servers a row needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// A Postgres of its own.
    Postgres,
    /// A Cassandra node.
    Cassandra,
}

impl Store {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Cassandra => "Cassandra",
        }
    }
}

/// A bad day.
pub struct Row {
    /// The store.
    pub store: Store,
    /// What goes wrong.
    pub name: &'static str,
    /// The rig.
    pub rig: Box<dyn Fn(Run) -> BoxFuture<'static, Report> + Send + Sync>,
    /// Runs that must fail.
    pub controls: Vec<Control>,
    /// Whether it does something to a server that other rows use.
    pub alone: bool,
    /// Whether a full run of it measures something, so that nothing may run beside it.
    pub measured: bool,
}

impl Row {
    /// A row without controls of its own.
    pub fn new<Rig>(store: Store, name: &'static str, rig: impl Fn(Run) -> Rig + Send + Sync + 'static) -> Self
    where
        Rig: Future<Output = Report> + Send + 'static,
    {
        let rig = Box::new(move |run| Box::pin(rig(run)) as BoxFuture<'static, Report>);
        Self { store, name, rig, controls: Vec::new(), alone: false, measured: true }
    }

    /// Keeps others away meanwhile.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Measures nothing, so others may run beside it.
    #[must_use]
    pub fn unmeasured(self) -> Self {
        Self { measured: false, ..self }
    }

    /// Adds runs that must fail.
    #[must_use]
    pub fn controls(mut self, controls: &[Control]) -> Self {
        self.controls.extend_from_slice(controls);
        self
    }

    /// The store and what goes wrong.
    pub fn title(&self) -> String {
        format!("{}: {}", self.store.name(), self.name)
    }
}

/// A row that was run.
#[derive(Debug)]
pub struct Judged {
    /// Its name.
    pub title: String,
    /// What it saw.
    pub report: Report,
    /// What its controls came to: what was found, or why none was.
    pub controls: Vec<(Control, Result<String, String>)>,
}

impl Judged {
    /// Why it does not count, if so.
    pub fn failure(&self) -> Option<String> {
        if let Some((_, violation)) = self.report.violations.first() {
            let more = self.report.violations.len() - 1;
            return Some(if more == 0 { violation.clone() } else { format!("{violation} (and {more} more)") });
        }
        let failed = |(control, end): &(Control, Result<String, String>)| {
            let why = end.as_ref().err()?;
            Some(format!("the control ({}) {why}", control.name()))
        };
        self.controls.iter().find_map(failed)
    }
}

/// The table as Markdown.
pub fn show(rows: &[Judged]) -> String {
    let mut lines = vec![
        "| bad day | injected | acknowledged | rows | missing | duplicates | altered | publish failures | \
         publish p99 calm -> during, ratio | live delivery missing / again / late | Fetch failed | drain / ingest | as specified |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(rows.iter().map(line));
    lines.join("\n")
}

fn line(row: &Judged) -> String {
    let report = &row.report;
    let Report { comparison, .. } = report;
    let none = || "-".to_owned();
    let answers = report.answers.map_or_else(none, |Answers { calm_ms, bad_ms, .. }| {
        format!("{calm_ms:.1} -> {bad_ms:.1} ms, {:.2}", bad_ms / calm_ms)
    });
    let failures = report.publish_failures.map_or_else(none, |failures| failures.to_string());
    let deliveries = report
        .deliveries
        .map_or_else(none, |seen| format!("{} / {} / {} of {}", seen.missing, seen.again, seen.late, seen.came));
    let fetches = report.fetches.map_or_else(none, |(asked, failed)| format!("{failed} of {asked}"));
    let drain = report.drain.map_or_else(none, |Drain { ratio, behind_seconds, seconds }| match ratio {
        Some(ratio) => format!("{ratio:.1} ({behind_seconds:.0} s of it)"),
        None => format!("{behind_seconds:.1} s of it gone in {seconds:.1} s"),
    });
    let specified = row.failure().map_or_else(|| "yes".to_owned(), |why| format!("NO: {}", shortened(&why, 300)));
    let notes = report.notes.iter().map(|note| format!("; {note}")).collect::<String>();
    format!(
        "| {} | {} {} | {} | {} | {} | {} | {} | {failures} | {answers} | {deliveries} | {fetches} | {drain} | {specified}{notes} |",
        row.title,
        report.injected,
        report.unit,
        comparison.acknowledged,
        comparison.rows,
        comparison.missing,
        comparison.duplicates,
        comparison.altered,
    )
}

/// The controls as Markdown.
pub fn show_controls(rows: &[Judged]) -> String {
    let mut lines = vec!["| bad day | control | what the judgement said |".to_owned(), "|---|---|---|".to_owned()];
    for row in rows {
        for (control, end) in &row.controls {
            let said = match end {
                Ok(found) => shortened(found, 160),
                Err(why) => format!("NOTHING: {}", shortened(why, 160)),
            };
            lines.push(format!("| {} | {} | {said} |", row.title, control.name()));
        }
    }
    lines.join("\n")
}

fn shortened(text: &str, letters: usize) -> String {
    let text = text.replace(['\n', '|'], " ");
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
