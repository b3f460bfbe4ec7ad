//! What a row is and how it is shown.

use futures_util::future::BoxFuture;

use crate::needs::Need;

/// Which run of a rig it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The broker as it is meets the fault.
    Real,
    /// The control that leaves the fault out.
    NoFault,
    /// The control with the broker that was built to be wrong in this way (feature `fault-controls`).
    Broken(&'static str),
    /// A control of the row's own.
    Own(&'static str),
}

impl Variant {
    /// Whether the run must fail.
    pub fn is_control(self) -> bool {
        self != Self::Real
    }

    fn name(self) -> String {
        match self {
            Self::Real => "as it is".to_owned(),
            Self::NoFault => "no fault".to_owned(),
            Self::Broken(how) => format!("broker that does {how}"),
            Self::Own(what) => what.to_owned(),
        }
    }
}

/// What a rig is run with.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Which run it is.
    pub variant: Variant,
    /// Whether there is time: `make faults`.
    pub thorough: bool,
}

/// What one run of a rig saw.
#[derive(Debug, Default)]
pub struct Report {
    /// How often the fault was injected.
    pub injected: u64,
    /// How often the broker noticed; None for a fault that it must not even notice.
    pub detected: Option<u64>,
    /// Publishes that were acknowledged.
    pub acknowledged: u64,
    /// Of those, how many are not there afterwards.
    pub lost: u64,
    /// In what it did not behave as specified.
    pub violations: Vec<String>,
    /// Figures worth telling.
    pub figures: Vec<String>,
}

impl Report {
    /// Notes a violation unless `holds`.
    pub fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    /// Tells a figure.
    pub fn figure(&mut self, text: impl Into<String>) {
        self.figures.push(text.into());
    }
}

/// A fault and how it is injected.
pub struct Row {
    /// The fault.
    pub name: String,
    /// What the machine must have.
    pub needs: Vec<Need>,
    /// Whether `make test` runs it.
    pub quick: bool,
    /// The rig.
    pub rig: Box<dyn Fn(Run) -> BoxFuture<'static, Report> + Send + Sync>,
    /// Runs that must fail.
    pub controls: Vec<Variant>,
}

impl Row {
    /// A row that needs nothing, is quick and has no control yet.
    pub fn new<Rig>(name: impl Into<String>, rig: impl Fn(Run) -> Rig + Send + Sync + 'static) -> Self
    where
        Rig: Future<Output = Report> + Send + 'static,
    {
        let rig = Box::new(move |run| Box::pin(rig(run)) as BoxFuture<'static, Report>);
        Self { name: name.into(), needs: Vec::new(), quick: true, rig, controls: Vec::new() }
    }

    /// Adds what it needs.
    #[must_use]
    pub fn needs(mut self, needs: &[Need]) -> Self {
        self.needs.extend_from_slice(needs);
        self
    }

    /// Adds a control.
    #[must_use]
    pub fn control(mut self, control: Variant) -> Self {
        self.controls.push(control);
        self
    }

    /// Leaves it to `make faults`.
    #[must_use]
    pub fn slow(mut self) -> Self {
        self.quick = false;
        self
    }
}

/// How one control ended.
#[derive(Debug)]
pub enum ControlEnd {
    /// It failed, as it must: the first thing that was found.
    Caught(String),
    /// It passed: the rig proves nothing.
    Passed,
    /// It could not be run.
    NotRun(String),
}

/// A row that was run.
#[derive(Debug)]
pub struct Judged {
    /// The fault.
    pub name: String,
    /// What the run with the broker as it is saw.
    pub report: Report,
    /// The controls.
    pub controls: Vec<(Variant, ControlEnd)>,
}

impl Judged {
    /// Why the row does not count, if so.
    pub fn failure(&self) -> Option<String> {
        if let Some(violation) = self.report.violations.first() {
            let more = self.report.violations.len() - 1;
            return Some(if more == 0 { violation.clone() } else { format!("{violation} (and {more} more)") });
        }
        let missing = |(variant, end): &(Variant, ControlEnd)| match end {
            ControlEnd::Caught(_) => None,
            ControlEnd::Passed => Some(format!("the control ({}) passes, so the row proves nothing", variant.name())),
            ControlEnd::NotRun(why) => Some(format!("the control ({}) could not be run: {why}", variant.name())),
        };
        if self.controls.is_empty() {
            return Some("no control was run".to_owned());
        }
        self.controls.iter().find_map(missing)
    }

    fn controls(&self) -> String {
        let shown = self.controls.iter().map(|(variant, end)| match end {
            ControlEnd::Caught(what) => format!("{}: caught, {}", variant.name(), shortened(what, 90)),
            ControlEnd::Passed => format!("{}: PASSED", variant.name()),
            ControlEnd::NotRun(_) => format!("{}: NOT RUN", variant.name()),
        });
        shown.collect::<Vec<_>>().join("; ")
    }
}

fn shortened(text: &str, letters: usize) -> String {
    let text = text.replace(['\n', '|'], " ");
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The table as Markdown.
pub fn show(rows: &[Judged]) -> String {
    let mut lines = vec![
        "| fault | injected | detected | acknowledged | lost | as specified | seen | negative control |".to_owned(),
        "|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    for row in rows {
        let report = &row.report;
        let detected = report.detected.map_or_else(|| "invisible".to_owned(), |count| count.to_string());
        let specified = row.failure().map_or_else(|| "yes".to_owned(), |why| format!("NO: {}", shortened(&why, 300)));
        lines.push(format!(
            "| {} | {} | {detected} | {} | {} | {specified} | {} | {} |",
            row.name,
            report.injected,
            report.acknowledged,
            report.lost,
            report.figures.join(", "),
            row.controls()
        ));
    }
    lines.join("\n")
}
