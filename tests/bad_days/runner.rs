//! Runs the rows and prints the tables. `BAD_DAYS_VERBOSE` shows the panics of rigs as they happen.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::guard::guarded;
use crate::rows;
use crate::table::{Column, Control, Judged, Report, Row, Run, Store, show, show_controls};

/// No single run takes this long: the longest outage, and reading everything.
const RUN_MAX: Duration = Duration::from_secs(600);
/// Runs at once that are not measured: they mostly wait. Twice as many have made messages late on two processors.
const AT_ONCE: usize = 4;
/// Controls of one row at once.
const CONTROLS_AT_ONCE: usize = 3;
/// Where the table is kept.
const DOCUMENT: &str = "docs/bad-days.md";
/// The table in the document is between these lines.
const MARKS: [&str; 2] = ["<!-- table: begin -->", "<!-- table: end -->"];

pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let thorough = !has("--quick");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    if let Err(why) = may_write(&args) {
        eprintln!("{why}");
        return ExitCode::from(2);
    }
    let mut chosen = rows::all();
    chosen.retain(|row| filters.is_empty() || filters.iter().any(|part| row.title().contains(*part)));
    if has("--list") {
        chosen.iter().for_each(|row| println!("{}: test", row.title()));
        return ExitCode::SUCCESS;
    }
    // A panic is a cell of the table; where it comes from is of interest only on demand.
    if std::env::var_os("BAD_DAYS_VERBOSE").is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    crate::support::programs::yield_to_others();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let started = Instant::now();
    let bounds = crate::judge::knows_its_bounds();
    match &bounds {
        Ok(()) => println!("ok the judge knows its bounds"),
        Err(why) => println!("FAILED the judge does not know its bounds: {why}"),
    }
    let judged = runtime.block_on(run_all(chosen, thorough));
    crate::cassandra::end();
    let failed = judged.iter().filter(|row| row.failure().is_some()).count();
    let text = format!("{}\n\n{}", show(&judged), show_controls(&judged));
    println!("\n{text}\n");
    println!(
        "{} bad days, {failed} not as specified or with a control that passes; {:.0} s",
        judged.len(),
        started.elapsed().as_secs_f64()
    );
    if has("--write") && bounds.is_ok() {
        write_document(&text, started.elapsed());
    }
    ExitCode::from(u8::from(failed > 0 || judged.is_empty() || bounds.is_err()))
}

/// The document holds one full run of everything: a part of it, or a short one, would replace the whole table.
fn may_write(args: &[String]) -> Result<(), &'static str> {
    if !args.iter().any(|arg| arg == "--write") {
        Ok(())
    } else if args.iter().any(|arg| arg == "--quick") {
        Err("--write is for full runs: the figures of --quick are not measured")
    } else if args.iter().any(|arg| !arg.starts_with('-')) {
        Err("--write is for all rows: a part of them would replace the whole table")
    } else {
        Ok(())
    }
}

/// What is measured comes first, one after the other, with nothing beside it; then everything else, several at once and one
/// database after the other.
async fn run_all(rows: Vec<Row>, thorough: bool) -> Vec<Judged> {
    let mut judged: Vec<(usize, Judged)> = Vec::new();
    if !thorough && rows.iter().any(|row| row.store == Store::Cassandra) {
        // It starts while the rows of Postgres wait for one thing or another.
        std::thread::spawn(|| crate::cassandra::prepare(Run { thorough: false, control: None }));
    }
    let mut measured: HashMap<usize, Report> = HashMap::new();
    for (place, row) in rows.iter().enumerate().filter(|(_, row)| thorough && row.measured) {
        let begun = Instant::now();
        measured.insert(place, report_of(row, thorough).await);
        println!("measured: {} ({:.1} s)", row.title(), begun.elapsed().as_secs_f64());
    }
    let mut groups: Vec<Vec<(usize, Row)>> = vec![Vec::new(), Vec::new(), Vec::new()];
    for (place, row) in rows.into_iter().enumerate() {
        let group = match row.store {
            Store::Postgres => 0,
            Store::Cassandra if !row.alone => 1,
            Store::Cassandra => 2,
        };
        groups[group].push((place, row));
    }
    for (group, at_once) in groups.into_iter().zip([AT_ONCE, AT_ONCE, 1]) {
        let running = group.into_iter().map(|(place, row)| {
            let report = measured.remove(&place);
            async move { (place, judge(row, thorough, report).await) }
        });
        judged.extend(futures_util::stream::iter(running).buffer_unordered(at_once).collect::<Vec<_>>().await);
    }
    judged.sort_by_key(|(place, _)| *place);
    judged.into_iter().map(|(_, row)| row).collect()
}

async fn report_of(row: &Row, thorough: bool) -> Report {
    guarded((row.rig)(Run { thorough, control: None }), RUN_MAX)
        .await
        .unwrap_or_else(|panicked| Report { violations: vec![(Column::Own, panicked)], ..Report::default() })
}

/// Runs the row, unless it was measured already, and its controls beside it.
async fn judge(row: Row, thorough: bool, measured: Option<Report>) -> Judged {
    let begun = Instant::now();
    let row_of = &row;
    let report = async {
        match measured {
            Some(report) => report,
            None => report_of(row_of, thorough).await,
        }
    };
    let controls = row.controls.iter().map(|control| async move { (*control, must_fail(row_of, *control).await) });
    let controls = futures_util::stream::iter(controls).buffered(CONTROLS_AT_ONCE).collect();
    let (report, controls) = tokio::join!(report, controls);
    let judged = Judged { title: row.title(), report, controls };
    let seconds = begun.elapsed().as_secs_f64();
    match judged.failure() {
        None => println!("ok bad day: {} ({seconds:.1} s)", judged.title),
        Some(why) => println!("FAILED bad day: {}: {why} ({seconds:.1} s)", judged.title),
    }
    for (_, violation) in judged.report.violations.iter().skip(1).take(5) {
        println!("    also: {violation}");
    }
    judged
}

/// Runs a control; it must show in the columns that are there for it.
async fn must_fail(row: &Row, control: Control) -> Result<String, String> {
    let report = guarded((row.rig)(Run { thorough: false, control: Some(control) }), RUN_MAX).await;
    let report = report.map_err(|panicked| format!("could not be run: {panicked}"))?;
    let shown = control.columns().iter().map(|column| report.shows(*column));
    let shown: Option<Vec<&str>> = shown.collect();
    shown.map(|shown| shown.join("; ")).ok_or_else(|| "passes, so the row proves nothing".to_owned())
}

/// Puts the tables into the document, with the machine they were made on.
fn write_document(tables: &str, took: Duration) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let document = std::fs::read_to_string(&path).expect("the document is there");
    let (before, rest) = document.split_once(MARKS[0]).expect("the document has a place for the table");
    let (_, after) = rest.split_once(MARKS[1]).expect("the place ends");
    let mut text = String::new();
    writeln!(text, "{before}{}\n\n{}\n", MARKS[0], machine(took)).expect("a string");
    write!(text, "{tables}\n\n{}{after}", MARKS[1]).expect("a string");
    std::fs::write(&path, text).expect("the document can be written");
    println!("wrote {DOCUMENT}");
}

fn machine(took: Duration) -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or_default();
    format!(
        "{}, commit {}. {cores} cores ({}), {} GiB of memory, Linux {}; broker, databases and rig on this one machine. \
         Everything took {} min.",
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        model.trim_start_matches([' ', '\t', ':']),
        kib / 1024 / 1024,
        said("uname", &["-r"]),
        took.as_secs().div_ceil(60),
    )
}
