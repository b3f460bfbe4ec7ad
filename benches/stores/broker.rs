//! The real broker as a process, a load on it, and where its log and its store are meanwhile.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::Failure;
use crate::places::Place;
use crate::support::{PATIENCE, http, programs};

/// Time between two looks at the positions.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What it says while its store is away, and when a node comes back without the writes of its last seconds.
const ANNOUNCED: [&str; 2] = ["projection waits for the store", "has lost what it had confirmed"];

/// A running broker; killed when it goes out of scope.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    data: TempDir,
    grpc: String,
    admin: String,
}

/// Where log and store are.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// The last record of the log.
    pub durable: u64,
    /// The last one that the store has.
    pub projected: u64,
}

/// What a load gave, as `walcast bench publish --json` writes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Load {
    /// Publishes that were acknowledged in the measured time.
    pub count: u64,
    /// Of them a second.
    pub rate: f64,
    /// From when each was due to its acknowledgement.
    pub latency_us: Latency,
    errors: std::collections::BTreeMap<String, u64>,
}

/// Quantiles in microseconds.
#[derive(Debug, Clone, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Load {
    /// Publishes that were refused or lost.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The load, if none was.
    ///
    /// # Errors
    /// How many were, and with which codes; `what` tells of which load.
    pub fn whole(self, what: impl fmt::Display) -> Result<Self, Failure> {
        match self.failures() {
            0 => Ok(self),
            failures => Err(format!("{what}: {failures} publishes failed: {:?}", self.errors).into()),
        }
    }
}

/// How a load is made.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As fast as 256 callers are answered.
    Closed,
    /// So many a second, whether or not they are answered.
    Open(u32),
}

impl Broker {
    /// Starts one whose history is in `place`, and waits until it listens.
    ///
    /// # Errors
    /// It ended.
    pub fn start(place: &Place<'_>) -> Result<Self, Failure> {
        let data = tempfile::Builder::new().prefix("stores-broker-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut command = programs::tied();
        command.arg("--").arg(env!("CARGO_BIN_EXE_walcast"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path());
        without_settings(&mut command);
        place.configure(&mut command)?;
        // In order to count all rows at the end, the log keeps what it has.
        command.env("WALCAST_LOG__KEEP_BYTES", "8GiB");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = programs::spawn(command)?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let mut seen = String::new();
        while let Some(line) = lines.next().transpose()? {
            if let Some((grpc, admin)) = listening(&line) {
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| report(&line)));
                return Ok(Self { child, data, grpc, admin });
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        Err(format!("the broker ended before it listened:\n{seen}").into())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it in order; gives its data directory.
    ///
    /// # Errors
    /// It did not end with 0.
    pub fn stop(mut self) -> Result<TempDir, Failure> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("the broker's orderly stop ended with {status}").into());
        }
        let kept = tempfile::Builder::new().prefix("stores-kept-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        Ok(std::mem::replace(&mut self.data, kept))
    }

    /// Where it is.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub async fn look(&self) -> Result<Look, Failure> {
        look(&self.admin).await
    }

    /// The sum of a metric over its labels.
    ///
    /// # Errors
    /// The admin port does not answer.
    pub async fn metric(&self, name: &str) -> Result<f64, Failure> {
        Ok(http::get(&self.admin, "/metrics").await.ok_or("the admin port does not answer")?.metric(name))
    }

    /// Looks every [`LOOK_EVERY`] until it is stopped.
    pub fn watch(&self) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (admin, asked) = (self.admin.clone(), Arc::clone(&stop));
        let looks = tokio::spawn(async move {
            let mut looks = Vec::new();
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !asked.load(Ordering::Relaxed) {
                ticks.tick().await;
                looks.push(look(&admin).await?);
            }
            Ok(looks)
        });
        Watch { stop, looks }
    }

    /// Waits until the store has everything, and gives how long that took.
    ///
    /// # Errors
    /// It takes longer than [`PATIENCE`].
    pub async fn drained(&self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        loop {
            let look = self.look().await?;
            if look.projected == look.durable {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the store is still behind after {PATIENCE:?}: {look:?}").into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Publishes bodies of 256 bytes that are kept for `life`, on 100 subjects and 8 connections, for a second that is not
    /// measured and `seconds` that are.
    ///
    /// # Errors
    /// The client fails.
    pub async fn publish(&self, pace: Pace, seconds: u64, life: &str) -> Result<Load, Failure> {
        let file = tempfile::NamedTempFile::new()?;
        let mut command = programs::tied();
        command.arg("--").arg(env!("CARGO_BIN_EXE_walcast")).args(["bench", "publish", "--connections", "8"]);
        without_settings(&mut command);
        command.arg("--server").arg(format!("http://{}", self.grpc)).arg("--json").arg(file.path());
        command.arg("--duration").arg(format!("{seconds}s")).args(["--warmup", "1s", "--expires", life]);
        match pace {
            Pace::Closed => command.args(["--in-flight", "32"]),
            Pace::Open(rate) => command.arg("--rate").arg(rate.to_string()),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = programs::spawn(command)?;
        let status = tokio::task::spawn_blocking(move || client.wait()).await??;
        if !status.success() {
            return Err(format!("the load ended with {status}").into());
        }
        Ok(serde_json::from_slice(&std::fs::read(file.path())?)?)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A task that looks at the positions.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    looks: JoinHandle<Result<Vec<Look>, Failure>>,
}

impl Watch {
    /// Ends it; gives what it saw.
    ///
    /// # Errors
    /// The admin port did not answer.
    pub async fn end(self) -> Result<Vec<Look>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.looks.await?
    }
}

async fn look(admin: &str) -> Result<Look, Failure> {
    let answer = http::get(admin, "/status").await.ok_or("the admin port does not answer")?;
    let status: serde_json::Value = serde_json::from_str(&answer.body)?;
    let position = |name: &str| {
        let found = status.get("log").and_then(|log| log.get(name)).and_then(serde_json::Value::as_u64);
        found.ok_or_else(|| format!("/status has no log.{name}"))
    };
    Ok(Look { at: Instant::now(), durable: position("durable")?, projected: position("projected")? })
}

/// Takes away the settings of whoever runs this.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WALCAST_")) {
        command.env_remove(name);
    }
}

fn listening(line: &str) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = value.get("fields").unwrap_or(&value);
    let text = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
    (text("message")? == "listening").then(|| Some((text("grpc")?, text("admin")?)))?
}

fn report(line: &str) {
    if (line.contains("WARN") || line.contains("ERROR")) && !ANNOUNCED.iter().any(|part| line.contains(part)) {
        eprintln!("  the broker: {line}");
    }
}
