//! The service of global rate limits with its Redis, both real, with the rules and settings that are shipped.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::envoy::repository;
use crate::support::{eventually, http, programs, within_patience};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/services/bin/ratelimit");
const INSTALL: &str = "run `tests/services/install redis ratelimit`";

/// A running service. It is killed, with its Redis, when it goes out of scope.
#[derive(Debug)]
pub struct RateLimit {
    folder: TempDir,
    grpc: u16,
    redis_port: u16,
    redis: Option<Child>,
    service: Child,
}

impl RateLimit {
    /// With the shipped rules, and other rates on the lines with these marks.
    pub async fn start(rates: &[(&str, u32)]) -> Self {
        assert!(Path::new(PROGRAM).exists(), "there is no rate limit service: {INSTALL}");
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        fs::create_dir(folder.path().join("config")).expect("the folder is ours");
        fs::write(folder.path().join("config/walcast.yaml"), rules(rates)).expect("the folder is ours");
        let redis_port = programs::port();
        let redis = start_redis(&folder, redis_port).await;
        let (service, grpc) = start_service(&folder, redis_port).await;
        Self { folder, grpc, redis_port, redis: Some(redis), service }
    }

    /// Where Envoy asks it.
    pub fn grpc(&self) -> u16 {
        self.grpc
    }

    /// Redis goes away.
    pub fn stop_redis(&mut self) {
        end(&mut self.redis.take().expect("it runs"));
    }

    /// Redis comes back at the same port, and has forgotten everything.
    pub async fn start_redis_again(&mut self) {
        self.redis = Some(start_redis(&self.folder, self.redis_port).await);
    }

    /// Sends a signal to Redis.
    pub fn signal_redis(&self, signal: Signal) {
        let redis = self.redis.as_ref().expect("it runs");
        kill_process(Pid::from_child(redis), signal).expect("it runs");
    }
}

impl Drop for RateLimit {
    fn drop(&mut self) {
        end(&mut self.service);
        self.redis.iter_mut().for_each(end);
        if std::thread::panicking() {
            eprintln!(
                "the service wrote: {}",
                fs::read_to_string(self.folder.path().join("ratelimit")).unwrap_or_default()
            );
        }
    }
}

fn end(process: &mut Child) {
    // It can only be gone already.
    drop(process.kill());
    drop(process.wait());
}

/// Starts the service; gives its port for Envoy. It ends when Redis does not answer in time, so it is started again, as an
/// orchestrator does.
async fn start_service(folder: &TempDir, redis_port: u16) -> (Child, u16) {
    for _ in 0..5 {
        let (grpc, http_port) = (programs::port(), programs::port());
        let mut command = programs::tied();
        command.arg(PROGRAM).envs(settings()).env("RUNTIME_ROOT", folder.path());
        command.env("REDIS_URL", format!("127.0.0.1:{redis_port}"));
        for (name, port) in [("", http_port), ("GRPC_", grpc), ("DEBUG_", programs::port())] {
            command.env(format!("{name}HOST"), "127.0.0.1").env(format!("{name}PORT"), port.to_string());
        }
        command.env("PROMETHEUS_ADDR", format!("127.0.0.1:{}", programs::port()));
        let mut service = spawn(command, folder, "ratelimit");
        let started = async {
            loop {
                let answer = http::get(&format!("127.0.0.1:{http_port}"), "/healthcheck").await;
                if answer.is_some_and(|answer| answer.status == 200) {
                    return true;
                }
                if service.try_wait().expect("it was started").is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if within_patience("the rate limit service starts, or ends", started).await {
            return (service, grpc);
        }
    }
    panic!(
        "the rate limit service does not start: {}",
        fs::read_to_string(folder.path().join("ratelimit")).unwrap_or_default()
    );
}

async fn start_redis(folder: &TempDir, port: u16) -> Child {
    let mut command = programs::tied();
    command.args(["redis-server", "--port", &port.to_string(), "--bind", "127.0.0.1"]);
    // Counters of a second are worth no disk; what is full forgets the oldest.
    command.args(["--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]);
    let process = spawn(command, folder, "redis");
    eventually("Redis", || async { TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;
    process
}

fn spawn(mut command: Command, folder: &TempDir, name: &str) -> Child {
    let log = fs::File::create(folder.path().join(name)).expect("the folder is ours");
    let errors = log.try_clone().expect("a second handle");
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log).stderr(errors);
    programs::spawn(command).unwrap_or_else(|error| panic!("{name}: {error}; {INSTALL}"))
}

/// `deploy/envoy/ratelimit/ratelimit.env`.
fn settings() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository("deploy/envoy/ratelimit/ratelimit.env")).expect("it is there");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    lines.map(|line| pair(line).unwrap_or_else(|| panic!("NAME=VALUE: {line}"))).collect()
}

/// The shipped rules with other rates on the lines with these marks.
fn rules(rates: &[(&str, u32)]) -> String {
    let mut text = fs::read_to_string(repository("deploy/envoy/ratelimit/config/walcast.yaml")).expect("it is there");
    for (mark, rate) in rates {
        let marked = format!(" # {mark}");
        let line = text.lines().find(|line| line.ends_with(&marked)).unwrap_or_else(|| panic!("no line {mark}"));
        let (before, _) = line.split_once("requests_per_unit: ").expect("a rule");
        let changed = format!("{before}requests_per_unit: {rate} }} }}{marked}");
        text = text.replace(line, &changed);
    }
    text
}
