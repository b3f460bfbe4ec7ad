//! The servers of one side: processes of their own, killed when they go out of scope.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::envoy::{Envoy, get, wait_for};
use crate::{Failure, Side, programs};

const NODES: usize = 3;

/// A running side.
pub struct Servers {
    /// Where the load goes.
    pub uri: String,
    side: Side,
    /// Admin ports of the nodes.
    admin: Vec<String>,
    running: Vec<Child>,
    _envoy: Option<Envoy>,
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
        let mut servers =
            Self { uri: String::new(), side, admin: Vec::new(), running: Vec::new(), _envoy: None, _data: data };
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
            Side::Envoy | Side::Affinity => {
                let brokers: Vec<_> = grpc.iter().map(|port| format!("127.0.0.1:{port}")).collect();
                let envoy = envoy.ok_or("no Envoy")?;
                let envoy = Envoy::start(envoy, &brokers, side == Side::Affinity, servers._data.path())?;
                servers.uri.clone_from(&envoy.uri);
                servers._envoy = Some(envoy);
            }
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
