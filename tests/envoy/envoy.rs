//! A real Envoy with the configuration that is shipped, at other addresses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Broker, eventually, http, programs};

const INSTALL: &str = "run `tests/services/install envoy`";

/// What an Envoy stands before, and how it differs from the shipped one.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    brokers: Vec<String>,
    collector: Option<String>,
    ratelimit: Option<String>,
    affinity: bool,
    absent: usize,
    edits: Vec<(String, String)>,
}

impl Plan {
    /// Before these brokers, with no collector and no rate limit service.
    pub fn before<'a>(brokers: impl IntoIterator<Item = &'a Broker>) -> Self {
        Self::at(brokers.into_iter().map(|broker| broker.grpc().to_owned()))
    }

    /// Before the brokers at these addresses.
    pub fn at(brokers: impl IntoIterator<Item = String>) -> Self {
        Self { brokers: brokers.into_iter().collect(), ..Self::default() }
    }

    /// The collector of its spans; they are lost where nobody listens.
    #[must_use]
    pub fn collector(mut self, port: u16) -> Self {
        self.collector = Some(at(port));
        self
    }

    /// The service of global rate limits; calls pass where nobody listens.
    #[must_use]
    pub fn ratelimit(mut self, port: u16) -> Self {
        self.ratelimit = Some(at(port));
        self
    }

    /// With subject affinity.
    #[must_use]
    pub fn affinity(mut self) -> Self {
        self.affinity = true;
        self
    }

    /// So many of the brokers are not there yet.
    #[must_use]
    pub fn absent(mut self, count: usize) -> Self {
        self.absent = count;
        self
    }

    /// Another text in the place of one that is in the file so many times.
    #[must_use]
    pub fn edit_all(mut self, times: usize, from: &str, to: &str) -> Self {
        assert_eq!(shipped().matches(from).count(), times, "{from}");
        self.edits.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Another text in the place of one that is in the file once.
    #[must_use]
    pub fn edit(self, from: &str, to: &str) -> Self {
        self.edit_all(1, from, to)
    }

    /// Another local limit of a method: so many calls at once, so many a second.
    #[must_use]
    pub fn local_limit(self, method: &str, at_once: u32, per_second: u32) -> Self {
        let mark = format!(" # @local {method}");
        let line = shipped().lines().find(|line| line.ends_with(&mark)).expect("its line is marked").trim();
        let bucket =
            format!("token_bucket: {{ max_tokens: {at_once}, tokens_per_fill: {per_second}, fill_interval: 1s }}");
        self.edit(line, &bucket)
    }

    /// What `deploy/envoy/configure` writes, with the edits.
    fn text(&self, grpc: u16, admin: u16, stats: u16) -> String {
        let mut command = Command::new(repository("deploy/envoy/configure"));
        command.args(["--listen", &at(grpc), "--admin", &admin.to_string(), "--stats", &at(stats)]);
        for broker in &self.brokers {
            command.args(["--broker", broker]);
        }
        let nobody = at(programs::port());
        command.args(["--collector", self.collector.as_ref().unwrap_or(&nobody)]);
        command.args(["--ratelimit", self.ratelimit.as_ref().unwrap_or(&nobody)]);
        command.args(self.affinity.then_some("--affinity"));
        let output = command.output().expect("it can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut text = String::from_utf8(output.stdout).expect("it is text");
        for (from, to) in &self.edits {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        text
    }

    /// Starts it; ready when all brokers that are there are found healthy.
    pub async fn start(self) -> Envoy {
        let (grpc, admin, stats) = (programs::port(), programs::port(), programs::port());
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let configuration = folder.path().join("envoy.yaml");
        fs::write(&configuration, self.text(grpc, admin, stats)).expect("the folder is ours");
        let file = |name| fs::File::create(folder.path().join(name)).expect("the folder is ours");
        let mut command = programs::tied();
        command.arg(program()).arg("-c").arg(&configuration);
        // With hot restart the kernel ends it with the thread that has started it.
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "--drain-time-s", "3"]);
        command.stdin(Stdio::null()).stdout(file("access")).stderr(file("log"));
        let process = programs::spawn(command).unwrap_or_else(|error| panic!("setpriv: {error}; {INSTALL}"));
        let envoy = Envoy { folder, grpc: at(grpc), admin: at(admin), stats: at(stats), process };
        envoy.healthy(self.brokers.len() - self.absent).await;
        eventually("Envoy to be ready", || async {
            (http::get(&envoy.admin, "/ready").await?.status == 200).then_some(())
        })
        .await;
        envoy
    }
}

/// A running Envoy. It is killed when it goes out of scope.
#[derive(Debug)]
pub struct Envoy {
    folder: TempDir,
    grpc: String,
    admin: String,
    stats: String,
    process: Child,
}

impl Envoy {
    /// `HOST:PORT` for clients.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// `HOST:PORT` of its admin port.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// `HOST:PORT` of what Prometheus may read.
    pub fn stats(&self) -> &str {
        &self.stats
    }

    /// Waits until so many brokers are healthy.
    pub async fn healthy(&self, count: usize) {
        eventually("Envoy to find brokers healthy", || async {
            (self.stat("cluster.broker.membership_healthy").await? == count as u64).then_some(())
        })
        .await;
    }

    /// A counter or gauge by its whole name; None while it does not answer or does not have it.
    pub async fn stat(&self, name: &str) -> Option<u64> {
        let stats = http::get(&self.admin, &format!("/stats?filter=^{name}$")).await?;
        stats.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok())
    }

    /// A counter, 0 if nothing has counted yet.
    pub async fn count(&self, name: &str) -> u64 {
        self.stat(name).await.unwrap_or(0)
    }

    /// A counter of a broker, as Envoy has it for each of them.
    pub async fn count_of(&self, broker: &str, counter: &str) -> u64 {
        let clusters = http::get(&self.admin, "/clusters").await.expect("the admin port answers").body;
        let line = format!("broker::{broker}::{counter}::");
        let value = clusters.lines().find_map(|text| text.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("no {line} in {clusters}")).parse().expect("a number")
    }

    /// The access log until now, each line as JSON.
    pub fn access_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("access")).expect("it is there");
        // The last line may not be whole yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// `POST` on the admin port.
    pub async fn post(&self, path: &str) -> u16 {
        http::post(&self.admin, path).await.expect("the admin port answers").status
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            eprintln!("Envoy wrote: {}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

/// Where the tests have what listens on this port.
pub fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The configuration that is shipped.
pub fn shipped() -> &'static str {
    static SHIPPED: LazyLock<String> =
        LazyLock::new(|| fs::read_to_string(repository("deploy/envoy/envoy.yaml")).expect("it is there"));
    &SHIPPED
}

/// The program in the Python package.
pub fn program() -> &'static PathBuf {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let python = repository("target/services/venv/bin/python");
        let find = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
        let output =
            Command::new(python).args(["-c", find]).output().unwrap_or_else(|error| panic!("{error}; {INSTALL}"));
        assert!(output.status.success(), "{}{INSTALL}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    });
    &PROGRAM
}
