//! Where a result goes beside the table, and where the one comes from that it is compared with.

use std::path::{Path, PathBuf};

use clap::Args;

use super::super::output::Output;
use super::super::{Exit, Failure};
use super::page::{self, ratio};
use super::report::Report;

/// Where the result goes, beside the table.
#[derive(Debug, Clone, Default, Args)]
pub struct Files {
    /// Write the result to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots to this file; it needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Compare with an earlier run, the file of its --json: on the page, and in a line of the table
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
}

/// The largest file of --json that is read: a second of a run has some hundred bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A result that was written with --json.
pub fn read(path: &Path) -> Result<Report, Failure> {
    let wrong = |reason: String| {
        let message = format!("{} is no result of walcast bench --json: {reason}", path.display());
        Failure::new(Exit::Usage, message)
    };
    let bytes = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(wrong(format!("it has {bytes} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// The result of --compare.
pub fn earlier(files: &Files) -> Result<Option<Report>, Failure> {
    files.compare.as_deref().map(read).transpose()
}

/// Prints the table and writes the files.
pub fn show(report: &Report, earlier: Option<&Report>, files: &Files, output: &mut Output) -> Result<(), Failure> {
    report.table().iter().try_for_each(|line| output.line(line))?;
    for line in earlier.map(|earlier| compared(report, earlier)).unwrap_or_default() {
        output.line(line)?;
    }
    if let Some(path) = &files.json {
        let mut text = serde_json::to_string(report).expect("a report has text keys and finite numbers only");
        text.push('\n');
        write(path, &text)?;
    }
    files.html.as_deref().map_or(Ok(()), |path| write(path, &page::html(report, earlier)?))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::writing(&path.display().to_string(), &error))
}

/// A line for each kind of calls that both have.
fn compared(now: &Report, earlier: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, now) in now.kinds() {
        let Some((_, before)) = earlier.kinds().into_iter().find(|(known, _)| *known == name) else { continue };
        let rate = ratio(now.rate, before.rate);
        let [p50, p99] = [(now.latency_us.p50, before.latency_us.p50), (now.latency_us.p99, before.latency_us.p99)]
            .map(|(now, before)| ratio(now as f64, before as f64));
        lines.push(format!("compared    {name}: {rate} times the rate, {p50} times the p50, {p99} times the p99"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::super::output::tests::Captured;
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_result_is_written_read_and_compared() {
        let folder = tempfile::tempdir().expect("a folder");
        let (json, html) = (folder.path().join("a.json"), folder.path().join("a.html"));
        let files = Files { json: Some(json.clone()), html: Some(html.clone()), compare: None };
        show(&report(&[2000; 10], &[]), None, &files, &mut Output::to(Captured::default())).expect("written");
        assert!(std::fs::read_to_string(&html).expect("a page").starts_with("<!DOCTYPE html>"));

        let files = Files { compare: Some(json), ..Files::default() };
        let earlier = earlier(&files).expect("read");
        let captured = Captured::default();
        let mut output = Output::to(captured.clone());
        show(&report(&[1000; 10], &[]), earlier.as_ref(), &files, &mut output).expect("shown");
        output.flush().expect("flushed");
        let line = "compared    publishes: 1.00 times the rate, 0.50 times the p50, 0.50 times the p99";
        assert!(captured.text().contains(line), "{}", captured.text());
    }

    #[test]
    fn what_is_no_result_is_wrong_usage() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("b.json");
        std::fs::write(&path, "{}").expect("written");
        for path in [path, folder.path().join("none.json")] {
            let failure = read(&path).expect_err("no result");
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(
                failure.message().is_some_and(|said| said.contains("is no result of walcast bench")),
                "{failure:?}"
            );
        }
    }
}
