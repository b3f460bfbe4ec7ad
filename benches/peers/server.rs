//! The systems as processes of their own, each with an empty data directory, killed when they go out of scope.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Args, Failure, System, nats, redis};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running system.
pub struct Server {
    /// Which.
    pub system: System,
    /// `HOST:PORT`.
    pub address: String,
    /// Where NATS says how it is set up.
    monitor: String,
    child: Child,
    _data: TempDir,
}

impl Server {
    /// Starts it, waits until it answers, and checks that it syncs what it acknowledges.
    pub async fn start(system: System, args: &Args) -> Result<Self, Failure> {
        let data = tempfile::Builder::new().prefix("peers").tempdir_in(&args.data_root)?;
        let mut command = command(system, args, data.path())?;
        let own = matches!(system, System::Noop | System::Walcast);
        let ports = if own { None } else { Some(ports_of(&mut command, system, data.path(), args.control)?) };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(if own { Stdio::piped() } else { Stdio::null() });
        let child = command.spawn().map_err(|error| format!("{}: {error}", system.title()))?;
        let mut server = Self { system, address: String::new(), monitor: String::new(), child, _data: data };
        match ports {
            Some([port, monitor]) => {
                server.address = format!("127.0.0.1:{port}");
                server.monitor = format!("127.0.0.1:{monitor}");
            }
            None => server.address = server.listening()?,
        }
        server.ready().await?;
        Ok(server)
    }

    /// Its own log line says where it listens.
    fn listening(&mut self) -> Result<String, Failure> {
        let mut lines = BufReader::new(self.child.stderr.take().ok_or("no stderr")?).lines();
        while let Some(line) = lines.next().transpose()? {
            let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if value["message"] == "listening" {
                // Or it would wait for somebody to read the rest.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(value["grpc"].as_str().ok_or("no address")?.to_owned());
            }
        }
        Err("the server ended before it listened".into())
    }

    async fn ready(&self) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            let tried = match self.system {
                System::Nats => nats_is_ready(&self.address, &self.monitor).await,
                System::Redis => redis::syncs(&self.address).await,
                System::Noop | System::Walcast => return Ok(()),
            };
            match tried {
                Ok(()) => return Ok(()),
                Err(error) if started.elapsed() > PATIENCE => {
                    return Err(format!("{} does not answer: {error}", self.system.title()).into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It can only be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command(system: System, args: &Args, data: &Path) -> Result<Command, Failure> {
    Ok(match system {
        System::Noop => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("noop");
            command
        }
        System::Walcast => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
            command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"]);
            command.arg(data.join("data"));
            // Not the settings of whoever runs this.
            for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WALCAST_")) {
                command.env_remove(name);
            }
            command
        }
        System::Nats => Command::new(&args.nats),
        System::Redis => Command::new("redis-server"),
    })
}

async fn nats_is_ready(address: &str, monitor: &str) -> Result<(), Failure> {
    nats::syncs(monitor).await?;
    nats::create_stream(address).await
}

/// Gives a server of others free ports, and what makes it sync before it answers; `lax`: what it does by default instead.
fn ports_of(command: &mut Command, system: System, data: &Path, lax: bool) -> Result<[u16; 2], Failure> {
    let free = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [port, monitor] = [free[0].local_addr()?.port(), free[1].local_addr()?.port()];
    let folder = data.display();
    if system == System::Nats {
        let file = data.join("nats.conf");
        let sync = if lax { "2m" } else { "always" };
        let store = format!("jetstream {{ store_dir: \"{folder}\", max_file_store: 8GB, sync_interval: {sync} }}");
        std::fs::write(&file, format!("host: 127.0.0.1\nport: {port}\nhttp: 127.0.0.1:{monitor}\n{store}\n"))?;
        command.arg("-c").arg(file);
    } else {
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", if lax { "everysec" } else { "always" }, "--dir"]).arg(data);
    }
    Ok([port, monitor])
}
