//! What a page of documentation needs whose tables a command writes.

use std::path::Path;
use std::process::Command;

use crate::Failure;

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
