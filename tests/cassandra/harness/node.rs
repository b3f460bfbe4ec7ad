//! A Cassandra node as a process.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;

use crate::support::programs;

/// Ten times what a start takes beside builds.
const START_WITHIN: Duration = Duration::from_secs(200);

/// A small heap and only the first compiler: starts in half the time.
const QUICK: &str = "-Xms512m -Xmx512m -XX:MaxDirectMemorySize=256m -XX:TieredStopAtLevel=1";

/// What Cassandra 5 needs of the modules of Java 17.
const OPENED: &str = include_str!("opened-modules");

/// How a node is to be started.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    java: Option<&'static str>,
    keeps_tables: bool,
    yaml: Vec<String>,
    clock_ahead_seconds: Option<i64>,
}

impl Setup {
    /// Acknowledges a write only when it is synced, so that `kill -9` loses nothing; the default loses up to ten seconds.
    pub fn synced() -> Self {
        Self { keeps_tables: true, ..Self::default() }.yaml("commitlog_sync: batch")
    }

    /// As in production: with both compilers of the Java machine and a larger heap, for measurements.
    pub fn compiled() -> Self {
        Self { java: Some("-Xms1g -Xmx1g -XX:MaxDirectMemorySize=512m"), ..Self::default() }
    }

    /// As [`Setup::compiled`], and with tables that are still there after a restart.
    pub fn lasting() -> Self {
        Self { keeps_tables: true, ..Self::compiled() }
    }

    /// Adds lines to cassandra.yaml; a key of the defaults is replaced.
    #[must_use]
    pub fn yaml(mut self, lines: &str) -> Self {
        self.yaml.push(lines.to_owned());
        self
    }

    /// Lets its clock be wrong by so many seconds, which may be negative.
    #[must_use]
    pub fn clock_ahead(self, seconds: i64) -> Self {
        Self { clock_ahead_seconds: Some(seconds), ..self }
    }

    /// Starts a node of its own.
    pub fn start(self) -> Node {
        Node::start(self)
    }
}

/// A node; gone when it is dropped.
#[derive(Debug)]
pub struct Node {
    setup: Setup,
    folder: TempDir,
    port: u16,
    storage_port: u16,
    child: Mutex<Option<Child>>,
    clock_ahead_seconds: Mutex<Option<i64>>,
}

/// The node that all tests of this process share.
pub fn shared() -> &'static Node {
    static SHARED: OnceLock<Node> = OnceLock::new();
    SHARED.get_or_init(|| {
        remove_left_over();
        Setup::default().start()
    })
}

/// The node that those tests share that kill and freeze one: whoever has it is alone with it.
#[derive(Debug)]
pub struct Disturbed {
    node: &'static Node,
    _turn: OwnedMutexGuard<()>,
}

/// That node. It runs and has synced what it acknowledged.
pub async fn disturbed() -> Disturbed {
    static DISTURBED: OnceLock<Node> = OnceLock::new();
    static TURN: OnceLock<Arc<tokio::sync::Mutex<()>>> = OnceLock::new();
    let turn = Arc::clone(TURN.get_or_init(Arc::default)).lock_owned().await;
    let node = DISTURBED.get_or_init(|| Setup::synced().start());
    node.revive();
    Disturbed { node, _turn: turn }
}

impl Deref for Disturbed {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node
    }
}

impl Node {
    fn start(setup: Setup) -> Self {
        installed();
        let prefix = format!("cassandra-{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(folders()).expect("a folder");
        let (port, storage_port) = (programs::port(), programs::port());
        let clock_ahead_seconds = Mutex::new(setup.clock_ahead_seconds);
        let node = Self { setup, folder, port, storage_port, child: Mutex::new(None), clock_ahead_seconds };
        fs::create_dir_all(node.folder.path().join("conf")).expect("a folder");
        fs::write(node.folder.path().join("conf/cassandra.yaml"), node.yaml()).expect("written");
        fs::write(node.folder.path().join("conf/logback.xml"), node.logback()).expect("written");
        node.launch();
        node.wait_until_ready();
        node
    }

    /// `127.0.0.1:PORT` of the CQL protocol.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child().as_ref().expect("it runs").id()
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops it in order: what is in memory is in its tables afterwards.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child().take() {
            child.wait().expect("it was started");
        }
    }

    /// Kills it: `kill -9`.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it was started");
        }
    }

    /// Starts it again on its data, and waits until it is ready.
    pub fn restart(&self) {
        self.kill();
        self.launch();
        self.wait_until_ready();
    }

    /// The same with a clock that is wrong by so many seconds; None for the right one.
    pub fn restart_with_clock(&self, ahead_seconds: Option<i64>) {
        *self.clock_ahead_seconds.lock().unwrap_or_else(PoisonError::into_inner) = ahead_seconds;
        self.restart();
    }

    /// Stops it in the middle of everything: SIGSTOP.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Lets it run, whatever a test left that failed.
    fn revive(&self) {
        let runs = self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if runs { self.thaw() } else { self.restart() }
    }

    fn signal(&self, signal: Signal) {
        let child = self.child();
        let pid = child.as_ref().expect("it runs").id();
        kill_process(Pid::from_raw(pid.cast_signed()).expect("a process id"), signal).expect("it runs");
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch(&self) {
        let folder = self.folder.path();
        let library = services().join("cassandra/lib");
        let jars = fs::read_dir(&library).expect("installed").map(|jar| jar.expect("readable").path());
        let agent = jars.into_iter().find(|jar| file_name(jar).starts_with("jamm-")).expect("jamm is among the jars");
        fs::write(folder.join("system.log"), "").expect("written");
        let output = fs::File::create(folder.join("output.log")).expect("made");
        let java = services().join("cassandra/java");
        let mut command = programs::tied();
        command.arg("--").arg(java);
        command.args(self.setup.java.unwrap_or(QUICK).split(' '));
        command.args("-Xss512k -XX:+UseSerialGC -XX:ActiveProcessorCount=2 -XX:-UsePerfData".split(' '));
        for module in OPENED.lines() {
            command.args(["--add-opens", &format!("{module}=ALL-UNNAMED")]);
            command.args(["--add-exports", &format!("{module}=ALL-UNNAMED")]);
        }
        command.arg(format!("-javaagent:{}", agent.display()));
        for (name, value) in [
            ("jdk.attach.allowAttachSelf", "true"),
            ("io.netty.tryReflectionSetAccessible", "true"),
            ("java.net.preferIPv4Stack", "true"),
            ("cassandra.config", &format!("file://{}/conf/cassandra.yaml", folder.display())),
            ("logback.configurationFile", &format!("{}/conf/logback.xml", folder.display())),
            ("cassandra.storagedir", &format!("{}/data", folder.display())),
            ("cassandra.logdir", &folder.display().to_string()),
            ("cassandra.skip_wait_for_gossip_to_settle", "0"),
            ("cassandra.ring_delay_ms", "1000"),
            ("cassandra.superuser_setup_delay_ms", "0"),
            ("cassandra-foreground", "yes"),
            // Tables are made and not synced, which takes most of the time of tests with a keyspace each.
            ("cassandra.unsafesystem", if self.setup.keeps_tables { "false" } else { "true" }),
        ] {
            command.arg(format!("-D{name}={value}"));
        }
        if let Some(seconds) = *self.clock_ahead_seconds.lock().unwrap_or_else(PoisonError::into_inner) {
            self.compile_clock();
            command.arg("-Dcassandra.clock=SkewedClock");
            command.arg(format!("-Dwalcast.clock_ahead_millis={}", seconds * 1_000));
        }
        command.args(["-cp", &format!("{}/conf:{}/*", folder.display(), library.display())]);
        command.arg("org.apache.cassandra.service.CassandraDaemon");
        command.current_dir(folder).stdin(Stdio::null());
        command.stderr(output.try_clone().expect("a file")).stdout(output);
        *self.child() = Some(programs::spawn(command).expect("java can be started"));
    }

    fn compile_clock(&self) {
        let mut compiler = Command::new("javac");
        compiler.args(["--release", "17", "-cp", &format!("{}/*", services().join("cassandra/lib").display()), "-d"]);
        compiler.arg(self.folder.path().join("conf"));
        compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cassandra/harness/SkewedClock.java"));
        let output = compiler.output().expect("javac runs: `tests/services/install cassandra` brings it");
        assert!(output.status.success(), "javac: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn wait_until_ready(&self) {
        let started = Instant::now();
        loop {
            let said = fs::read_to_string(self.folder.path().join("system.log")).unwrap_or_default();
            if said.contains("Startup complete") && TcpStream::connect(self.address()).is_ok() {
                return;
            }
            let ended = self.child().as_mut().and_then(|child| child.try_wait().expect("it was started"));
            assert!(ended.is_none(), "Cassandra ended with {ended:?}: {}", self.last_words());
            assert!(started.elapsed() < START_WITHIN, "Cassandra is not ready: {}", self.last_words());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of its log and of its output.
    fn last_words(&self) -> String {
        let mut words = String::new();
        for file in ["system.log", "output.log"] {
            let text = fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(15)..];
            write!(words, "\n--- {file}\n{}", last.join("\n")).expect("a string");
        }
        words
    }

    fn yaml(&self) -> String {
        let data = self.folder.path().join("data");
        let data = data.display();
        let mut lines: Vec<String> = format!(
            "cluster_name: walcast-test\nnum_tokens: 4\npartitioner: org.apache.cassandra.dht.Murmur3Partitioner\n\
             authenticator: AllowAllAuthenticator\nauthorizer: AllowAllAuthorizer\n\
             data_file_directories: [ {data}/data ]\ncommitlog_directory: {data}/commitlog\n\
             hints_directory: {data}/hints\nsaved_caches_directory: {data}/saved_caches\ncdc_raw_directory: {data}/cdc\n\
             commitlog_sync: periodic\ncommitlog_sync_period: 10000ms\ncommitlog_segment_size: 8MiB\n\
             commitlog_total_space: 128MiB\n\
             seed_provider: [ {{ class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [ {{ seeds: \"127.0.0.1:{storage}\" }} ] }} ]\n\
             listen_address: 127.0.0.1\nrpc_address: 127.0.0.1\nnative_transport_port: {port}\nstorage_port: {storage}\n\
             endpoint_snitch: SimpleSnitch\nmemtable_heap_space: 64MiB\nfile_cache_size: 32MiB\nauto_snapshot: false",
            port = self.port,
            storage = self.storage_port,
        )
        .lines()
        .map(str::to_owned)
        .collect();
        for added in &self.setup.yaml {
            let key = |line: &str| line.split_once(':').map(|(key, _)| key.to_owned());
            lines.retain(|line| added.lines().all(|added| key(added) != key(line)));
            // A sync period belongs to the periodic mode only.
            lines.retain(|line| !added.contains("commitlog_sync: batch") || !line.starts_with("commitlog_sync_period"));
            lines.push(added.clone());
        }
        lines.join("\n")
    }

    fn logback(&self) -> String {
        format!(
            "<configuration><appender name=\"F\" class=\"ch.qos.logback.core.FileAppender\"><file>{}/system.log</file>\
             <encoder><pattern>%-5level %date{{ISO8601}} %logger{{0}} - %msg%n</pattern></encoder></appender>\
             <root level=\"INFO\"><appender-ref ref=\"F\"/></root></configuration>",
            self.folder.path().display()
        )
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets one test at a time have a private node: each takes 0.8 GB.
pub fn one_at_a_time() -> Arc<tokio::sync::Mutex<()>> {
    static TURN: OnceLock<Arc<tokio::sync::Mutex<()>>> = OnceLock::new();
    Arc::clone(TURN.get_or_init(Arc::default))
}

fn services() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/services")
}

fn installed() {
    let java = services().join("cassandra/java");
    assert!(java.exists(), "{} is not there: run `tests/services/install cassandra`", java.display());
}

/// Where nodes keep their files. A rig that times the broker keeps them off its disk.
fn folders() -> PathBuf {
    std::env::var_os("DATABASES_DIR").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The shared node's folder outlives its process, because statics are not dropped: the next run removes it.
fn remove_left_over() {
    let folders = fs::read_dir(folders()).expect("there").filter_map(Result::ok);
    for folder in folders {
        let name = folder.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("cassandra-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            fs::remove_dir_all(folder.path()).expect("nobody uses it");
        }
    }
}
