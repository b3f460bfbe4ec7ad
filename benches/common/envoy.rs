//! The shipped Envoy before servers, and what it takes to wait for it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Failure, programs};

/// How long a server may take to start.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A running Envoy; killed when it goes out of scope.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    /// Where the load goes.
    pub uri: String,
}

impl Envoy {
    /// Starts it with one worker before these addresses, which it must find healthy; its file goes into `folder`.
    ///
    /// # Errors
    /// The configuration is refused, or a broker is not healthy in time.
    pub fn start(envoy: &Path, brokers: &[String], affinity: bool, folder: &Path) -> Result<Self, Failure> {
        let ports = [programs::port(), programs::port(), programs::port()];
        let file = folder.join("envoy.yaml");
        std::fs::write(&file, configuration(ports, brokers, affinity)?)?;
        let mut command = Command::new(envoy);
        command.arg("-c").arg(&file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let envoy = Self { child, uri: format!("http://127.0.0.1:{}", ports[0]) };
        let healthy = "cluster.broker.membership_healthy";
        let expected = format!("{healthy}: {}", brokers.len());
        let admin = format!("127.0.0.1:{}", ports[1]);
        wait_for("Envoy to find all nodes healthy", || {
            get(&admin, &format!("/stats?filter=^{healthy}$")).is_some_and(|answer| answer.contains(&expected))
        })?;
        Ok(envoy)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The shipped file, with limits of rates that nothing here reaches: they have tests of their own.
fn configuration(ports: [u16; 3], brokers: &[String], affinity: bool) -> Result<String, Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut configure = Command::new(root.join("deploy/envoy/configure"));
    configure.args(["--listen", &format!("127.0.0.1:{}", ports[0]), "--admin", &ports[1].to_string()]);
    configure.args(["--stats", &format!("127.0.0.1:{}", ports[2])]);
    for broker in brokers {
        configure.args(["--broker", broker]);
    }
    if affinity {
        configure.arg("--affinity");
    }
    let output = configure.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let unlimited = |line: &str| match line.split_once("token_bucket: {") {
        Some((before, _)) if line.contains("# @local") => {
            format!("{before}token_bucket: {{ max_tokens: 1000000, tokens_per_fill: 1000000, fill_interval: 1s }}")
        }
        _ => line.to_owned(),
    };
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(unlimited).collect::<Vec<_>>().join("\n"))
}

/// Waits until it is so.
///
/// # Errors
/// It takes longer than a start may.
pub fn wait_for(what: &str, done: impl Fn() -> bool) -> Result<(), Failure> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > READY_WITHIN {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The answer to a GET, head and body; None when there is none.
pub fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
