//! The broker as a process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Args, Failure};

/// A running broker; killed when it goes out of scope.
pub struct Broker {
    child: Child,
    /// `http://ADDRESS` of its gRPC port.
    pub uri: String,
    /// From its start as a process until it listens.
    pub started_in: Duration,
}

impl Broker {
    /// Starts it and waits until it listens.
    pub fn start(args: &Args, data: &Path) -> Result<Self, Failure> {
        let begun = Instant::now();
        let mut child = Command::new(&args.walcast)
            .args([
                "serve",
                "--store",
                "none",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(data)
            // Room for the backlog, and for what is published on top of it.
            .env("WALCAST_LOG__MAX_BYTES", "1TiB")
            .env("WALCAST_LOG__KEEP_BYTES", "1000GiB")
            .env("WALCAST_LOG__KEEP_FOR", "30d")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let mut seen = String::new();
        while let Some(line) = lines.next().transpose()? {
            if let Some(address) = listening(&line) {
                let started_in = begun.elapsed();
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| report(&line)));
                return Ok(Self { child, uri: format!("http://{address}"), started_in });
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        Err(format!("the broker ended before it listened:\n{seen}").into())
    }

    /// Resident memory in MiB that is its own: pages of files do not count.
    pub fn memory_mib(&self) -> Result<f64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Its open files.
    pub fn open_files(&self) -> Result<usize, Failure> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn report(line: &str) {
    if line.contains("WARN") || line.contains("ERROR") {
        eprintln!("  {line}");
    }
}

fn listening(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = value.get("fields").unwrap_or(&value);
    (fields.get("message")?.as_str()? == "listening").then(|| fields.get("grpc")?.as_str().map(str::to_owned))?
}
