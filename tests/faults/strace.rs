//! System calls of a running broker that fail on purpose, with `strace` attached to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is to fail.
#[derive(Debug, Clone)]
pub struct Injection<'a> {
    /// Calls, as `strace -e inject=` takes them: `fdatasync`, `/^rename`.
    pub calls: &'a str,
    /// What happens to them: `error=EIO:when=1`; empty injects nothing.
    pub how: &'a str,
    /// Only calls that touch one of these files; all if empty.
    pub files: &'a [PathBuf],
    /// Only this thread of the process, by its name.
    pub thread: Option<&'a str>,
}

/// `strace`, attached. Detached when dropped.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    trace: PathBuf,
}

const ATTACHED_WITHIN: Duration = Duration::from_secs(20);

/// Calls that change files or make them durable.
pub const FILE_CALLS: &str = "/^open,/^pwrite,/^write,fdatasync,fsync,/^rename,/^unlink,ftruncate,sync_file_range";

impl Injection<'_> {
    /// The options of `strace` for it, with the trace in `trace`.
    pub fn options(&self, trace: &Path) -> Vec<std::ffi::OsString> {
        let mut options: Vec<std::ffi::OsString> = vec!["-ttt".into(), "-y".into(), "-s".into(), "16".into()];
        options.extend(["-e".into(), format!("trace={FILE_CALLS},{}", self.calls).into()]);
        if !self.how.is_empty() {
            options.extend(["-e".into(), format!("inject={}:{}", self.calls, self.how).into()]);
        }
        for file in self.files {
            options.extend(["-P".into(), file.clone().into()]);
        }
        options.extend(["-o".into(), trace.into()]);
        options
    }

    /// Attaches to the process; returns once every thread concerned is traced.
    pub fn attach(&self, pid: u32, trace: &Path) -> Tracer {
        let mut command = Command::new("strace");
        command.args(self.options(trace));
        let threads = match self.thread {
            Some(name) => wait_for_thread(pid, name),
            None => {
                command.arg("-f");
                vec![pid]
            }
        };
        for thread in &threads {
            command.arg("-p").arg(thread.to_string());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let tracer = Tracer { child: child.expect("strace runs"), trace: trace.to_owned() };
        let traced = if self.thread.is_some() { threads } else { thread_ids(pid) };
        let give_up = Instant::now() + ATTACHED_WITHIN;
        while !traced.iter().all(|thread| is_traced(pid, *thread)) {
            assert!(Instant::now() < give_up, "strace did not attach");
            std::thread::sleep(Duration::from_millis(5));
        }
        tracer
    }
}

impl Tracer {
    /// What was traced so far.
    pub fn trace(&self) -> String {
        fs::read_to_string(&self.trace).unwrap_or_default()
    }

    /// How often the fault was injected so far.
    pub fn injected(&self) -> u64 {
        injected(&self.trace())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = rustix::process::Pid::from_child(&self.child);
            // It can only have ended meanwhile.
            rustix::process::kill_process(pid, rustix::process::Signal::INT).ok();
        }
        drop(self.child.wait());
    }
}

/// How often a fault was injected, by the trace.
pub fn injected(trace: &str) -> u64 {
    trace.lines().filter(|line| line.contains("INJECTED")).count() as u64
}

/// The calls in the trace after the first injection, that name `part`.
pub fn after_injection<'a>(trace: &'a str, part: &str) -> Vec<&'a str> {
    let after = trace.lines().skip_while(|line| !line.contains("INJECTED")).skip(1);
    after.filter(|line| line.contains(part) && !line.contains("resumed>")).collect()
}

fn thread_ids(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).expect("the broker runs");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn threads_named(pid: u32, name: &str) -> Vec<u32> {
    let is_named = |thread: &u32| {
        fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).is_ok_and(|found| found.trim() == name)
    };
    thread_ids(pid).into_iter().filter(is_named).collect()
}

/// A thread takes its name after it was started.
fn wait_for_thread(pid: u32, name: &str) -> Vec<u32> {
    let give_up = Instant::now() + ATTACHED_WITHIN;
    loop {
        let found = threads_named(pid, name);
        if !found.is_empty() {
            return found;
        }
        assert!(Instant::now() < give_up, "the broker has no thread {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_traced(pid: u32, thread: u32) -> bool {
    // A thread that has ended meanwhile is nobody's concern.
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")) else { return true };
    status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
}
