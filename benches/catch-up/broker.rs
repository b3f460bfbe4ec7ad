//! The broker as a process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running broker; killed when it goes out of scope.
pub struct Broker {
    child: Child,
    /// `http://ADDRESS` of its gRPC port.
    pub uri: String,
    admin: String,
}

impl Broker {
    /// Starts it with these settings and waits until it listens.
    pub fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"]).arg(data);
        for (name, value) in settings {
            command.env(format!("WALCAST_{name}"), value);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = String::new();
        let (grpc, admin) = loop {
            let line = lines.next().unwrap_or_else(|| panic!("the broker ended before it listened:\n{seen}"));
            if let Some(found) = listening(&line) {
                break found;
            }
            seen.push_str(&line);
        };
        std::thread::spawn(move || {
            lines.filter(|line| line.contains("WARN") || line.contains("ERROR")).for_each(|line| eprintln!("  {line}"))
        });
        Self { child, uri: format!("http://{grpc}"), admin }
    }

    /// The last sequence that its log no longer holds.
    pub fn trimmed(&self) -> u64 {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let position = "walcast_position{position=\"trimmed\"} ";
        answer.lines().find_map(|line| line.strip_prefix(position)).map_or(0, |value| value.trim().parse().unwrap())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn listening(line: &str) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = value.get("fields").unwrap_or(&value);
    let field = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
    (field("message")? == "listening").then(|| Some((field("grpc")?, field("admin")?)))?
}
