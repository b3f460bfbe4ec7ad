//! The broker as a process: settings, start, readiness, orderly and disorderly ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::Client;
use super::http::{self, HttpAnswer};
use super::logs::{self, Logs};
use super::{PATIENCE, eventually, without_settings};

/// How a broker is to be started.
#[derive(Debug, Clone)]
pub struct Setup {
    root: Arc<TempDir>,
    binary: PathBuf,
    data_dir: PathBuf,
    settings: Vec<(String, String)>,
    args: Vec<OsString>,
    wrapper: Vec<OsString>,
    announced: Arc<Mutex<Vec<String>>>,
}

impl Default for Setup {
    fn default() -> Self {
        let root = tempfile::Builder::new().prefix("it-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let data_dir = root.path().join("data");
        // Segments are filled with zeros ahead of need; 64 MiB for each of many small brokers would be all disk.
        let settings = vec![("log.segment_bytes".to_owned(), "4MiB".to_owned())];
        let announced = Arc::default();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_walcast"));
        Self { root: Arc::new(root), binary, data_dir, settings, args: Vec::new(), wrapper: Vec::new(), announced }
    }
}

impl Setup {
    /// The defaults, with small segments, free ports and an empty data directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key of the configuration (`log.segment_bytes`) by its environment variable.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets `--store`.
    #[must_use]
    pub fn store(self, kind: &str) -> Self {
        self.arg("--store").arg(kind)
    }

    /// Adds an argument to `walcast serve`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Uses another data directory than the one made for the test.
    #[must_use]
    pub fn data_dir(mut self, data_dir: impl Into<PathBuf>) -> Self {
        self.data_dir = data_dir.into();
        self
    }

    /// Runs another build of the broker.
    #[must_use]
    pub fn binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = binary.into();
        self
    }

    /// Runs the broker under another program, which gets its command line as arguments.
    #[must_use]
    pub fn under<Arg: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = Arg>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// Announces a WARN or ERROR line, by any part of it.
    #[must_use]
    pub fn expect_log(self, part: &str) -> Self {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).push(part.to_owned());
        self
    }

    /// A folder that lives as long as the test.
    pub fn folder(&self) -> &Path {
        self.root.path()
    }

    /// The data directory that the broker will use.
    pub fn data(&self) -> &Path {
        &self.data_dir
    }

    /// The command, with stderr to be read.
    pub fn command(&self) -> Command {
        let mut words: Vec<OsString> = self.wrapper.clone();
        words.push(self.binary.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("serve");
        for flag in ["--listen", "--admin-listen"] {
            if !self.args.iter().any(|arg| arg == flag) {
                command.arg(flag).arg("127.0.0.1:0");
            }
        }
        command.arg("--data-dir").arg(&self.data_dir).args(&self.args);
        without_settings(&mut command);
        command.envs(self.environment());
        command.current_dir(self.root.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// `walcast` with these arguments on the data directory of a broker that is stopped, with its settings: exit code, and what it says.
    pub fn tool(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--data-dir").arg(&self.data_dir).stdin(Stdio::null());
        without_settings(&mut command);
        command.envs(self.environment());
        let output = command.output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    fn environment(&self) -> impl Iterator<Item = (String, &str)> {
        let name = |key: &str| format!("WALCAST_{}", key.to_uppercase().replace('.', "__"));
        self.settings.iter().map(move |(key, value)| (name(key), value.as_str()))
    }

    /// Starts it and waits until `/readyz` says so.
    pub async fn start(self) -> Broker {
        let started = self.try_start().await;
        started.unwrap_or_else(|(status, said)| panic!("the broker ended with {status} before it listened: {said}"))
    }

    /// Starts it and waits until `/readyz` says so, or gives how it ended and what it said.
    ///
    /// # Errors
    /// The exit status and stderr of a broker that refused to start.
    pub async fn try_start(self) -> Result<Broker, (ExitStatus, String)> {
        let mut child = self.command().spawn().expect("the broker's binary can be run");
        let logs = Logs::collect(child.stderr.take().expect("stderr is piped"));
        let waiting = logs.clone();
        let found = tokio::task::spawn_blocking(move || waiting.wait_for("its addresses", logs::listening)).await;
        let Some((grpc, admin)) = found.expect("the wait does not panic") else {
            let status = child.wait().expect("it was started");
            return Err((status, logs.to_the_end().join("\n")));
        };
        let broker = Broker { child, setup: self, logs, grpc, admin, over: false };
        eventually("readiness", || async { (broker.get("/readyz").await?.status == 200).then_some(()) }).await;
        Ok(broker)
    }

    /// Starts it, expecting that it refuses; gives the exit code and stderr.
    pub fn refuse(&self) -> (i32, String) {
        let mut child = self.command().spawn().expect("the broker's binary can be run");
        let logs = Logs::collect(child.stderr.take().expect("stderr is piped"));
        let status = wait_for_exit(&mut child);
        let text = logs.to_the_end().join("\n");
        (status.code().unwrap_or_else(|| panic!("ended by a signal: {status}; {text}")), text)
    }
}

/// A running broker. When it goes out of scope it is killed and its log lines are checked.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    setup: Setup,
    logs: Logs,
    grpc: String,
    admin: String,
    over: bool,
}

/// A broker that ended; its data directory is kept, and it can be started again.
#[derive(Debug)]
pub struct Stopped {
    setup: Setup,
    lines: Vec<String>,
}

impl Broker {
    /// Starts one with [`Setup::new`].
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    /// `HOST:PORT` of the gRPC port.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// `HOST:PORT` of the admin port.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.setup.data()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client with a connection of its own.
    pub async fn client(&self) -> Client {
        Client::connect(&self.grpc).await
    }

    /// `GET` on the admin port; None when it cannot be reached.
    pub async fn get(&self, path: &str) -> Option<HttpAnswer> {
        http::get(&self.admin, path).await
    }

    /// The value of a metric without labels, or the sum over all its label sets; 0 if it does not exist yet.
    pub async fn metric(&self, name: &str) -> f64 {
        self.get("/metrics").await.expect("the admin port answers").metric(name)
    }

    /// One of the positions: `durable`, `projected`, `trimmed`.
    pub async fn position(&self, name: &str) -> f64 {
        self.metric(&format!("walcast_position{{position=\"{name}\"}}")).await
    }

    /// Waits until the store has everything that is durable.
    pub async fn all_projected(&self) {
        eventually("the store to catch up", || async {
            let durable = self.position("durable").await;
            (self.position("projected").await == durable).then_some(())
        })
        .await;
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// The first log line that contains `part`, once it is there.
    #[cfg(feature = "fault-controls")]
    pub fn logged(&self, part: &str) -> String {
        let found = self.logs.wait_for(part, |line| line.contains(part).then(|| line.to_owned()));
        found.expect("the broker runs")
    }

    /// Sends a signal, and does not wait for what comes of it but for STOP, after which nothing runs any more.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
        if signal == Signal::STOP {
            self.await_standstill();
        }
    }

    /// Until each of its threads stands still. One of them takes the signal and then stops the others: on a busy machine they go on
    /// until it has its turn.
    fn await_standstill(&self) {
        let folder = format!("/proc/{}/task", self.child.id());
        let stands = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
            // After the name in brackets; a thread that has ended stands still, too.
            stat.map_or(true, |stat| {
                stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
            })
        };
        let began = Instant::now();
        while !std::fs::read_dir(&folder).expect("it runs").all(stands) {
            assert!(began.elapsed() < Duration::from_secs(10), "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGTERM, then waits for exit code 0.
    pub async fn stop(self) -> Stopped {
        self.signal(Signal::TERM);
        let (status, stopped) = self.wait().await;
        assert_eq!(status.code(), Some(0), "an orderly stop ended with {status}");
        stopped
    }

    /// SIGKILL: nothing of the process runs any more.
    pub async fn kill_nine(self) -> Stopped {
        self.signal(Signal::KILL);
        self.wait().await.1
    }

    /// Waits until it ends and checks its log lines.
    pub async fn wait(mut self) -> (ExitStatus, Stopped) {
        let status = tokio::task::block_in_place(|| wait_for_exit(&mut self.child));
        self.check_logs();
        (status, Stopped { setup: self.setup.clone(), lines: self.logs.to_the_end() })
    }

    fn check_logs(&mut self) {
        self.over = true;
        let announced = self.setup.announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lines = self.logs.to_the_end();
        let unannounced = logs::unannounced(&lines, &announced);
        assert!(unannounced.is_empty(), "log lines that the scenario did not announce: {unannounced:#?}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // It can only be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("the broker logged: {:#?}", self.logs.to_the_end());
        } else {
            self.check_logs();
        }
    }
}

impl Stopped {
    /// Starts it again on the same data directory with the same settings.
    pub async fn start(self) -> Broker {
        self.setup.start().await
    }

    /// How many of its log lines hold this part.
    pub fn logged(&self, part: &str) -> usize {
        self.lines.iter().filter(|line| line.contains(part)).count()
    }

    /// Its settings, to be changed before it starts again.
    pub fn setup(self) -> Setup {
        self.setup
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.setup.data()
    }
}

fn wait_for_exit(child: &mut Child) -> ExitStatus {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("it was started") {
            return status;
        }
        if Instant::now() > give_up {
            drop(child.kill());
            panic!("the broker did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
