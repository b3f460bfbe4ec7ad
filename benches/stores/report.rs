//! The tables of `docs/stores.md`. Between two marks of a name the page belongs to this command; all other words on it are people's.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::figures::{Figure, Kind, Results};
use crate::page::{number, replace};
use crate::soak::Soak;
use crate::{Failure, plots};

/// A line of a table: what it is, and what a figure is multiplied with to have that unit.
type Line = (&'static str, Figure, f64);

const PROJECTION: &[Line] = &[
    ("rows/s, bodies of 256 B", Figure::ProjectionSmallRowsPerSecond, 1.0),
    ("rows/s, bodies of 4 KiB", Figure::ProjectionLargeRowsPerSecond, 1.0),
    ("bytes on the disk a message, bodies of 256 B", Figure::DiskSmallBytesPerMessage, 1.0),
    ("bytes on the disk a message, bodies of 4 KiB", Figure::DiskLargeBytesPerMessage, 1.0),
];

const LOAD: &[Line] = &[
    ("publishes/s, as many as the client gets through", Figure::PublishRate, 1.0),
    ("half load, publishes/s", Figure::HalfLoadRate, 1.0),
    ("lag p50, ms", Figure::LagP50Millis, 1.0),
    ("lag p99, ms", Figure::LagP99Millis, 1.0),
    ("CPU seconds of the broker, a million messages", Figure::BrokerCpuSecondsPerMillion, 1.0),
    ("CPU seconds of the database, a million messages", Figure::DatabaseCpuSecondsPerMillion, 1.0),
];

const READS: &[Line] = &[
    ("Fetch cold p50, us", Figure::FetchColdP50Micros, 1.0),
    ("Fetch cold p99, us", Figure::FetchColdP99Micros, 1.0),
    ("bytes read from the disk, a cold Fetch", Figure::FetchColdDiskBytes, 1.0),
    ("Fetch warm p50, us", Figure::FetchWarmP50Micros, 1.0),
    ("Fetch warm p99, us", Figure::FetchWarmP99Micros, 1.0),
    ("bytes read from the disk, a warm Fetch", Figure::FetchWarmDiskBytes, 1.0),
    ("Fetch of what has expired p50, us", Figure::FetchExpiredP50Micros, 1.0),
    ("catch-up of one subject, messages/s", Figure::CatchUpMessagesPerSecond, 1.0),
];

const KILLED: &[Line] = &[
    ("publish success while it is down, %", Figure::KilledPublishPercent, 1.0),
    ("publish p50 at half load, ms", Figure::CalmPublishP50Micros, 1e-3),
    ("the same while it is down, ms", Figure::KilledPublishP50Micros, 1e-3),
    ("publish p99 at half load, ms", Figure::CalmPublishP99Micros, 1e-3),
    ("the same while it is down, ms", Figure::KilledPublishP99Micros, 1e-3),
    ("messages that wait when it comes back", Figure::KilledBacklogMessages, 1.0),
    ("seconds from its first connection until all is projected", Figure::DrainSeconds, 1.0),
    ("of them until the first batch is", Figure::NoticeSeconds, 1.0),
    ("messages/s from then on, of the rate of publishing", Figure::DrainRatio, 1.0),
    ("times that it had lost confirmed writes", Figure::Setbacks, 1.0),
];

const EXPIRY: &[Line] = &[
    ("MiB on the disk before", Figure::ExpiryMiBBefore, 1.0),
    ("MiB on the disk after", Figure::ExpiryMiBAfter, 1.0),
    ("seconds until the space is given back", Figure::ExpirySeconds, 1.0),
    ("CPU seconds of the store meanwhile", Figure::ExpiryCpuSeconds, 1.0),
    ("p99 of a Fetch before, us", Figure::ExpiryFetchP99BeforeMicros, 1.0),
    ("p99 of a Fetch meanwhile and 2 s after, us", Figure::ExpiryFetchP99DuringMicros, 1.0),
];

/// Writes the tables of a comparison into a page, and its plots beside it.
///
/// # Errors
/// The page cannot be written, or has lost its marks.
pub fn compared(results: &Results, page: &Path) -> Result<(), Failure> {
    plots::compared(results, &plots_of(page)?)?;
    let mut text = fs::read_to_string(page)?;
    replace(&mut text, "settings", &settings(results))?;
    for (name, lines) in
        [("projection", PROJECTION), ("load", LOAD), ("reads", READS), ("killed", KILLED), ("expiry", EXPIRY)]
    {
        replace(&mut text, name, &table(results, lines))?;
    }
    Ok(fs::write(page, text)?)
}

/// Writes the sizes of a soak into a page, and its plot beside it.
///
/// # Errors
/// The page cannot be written, or has lost its marks.
pub fn soaked(soak: &Soak, page: &Path) -> Result<(), Failure> {
    let plots = plots_of(page)?;
    fs::create_dir_all(&plots)?;
    plots::soaked(&soak.samples, &plots.join("soak.svg"))?;
    let mut text = fs::read_to_string(page)?;
    replace(&mut text, "soak", &soak_table(soak))?;
    Ok(fs::write(page, text)?)
}

/// The folder of the plots of a page: `stores/` of `stores.md`.
fn plots_of(page: &Path) -> Result<std::path::PathBuf, Failure> {
    let name = page.file_stem().ok_or("the report has no name")?;
    Ok(page.with_file_name(name))
}

fn settings(results: &Results) -> String {
    let mut text = String::new();
    if results.quick {
        text.push_str("**From a quick run: it shows that everything works, and its figures mean nothing.**\n\n");
    }
    text.push_str("| | |\n|---|---|\n");
    for (what, which) in &results.settings {
        // Writing into a string cannot fail.
        writeln!(text, "| {what} | {which} |").ok();
    }
    text
}

fn table(results: &Results, lines: &[Line]) -> String {
    let of = |figure: &Figure| Kind::ALL.map(|kind| results.of(kind, *figure));
    // A store that has none of them has no column.
    let has = |place: usize| lines.iter().any(|(_, figure, _)| of(figure).get(place).is_some_and(Option::is_some));
    let kinds: Vec<(usize, Kind)> = Kind::ALL.into_iter().enumerate().filter(|(place, _)| has(*place)).collect();
    let mut text = String::from("| |");
    kinds.iter().for_each(|(_, kind)| text.push_str(&format!(" {} |", kind.title())));
    text.push_str("\n|---|");
    kinds.iter().for_each(|_| text.push_str("---|"));
    text.push('\n');
    for (what, figure, factor) in lines {
        text.push_str(&format!("| {what} |"));
        for (_, kind) in &kinds {
            let cell = results.of(*kind, *figure).map_or_else(
                || "-".to_owned(),
                |found| {
                    let [median, least, greatest] =
                        [found.median, found.least, found.greatest].map(|value| number(value * factor));
                    if least == greatest { median } else { format!("{median} ({least} to {greatest})") }
                },
            );
            text.push_str(&format!(" {cell} |"));
        }
        text.push('\n');
    }
    text
}

fn soak_table(soak: &Soak) -> String {
    let flat = soak.is_flat() == Some(true);
    let minutes = soak.samples.last().map_or(0.0, |sample| sample.seconds / 60.0);
    let mut text = format!(
        "{} messages of 256 B a second for {minutes:.0} minutes, kept for {} s: {}, bound {} of the first line.\n\n\
         | from s | tables, MiB | indexes, MiB | database, MiB | of the first |\n|---|---|---|---|---|\n",
        number(f64::from(soak.rate)),
        soak.expires,
        if flat { "flat" } else { "not flat" },
        Soak::growth_max(),
    );
    for window in soak.windows() {
        let [table, index, database] = window.largest.map(|bytes| number(bytes as f64 / 1024.0 / 1024.0));
        writeln!(text, "| {:.0} | {table} | {index} | {database} | {:.2} |", window.from, window.growth).ok();
    }
    text
}
