//! What processes have used, from `/proc`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Failure;

/// `USER_HZ` of every Linux that runs this.
const TICKS_PER_SECOND: f64 = 100.0;
/// Between two looks whether a server still works.
const QUIET_FOR: Duration = Duration::from_millis(400);
/// What a server uses meanwhile that has nothing to do: a tick, for timers.
const QUIET_SECONDS: f64 = 0.015;
/// How long a server may work on after the last call before its CPU time is read anyway.
const WORKS_ON_MAX: Duration = Duration::from_secs(30);

/// CPU seconds, user and system, of a process and its descendants, with those of its children that have ended.
///
/// # Errors
/// The process is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let mut ticks = 0;
    for pid in tree(pid)? {
        // One that ends meanwhile is counted by its parent.
        let Some(fields) = stat(pid) else { continue };
        // utime, stime, cutime, cstime: fields 14 to 17, of which the first three were cut off with the name.
        ticks += fields.iter().skip(11).take(4).sum::<i64>();
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// CPU seconds of this process alone, without the servers that it has started.
///
/// # Errors
/// There is no `/proc`.
pub fn own_cpu_seconds() -> Result<f64, Failure> {
    let fields = stat(std::process::id()).ok_or("no /proc/PID/stat of this process")?;
    Ok(fields.iter().skip(11).take(2).sum::<i64>() as f64 / TICKS_PER_SECOND)
}

/// CPU seconds of a server once it has nothing left to do: what a call costs includes what it causes afterwards.
///
/// # Errors
/// The process is gone.
pub async fn cpu_seconds_when_quiet(pid: u32) -> Result<f64, Failure> {
    let started = Instant::now();
    let mut before = cpu_seconds(pid)?;
    loop {
        tokio::time::sleep(QUIET_FOR).await;
        let now = cpu_seconds(pid)?;
        if now - before < QUIET_SECONDS || started.elapsed() > WORKS_ON_MAX {
            return Ok(now);
        }
        before = now;
    }
}

/// A line of `/proc/PID/status` that counts memory, such as `VmHWM:` (peak resident), in MiB.
///
/// # Errors
/// The process is gone, or there is no such line.
pub fn memory_mib(pid: u32, which: &str) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(which)).ok_or_else(|| format!("no {which}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// Bytes that a process and its living descendants have read from a disk, not from the page cache.
///
/// # Errors
/// The process is gone, or belongs to somebody else.
pub fn disk_reads(pid: u32) -> Result<u64, Failure> {
    let mut bytes = 0;
    for pid in tree(pid)? {
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let line =
            io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).ok_or("no read_bytes in /proc/PID/io")?;
        bytes += line.parse::<u64>()?;
    }
    Ok(bytes)
}

/// Fields of `/proc/PID/stat` after the name; state as 0.
fn stat(pid: u32) -> Option<Vec<i64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some(fields.map(|field| field.parse().unwrap_or(0)).collect())
}

fn tree(root: u32) -> Result<Vec<u32>, Failure> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // The parent comes after the state.
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1).copied()) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == i64::from(parent)).map(|(pid, _)| *pid));
        next += 1;
    }
    match stat(root) {
        Some(_) => Ok(found),
        None => Err(format!("process {root} is gone").into()),
    }
}

/// Bytes on the disk of everything below `path` that `counts`, by the blocks that are in use.
///
/// # Errors
/// The disk's, but for files that go away meanwhile.
pub fn disk_bytes(path: &Path, counts: &dyn Fn(&Path) -> bool) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt as _;
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = 0;
    for entry in entries {
        let path = entry?.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            bytes += disk_bytes(&path, counts)?;
        } else if counts(&path) {
            // In units of 512 bytes, whatever the file system's are.
            bytes += metadata.blocks() * 512;
        }
    }
    Ok(bytes)
}

/// Writes what is dirty and empties the page cache.
///
/// # Errors
/// The right is missing.
pub fn forget_page_cache() -> Result<(), Failure> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
        .map_err(|error| format!("the page cache cannot be emptied ({error}): run this as root").into())
}
