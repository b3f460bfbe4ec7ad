//! The servers of one side: processes of their own, killed when they go out of scope.

#[path = "../yardstick/noop.rs"]
pub mod noop;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Failure, Side, programs};

const NODES: usize = 3;

/// How long a server may take to start.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A running side.
pub struct Servers {
    /// Where the load goes.
    pub uri: String,
    side: Side,
    /// Admin ports of the nodes.
    admin: Vec<String>,
    running: Vec<Child>,
    _data: TempDir,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.running {
            // It can only be gone already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Servers {
    /// Starts what a side needs, with empty data directories below `data_root`.
    pub fn start(side: Side, walcast: &Path, data_root: &Path, envoy: Option<&Path>) -> Result<Self, Failure> {
        let data = tempfile::Builder::new().prefix("hop").tempdir_in(data_root)?;
        let mut servers = Self { uri: String::new(), side, admin: Vec::new(), running: Vec::new(), _data: data };
        if side == Side::Noop {
            servers.start_noop()?;
            return Ok(servers);
        }
        let ports: Vec<u16> = (0..2 * NODES).map(|_| programs::port()).collect();
        let (grpc, admin) = ports.split_at(NODES);
        for (place, admin) in admin.iter().enumerate() {
            servers.start_node(place, grpc, *admin, walcast)?;
        }
        for address in servers.admin.clone() {
            wait_for("a node to be ready", || {
                get(&address, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
            })?;
        }
        match side {
            Side::Noop | Side::Direct => servers.uri = format!("http://127.0.0.1:{}", grpc[0]),
            Side::Forwarded => servers.uri = format!("http://127.0.0.1:{}", grpc[1]),
            Side::Envoy | Side::Affinity => servers.start_envoy(grpc, envoy.ok_or("no Envoy")?)?,
        }
        Ok(servers)
    }

    fn start_noop(&mut self) -> Result<(), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("noop")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().ok_or("no stderr")?;
        self.running.push(child);
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line)?;
        let listening: serde_json::Value = serde_json::from_str(&line)?;
        self.uri = format!("http://{}", listening["grpc"].as_str().ok_or("no address")?);
        Ok(())
    }

    fn start_node(&mut self, place: usize, grpc: &[u16], admin: u16, walcast: &Path) -> Result<(), Failure> {
        let nodes: Vec<_> = grpc.iter().enumerate().map(|(at, port)| format!("n{at}=127.0.0.1:{port}")).collect();
        let mut command = Command::new(walcast);
        command.args(["serve", "--listen", &format!("127.0.0.1:{}", grpc[place])]);
        command
            .args(["--admin-listen", &format!("127.0.0.1:{admin}"), "--data-dir"])
            .arg(self._data.path().join(format!("n{place}")));
        // Not the settings of whoever runs this.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WALCAST_")) {
            command.env_remove(name);
        }
        command.env("WALCAST_CLUSTER__NODE", format!("n{place}")).env("WALCAST_CLUSTER__NODES", nodes.join(","));
        if matches!(self.side, Side::Direct | Side::Forwarded) {
            command.env("WALCAST_CLUSTER__SLOTS", "n0=0-1023,n1=,n2=");
        }
        self.running.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        self.admin.push(format!("127.0.0.1:{admin}"));
        Ok(())
    }

    fn start_envoy(&mut self, grpc: &[u16], envoy: &Path) -> Result<(), Failure> {
        let ports = [programs::port(), programs::port(), programs::port()];
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut configure = Command::new(root.join("deploy/envoy/configure"));
        configure.args(["--listen", &format!("127.0.0.1:{}", ports[0]), "--admin", &ports[1].to_string()]);
        configure.args(["--stats", &format!("127.0.0.1:{}", ports[2])]);
        for port in grpc {
            configure.args(["--broker", &format!("127.0.0.1:{port}")]);
        }
        if self.side == Side::Affinity {
            configure.arg("--affinity");
        }
        let output = configure.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        // Limits of rates have tests of their own.
        let text = String::from_utf8(output.stdout)?;
        let unlimited = |line: &str| match line.split_once("token_bucket: {") {
            Some((before, _)) if line.contains("# @local") => {
                format!("{before}token_bucket: {{ max_tokens: 1000000, tokens_per_fill: 1000000, fill_interval: 1s }}")
            }
            _ => line.to_owned(),
        };
        let text: Vec<_> = text.lines().map(unlimited).collect();
        let file: PathBuf = self._data.path().join("envoy.yaml");
        std::fs::write(&file, text.join("\n"))?;
        let mut command = Command::new(envoy);
        command.arg("-c").arg(&file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
        self.running.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let healthy = "cluster.broker.membership_healthy";
        let expected = format!("{healthy}: {NODES}");
        let admin = format!("127.0.0.1:{}", ports[1]);
        wait_for("Envoy to find all nodes healthy", || {
            get(&admin, &format!("/stats?filter=^{healthy}$")).is_some_and(|answer| answer.contains(&expected))
        })?;
        self.uri = format!("http://127.0.0.1:{}", ports[0]);
        Ok(())
    }

    /// That calls went the way that is measured: passed on by another node only where that is asked for.
    pub fn prove(&self) -> Result<(), Failure> {
        if self.side == Side::Noop {
            return Ok(());
        }
        let mut passed_on = 0.0;
        for admin in &self.admin {
            let metrics = get(admin, "/metrics").ok_or("a node without metrics")?;
            let of = |line: &str| -> Option<f64> {
                line.strip_prefix("walcast_forwarded_calls_total{method=\"Publish\",result=\"answered\"} ")?
                    .parse()
                    .ok()
            };
            passed_on += metrics.lines().find_map(of).ok_or("no count of calls that were passed on")?;
        }
        if (passed_on > 0.0) == (self.side == Side::Direct) {
            return Err(format!("{passed_on} calls were passed on: not what is to be measured").into());
        }
        Ok(())
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) -> Result<(), Failure> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > READY_WITHIN {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The answer to a GET, head and body.
fn get(address: &str, path: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
