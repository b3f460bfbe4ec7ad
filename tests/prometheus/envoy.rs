//! A real Envoy with the configuration that is shipped, at other ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::support::{eventually, http, programs};

const INSTALL: &str = "run `tests/services/install envoy`";

/// What an Envoy stands before, and what it lets pass.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The port of the broker.
    pub broker: u16,
    /// What the token bucket of publishes gets.
    pub publishes_per_second: u32,
    /// The port of the collector of its spans; they are lost where nobody listens.
    pub collector: u16,
}

/// A running Envoy before one broker. It is killed when it goes out of scope.
#[derive(Debug)]
pub struct Envoy {
    folder: TempDir,
    grpc: String,
    admin: String,
    process: Child,
}

impl Envoy {
    /// Before the broker at this port, with so many publishes a second and no collector.
    pub async fn before(broker: u16, publishes_per_second: u32) -> Self {
        Self::start(Plan { broker, publishes_per_second, collector: programs::port() }).await
    }

    /// Ready when the broker is found healthy.
    pub async fn start(plan: Plan) -> Self {
        let (grpc, admin) = (programs::port(), programs::port());
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let configuration = folder.path().join("envoy.yaml");
        fs::write(&configuration, configure(grpc, admin, plan)).expect("the folder is ours");
        let mut command = programs::tied();
        command.arg(program()).arg("-c").arg(&configuration);
        // With hot restart the kernel ends it with the thread that has started it.
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]);
        let log = fs::File::create(folder.path().join("log")).expect("the folder is ours");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = programs::spawn(command).unwrap_or_else(|error| panic!("setpriv: {error}; {INSTALL}"));
        let at = |port| format!("127.0.0.1:{port}");
        let envoy = Self { folder, grpc: at(grpc), admin: at(admin), process };
        eventually("Envoy to find the broker healthy", || async {
            let stats = http::get(&envoy.admin, "/stats?filter=membership_healthy").await?;
            stats.body.contains("cluster.broker.membership_healthy: 1").then_some(())
        })
        .await;
        eventually("Envoy to be ready", || async {
            (http::get(&envoy.admin, "/ready").await?.status == 200).then_some(())
        })
        .await;
        envoy
    }

    /// `HOST:PORT` for clients.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// `HOST:PORT` of its admin port.
    pub fn admin(&self) -> &str {
        &self.admin
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

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The program in the Python package.
fn program() -> &'static PathBuf {
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

/// The shipped file with other ports and another bucket.
fn configure(grpc: u16, admin: u16, plan: Plan) -> String {
    let mut text = fs::read_to_string(repository("deploy/envoy/envoy.yaml")).expect("it is there");
    for (from, to) in [
        ("port_value: 8080", format!("port_value: {grpc}")),
        ("port_value: 9901", format!("port_value: {admin}")),
        ("port_value: 50051", format!("port_value: {}", plan.broker)),
        ("port_value: 4317", format!("port_value: {}", plan.collector)),
        ("max_tokens: 50000", format!("max_tokens: {}", plan.publishes_per_second)),
        ("tokens_per_fill: 50000", format!("tokens_per_fill: {}", plan.publishes_per_second)),
    ] {
        assert_eq!(text.matches(from).count(), 1, "once: {from}");
        text = text.replace(from, &to);
    }
    text
}
