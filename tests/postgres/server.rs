//! A real Postgres: made from a template, started, stopped, killed and frozen.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};
use walcast::projector::postgres::Config;
use walcast::projector::{Opening, PostgresStore};

use crate::keeper::{self, INSTALL};
use crate::support::{PATIENCE, programs};

/// The superuser of every cluster.
pub const USER: &str = "walcast";

/// Where the programs of the newest installed version are.
fn programs() -> &'static Path {
    static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let found = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("postgres").exists());
        found.max().unwrap_or_else(|| panic!("there is no Postgres below /usr/lib/postgresql: {INSTALL}"))
    });
    &PROGRAMS
}

/// A cluster as initdb makes it, made once.
fn template() -> &'static Path {
    static TEMPLATE: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = keeper::folder("template");
        keeper::hand_over(&folder);
        let data = folder.join("data");
        let mut initdb = keeper::unprivileged(&programs().join("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let made = initdb.current_dir(&folder).output().unwrap_or_else(|error| panic!("initdb: {error}; {INSTALL}"));
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        data
    });
    &TEMPLATE
}

/// A cluster with its server.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    process: Mutex<Option<Child>>,
    databases: AtomicU32,
}

impl Server {
    /// A new cluster, started.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A new cluster with settings such as `wal_level=minimal`, started.
    pub fn with(settings: &[&str]) -> Self {
        let folder = keeper::folder("server");
        copy(template(), &folder.join("data"));
        keeper::hand_over(&folder);
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let databases = AtomicU32::new(0);
        let server = Self { folder, port: programs::port(), settings, process: Mutex::new(None), databases };
        server.start_again();
        server
    }

    /// The folder of the cluster and what belongs to it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process that all others of the server descend from.
    #[allow(dead_code, reason = "the comparison of the stores asks for it, the tests do not")]
    pub fn pid(&self) -> u32 {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_ref().expect("it runs").id()
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the server on the cluster, and waits until it takes connections.
    pub fn start_again(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(process.is_none(), "it runs");
        let give_up = Instant::now() + PATIENCE;
        loop {
            let mut child = keeper::spawn(self.command());
            loop {
                // One that was killed may still hold memory or the port: then this one ends at once.
                if child.try_wait().expect("it was started").is_some() {
                    break;
                }
                if self.is_ready() {
                    *process = Some(child);
                    return;
                }
                assert!(Instant::now() < give_up, "Postgres is not ready: {}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(Instant::now() < give_up, "Postgres does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn command(&self) -> Command {
        let mut command = keeper::unprivileged(&programs().join("postgres"));
        command.arg("-D").arg(self.folder.join("data"));
        let own = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.folder.display()),
            "shared_buffers=32MB".to_owned(),
            "max_connections=60".to_owned(),
            // Nothing here cuts the power.
            "fsync=off".to_owned(),
        ];
        for setting in own.iter().chain(&self.settings) {
            command.arg("-c").arg(setting);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).expect("it is ours");
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    fn is_ready(&self) -> bool {
        let mut command = Command::new(programs().join("pg_isready"));
        command.args(["-q", "-h", "127.0.0.1", "-t", "1", "-p", &self.port.to_string()]);
        command.status().is_ok_and(|status| status.success())
    }

    /// What the server wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its processes, the first of all first.
    fn processes(&self) -> Vec<Pid> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = process.as_ref() else { return Vec::new() };
        let postmaster = Pid::from_child(child);
        let parent = format!(" {} ", postmaster.as_raw_nonzero());
        let all = fs::read_dir("/proc").expect("there is a /proc").flatten();
        let children = all.filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name in parentheses come the state and the parent.
            stat.rsplit_once(')')?.1.get(2..)?.starts_with(&parent).then_some(Pid::from_raw(pid)?)
        });
        let children: Vec<Pid> = children.collect();
        std::iter::once(postmaster).chain(children).collect()
    }

    fn signal(&self, signal: Signal) {
        for process in self.processes() {
            // A backend may just have ended.
            kill_process(process, signal).ok();
        }
    }

    /// SIGKILL to all of it.
    pub fn kill_nine(&self) {
        self.signal(Signal::KILL);
        self.wait_for_the_end();
    }

    /// SIGSTOP to all of it: the kernel still accepts connections.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// An orderly stop that does not wait for clients.
    pub fn stop(&self) {
        let process = self.processes().first().copied().expect("it runs");
        kill_process(process, Signal::INT).expect("it runs");
        self.wait_for_the_end();
    }

    fn wait_for_the_end(&self) {
        if let Some(mut child) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(child.wait());
        }
    }

    /// A new database; gives its name.
    pub async fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let admin = self.client("postgres").await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a new database");
        name
    }

    /// The URL of a database for the superuser.
    pub fn url(&self, database: &str) -> String {
        url_at(self.port, database)
    }

    /// A connection of the test's own.
    pub async fn client(&self, database: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(database), NoTls).await.expect("it takes connections");
        tokio::spawn(connection);
        client
    }

    /// Makes a file in the data directory and tells the server to read its settings again.
    pub async fn configure(&self, file: &str, text: &str) {
        self.write(file, text);
        self.client("postgres").await.batch_execute("SELECT pg_reload_conf()").await.expect("it reloads");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// Makes a file in the data directory that only the server reads.
    pub fn write(&self, file: &str, text: &str) {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.folder.join("data").join(file);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.expect("it is ours").write_all(text.as_bytes()).expect("it is ours");
        keeper::hand_over(&path);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        self.wait_for_the_end();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(30).collect::<Vec<_>>();
            eprintln!("Postgres wrote, newest first: {tail:#?}");
        }
        keeper::remove(&self.folder);
    }
}

/// The URL of a database behind this port.
pub fn url_at(port: u16, database: &str) -> String {
    format!("postgres://{USER}@127.0.0.1:{port}/{database}")
}

/// A configuration that notices trouble soon.
pub fn config(url: &str) -> Config {
    Config {
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(10),
        ..Config::new(url)
    }
}

/// A store, not yet prepared.
pub fn store(url: &str, log_id: u128, epoch: u64) -> PostgresStore {
    PostgresStore::new(&config(url), log_id, epoch, Opening::Take).expect("the settings read")
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}
