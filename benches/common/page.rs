//! What a page of documentation needs whose tables a command writes.

use std::path::{Path, PathBuf};
use std::process::Command;

use walcast::event::clock;

use crate::Failure;

/// A page, between whose marks a command writes.
#[derive(Debug)]
pub struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    /// Reads it.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { path: path.to_owned(), text: std::fs::read_to_string(path)? })
    }

    /// Puts `block` between the marks of `name`.
    ///
    /// # Errors
    /// The page has lost them.
    pub fn put(&mut self, name: &str, block: &str) -> Result<(), Failure> {
        replace(&mut self.text, name, block)
    }

    /// The folder of its plots: `performance/` of `performance.md`.
    ///
    /// # Errors
    /// The page has no name.
    pub fn plots(&self) -> Result<PathBuf, Failure> {
        Ok(self.path.with_file_name(self.path.file_stem().ok_or("the page has no name")?))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(self) -> Result<(), Failure> {
        Ok(std::fs::write(&self.path, self.text)?)
    }
}

/// Puts `block` between the marks of `name`.
///
/// # Errors
/// The page has lost them.
pub fn replace(text: &mut String, name: &str, block: &str) -> Result<(), Failure> {
    let (begin, end) = (format!("<!-- {name}: written by a command -->"), format!("<!-- {name}: end -->"));
    let lost = || format!("the page has lost its marks `{begin}` and `{end}`");
    let from = text.find(&begin).ok_or_else(lost)? + begin.len();
    let to = from + text.get(from..).and_then(|rest| rest.find(&end)).ok_or_else(lost)?;
    text.replace_range(from..to, &format!("\n{block}"));
    Ok(())
}

/// Three digits that mean something, with commas between thousands.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor();
    let digits = (2.0 - magnitude).clamp(0.0, 2.0) as usize;
    let unit = 10f64.powf((magnitude - 2.0).max(0.0));
    let plain = format!("{:.*}", digits, (value / unit).round_ties_even() * unit);
    let rounded = if magnitude < 3.0 { format!("{value:.digits$}") } else { plain };
    let (whole, rest) = rounded.split_once('.').map_or((rounded.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if let Some(rest) = rest {
        text.push('.');
        text.push_str(rest);
    }
    text
}

/// The median, with the least and the greatest where there is more than one value; `-` of none.
pub fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(least), Some(median), Some(greatest)) = (sorted.first(), sorted.get(sorted.len() / 2), sorted.last())
    else {
        return "-".to_owned();
    };
    if sorted.len() == 1 {
        return number(*median);
    }
    format!("{} ({} to {})", number(*median), number(*least), number(*greatest))
}

/// Goes before the tables of a quick run.
pub const QUICK: &str = "**From a quick run: it shows that everything works, and its figures mean nothing.**\n\n";

/// Day and version of a measurement, such as `29 November 2026, walcast 0.1.0 of commit c4439db`. Changes of documents alone
/// leave the version what it is.
///
/// # Errors
/// The clock's.
pub fn made() -> Result<String, Failure> {
    let day = jiff::Timestamp::from_microsecond(clock::now().as_micros())?.strftime("%-d %B %Y").to_string();
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let version = env!("CARGO_PKG_VERSION");
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else {
        return Ok(format!("{day}, walcast {version}"));
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!*.md", ":!docs"]);
    let changes = if changed.is_none_or(|changed| changed.is_empty()) { "" } else { " with changes" };
    Ok(format!("{day}, walcast {version} of commit {commit}{changes}"))
}

/// Processors, memory, kernel and file system that a figure comes from.
///
/// # Errors
/// `/proc` is not Linux's.
pub fn machine(disk: &Path) -> Result<String, Failure> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")).map(|name| name.trim_matches([' ', '\t', ':']));
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).ok_or("no MemTotal")?;
    let kib: f64 = kib.trim().trim_end_matches(" kB").parse()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let filesystem = Command::new("stat").args(["-f", "-c", "%T"]).arg(disk).output()?;
    Ok(format!(
        "{cores} cores ({}), {:.0} GiB of memory, Linux {}, {}; client, broker and servers share it",
        model.unwrap_or("unknown model"),
        kib / 1024.0 / 1024.0,
        kernel.trim(),
        String::from_utf8_lossy(&filesystem.stdout).trim(),
    ))
}
