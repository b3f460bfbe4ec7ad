//! A system under measurement as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tempfile::TempDir;

use crate::{Failure, http, processes};

/// How long a metric may take to become what it has to be.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What is started.
#[derive(Debug, Clone)]
pub enum Launch {
    /// The server that does nothing; `stamped`: with the published body in what it delivers.
    Noop { stamped: bool },
    /// The broker: its defaults, but for these settings, named as in the environment without `WALCAST_`.
    Walcast(Vec<(&'static str, String)>),
}

/// A running server; killed when it goes out of scope.
pub struct ServerProcess {
    child: Child,
    /// `http://ADDRESS` of its gRPC port, or of what clients find it behind.
    pub uri: String,
    /// Address of the broker's admin port.
    admin: Option<String>,
    _data: TempDir,
}

impl ServerProcess {
    /// Starts it with an empty data directory below `data_root` and waits until it listens.
    pub async fn start(launch: Launch, walcast: &Path, data_root: &Path) -> Result<Self, Failure> {
        let data = tempfile::Builder::new().prefix("yardstick").tempdir_in(data_root)?;
        let mut command = match launch {
            Launch::Noop { stamped } => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("noop").args(stamped.then_some("--stamped"));
                command
            }
            Launch::Walcast(settings) => {
                let mut command = Command::new(walcast);
                command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"]);
                command.arg(data.path().join("data"));
                // Not the settings of whoever runs this.
                for (name, _) in
                    std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WALCAST_"))
                {
                    command.env_remove(name);
                }
                command.envs(settings.iter().map(|(name, value)| (format!("WALCAST_{name}"), value)));
                command
            }
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().ok_or("no stderr")?;
        let (address, admin) = tokio::task::spawn_blocking(move || addresses_of(stderr)).await??;
        Ok(Self { child, uri: format!("http://{address}"), admin, _data: data })
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// CPU seconds that it has used, user and system.
    pub fn cpu_seconds(&self) -> Result<f64, Failure> {
        processes::cpu_seconds(self.child.id())
    }

    /// CPU seconds once it has nothing left to do: what a call costs includes what it causes afterwards.
    pub async fn cpu_seconds_when_quiet(&self) -> Result<f64, Failure> {
        processes::cpu_seconds_when_quiet(self.child.id()).await
    }

    /// Peak resident memory in MiB.
    pub fn peak_memory_mib(&self) -> Result<f64, Failure> {
        processes::memory_mib(self.child.id(), "VmHWM:")
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> Result<f64, Failure> {
        processes::memory_mib(self.child.id(), "VmRSS:")
    }

    /// A metric of the broker's: with its labels that series, without them the sum over all.
    pub async fn metric(&self, series: &str) -> Result<f64, Failure> {
        let admin = self.admin.as_deref().ok_or("a server without metrics")?;
        let answer = http::get(admin, "/metrics").await.ok_or("the admin port does not answer")?;
        let name = series.split('{').next().unwrap_or(series);
        let histogram = name.strip_suffix("_count").unwrap_or(name);
        let is_there = |name| answer.body.contains(&format!("\n# TYPE {name} "));
        // One that is not there counts as 0, and a check against a name that nobody has would never fail.
        if answer.status != 200 || !(is_there(name) || is_there(histogram)) {
            return Err(format!("the broker has no metric {name}").into());
        }
        Ok(answer.metric(series))
    }

    /// Waits until a metric of the broker's is what it has to be.
    pub async fn metric_becomes(&self, series: &str, expected: impl Fn(f64) -> bool) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            let value = self.metric(series).await?;
            if expected(value) {
                return Ok(());
            }
            if started.elapsed() > DRAIN_MAX {
                return Err(format!("{series} is still {value} after {DRAIN_MAX:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads lines up to the one that says `listening`; a thread of its own passes on warnings from then on.
fn addresses_of(stderr: ChildStderr) -> Result<(String, Option<String>), Failure> {
    let mut lines = BufReader::new(stderr).lines();
    let mut seen = String::new();
    while let Some(line) = lines.next().transpose()? {
        if let Some(addresses) = listening(&line) {
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok).filter(|line| line.contains("WARN") || line.contains("ERROR")) {
                    eprintln!("  {line}");
                }
            });
            return Ok(addresses);
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    Err(format!("the server ended before it listened:\n{seen}").into())
}

fn listening(line: &str) -> Option<(String, Option<String>)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = value.get("fields").unwrap_or(&value);
    let text = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
    (text("message")? == "listening").then(|| Some((text("grpc")?, text("admin"))))?
}
