//! A machine whose power can be cut: User-Mode Linux with a disk in a file of the host and a network to it.
//!
//! The guest runs the host's programs from the host's root, which it cannot write. Its disk is an ext4 file system in the
//! image file, mounted nowhere else. What the guest has not written to the disk is in its own memory, and SIGKILL of all
//! its processes is the loss of that memory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::logs::{self, Logs};
use crate::support::{PATIENCE, http};

const IMAGE_BYTES: u64 = 8 << 30;
const STARTING: &str = "power-cut: the broker starts";
const ENDED: &str = "power-cut: the broker ended with ";
const POLL_EVERY: Duration = Duration::from_millis(5);
/// Short: a connection asked for before the guest's network is up is asked for again after a whole second.
const ANSWERS_WITHIN: Duration = Duration::from_millis(100);

/// The machine, switched off.
#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
    network: Network,
    settings: Vec<(&'static str, &'static str)>,
}

/// The machine, switched on.
#[derive(Debug)]
pub struct Guest {
    kernel: Child,
    image: PathBuf,
    logs: Logs,
    grpc: String,
    admin: String,
    is_off: bool,
}

/// The broker ended before it was ready.
#[derive(Debug, thiserror::Error)]
#[error("the broker does not start, exit code {code}: {said}")]
pub struct Refused {
    code: i32,
    said: String,
}

impl Machine {
    /// One with an empty disk, whose broker has these settings, by the names of their variables without the prefix.
    ///
    /// # Panics
    /// When something that it needs is not there or not allowed.
    pub fn new(settings: Vec<(&'static str, &'static str)>) -> Self {
        let folder = tempfile::Builder::new().prefix("power-cut-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.expect("a folder");
        // Another build may replace the binary while this one runs.
        fs::copy(env!("CARGO_BIN_EXE_walcast"), folder.path().join("walcast")).expect("a copy of the broker");
        fs::create_dir(folder.path().join("disk")).expect("a folder");
        let machine = Self { folder, network: Network::new(), settings };
        machine.replace_disk();
        machine
    }

    /// Puts a new, empty disk into it.
    pub fn replace_disk(&self) {
        let image = self.image();
        drop(fs::remove_file(&image));
        fs::File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).expect("an image");
        // Everything now, or the guest would go on with it in the background.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-N", "4096", "-E", options]).arg(&image));
    }

    /// Switches it on.
    pub fn boot(&self) -> Guest {
        self.boot_after("")
    }

    /// Switches it on, and runs a line of shell in the data directory before the broker.
    pub fn boot_after(&self, command: &str) -> Guest {
        let image = self.image();
        let init = self.folder.path().join("init");
        fs::write(&init, self.init_script(command)).expect("the script is written");
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let mut kernel = Command::new("linux.uml");
        kernel.arg("mem=768M").arg(format!("ubda={}", image.display()));
        kernel.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]);
        kernel.arg(format!("init={}", init.display()));
        kernel.arg(format!("uml_dir={}", self.folder.path().display()));
        kernel.arg(format!("vec0:transport=tap,ifname={},mac=02:77:63:00:00:02,gro=1", self.network.tap));
        kernel.args(["con0=null,fd:1", "con=null", "ssl=null"]);
        kernel.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut kernel = kernel.spawn().expect("this rig needs User-Mode Linux: tests/services/install uml");
        let logs = Logs::collect(kernel.stdout.take().expect("stdout is piped"));
        let (grpc, admin) = (self.network.guest(50051), self.network.guest(50052));
        Guest { kernel, image, logs, grpc, admin, is_off: false }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn init_script(&self, command: &str) -> String {
        let folder = self.folder.path().display();
        let settings: String =
            self.settings.iter().map(|(name, value)| format!("export WALCAST_{name}={value}\n")).collect();
        let Network { guest_ip, .. } = &self.network;
        let (grpc, admin) = (self.network.guest(50051), self.network.guest(50052));
        format!(
            "#!/bin/sh\n\
             mount -t proc proc /proc\n\
             mount -t ext4 /dev/ubda {folder}/disk || exit 1\n\
             ip link set lo up\n\
             ip address add {guest_ip}/30 dev vec0\n\
             ip link set vec0 up\n\
             mkdir -p {folder}/disk/data && cd {folder}/disk/data\n\
             {command}\n\
             export WALCAST_TELEMETRY__LOG_FORMAT=json WALCAST_TELEMETRY__LOG_FILTER=info,walcast::wal=debug\n\
             {settings}\
             echo '{STARTING}'\n\
             {folder}/walcast serve --listen {grpc} --admin-listen {admin} --data-dir {folder}/disk/data\n\
             echo \"{ENDED}$?\"\n\
             sleep infinity\n"
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            println!("the disk is kept for a look at it: {}", self.image().display());
        }
    }
}

impl Guest {
    /// `HOST:PORT` of the gRPC port.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// `HOST:PORT` of the admin port.
    #[cfg_attr(feature = "fault-controls", expect(dead_code, reason = "not asked for by the control"))]
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Waits until the machine has booted and the broker is about to start.
    pub async fn booted(&self) {
        let logs = self.logs.clone();
        let booted = move || logs.wait_for("that it starts", |line| line.contains(STARTING).then_some(()));
        let booted = tokio::task::spawn_blocking(booted).await.expect("the wait does not panic");
        assert!(booted.is_some(), "the machine ended before it had booted: {:#?}", self.logs.to_the_end());
    }

    /// Waits until the broker is ready; gives the time from its start.
    ///
    /// # Errors
    /// [`Refused`] if it ends instead.
    pub async fn ready(&self) -> Result<Duration, Refused> {
        self.booted().await;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let answer = timeout(ANSWERS_WITHIN, http::get(&self.admin, "/readyz")).await;
            if answer.is_ok_and(|answer| answer.is_some_and(|answer| answer.status == 200)) {
                return Ok(started.elapsed());
            }
            let lines = self.logs.so_far();
            if let Some(code) = lines.iter().find_map(|line| line.trim().strip_prefix(ENDED)?.parse().ok()) {
                let said = lines.iter().find_map(|line| line.trim().strip_prefix("walcast: "));
                return Err(Refused { code, said: said.unwrap_or_default().to_owned() });
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        panic!("the broker was not ready in time: {:#?}", self.logs.so_far());
    }

    /// Cuts the power: nothing of the guest runs any more, and nobody has its disk open. Gives what it logged.
    pub async fn cut(mut self) -> Vec<String> {
        self.switch_off();
        while self.disk_is_in_use() {
            tokio::time::sleep(POLL_EVERY).await;
        }
        self.logs.to_the_end()
    }

    fn switch_off(&mut self) {
        self.is_off = true;
        // Both can only fail because it is gone.
        let _gone = kill_process_group(Pid::from_child(&self.kernel), Signal::KILL);
        drop(self.kernel.wait());
    }

    fn disk_is_in_use(&self) -> bool {
        let descriptors = |process: io::Result<fs::DirEntry>| fs::read_dir(process.ok()?.path().join("fd")).ok();
        let open = fs::read_dir("/proc").expect("/proc").filter_map(descriptors).flatten().filter_map(Result::ok);
        open.filter_map(|descriptor| fs::read_link(descriptor.path()).ok()).any(|file| file == self.image)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.is_off {
            self.switch_off();
        }
    }
}

/// The alarms of a guest: WARN, ERROR and panics of the broker, errors of the guest's file system.
///
/// Other text is the kernel's, or a line that the cut has torn.
#[cfg_attr(feature = "fault-controls", allow(dead_code, reason = "a control raises them on purpose"))]
pub fn alarms(lines: &[String], announced: &[String]) -> Vec<String> {
    let is_whole = |line: &&String| {
        let of_a_system = ["panicked", "EXT4-fs error", "Kernel panic"].iter().any(|text| line.contains(text));
        of_a_system || serde_json::from_str::<serde_json::Value>(line.trim()).is_ok_and(|line| line.is_object())
    };
    logs::unannounced(&lines.iter().filter(is_whole).cloned().collect::<Vec<_>>(), announced)
}

/// A tap device of the host, and two addresses that nobody else has.
#[derive(Debug)]
struct Network {
    tap: String,
    guest_ip: String,
}

impl Network {
    fn new() -> Self {
        // Rigs that run side by side have different process ids; link-local, so that no route of the host is hidden.
        let own = std::process::id() % 250 + 1;
        let tap = format!("walcast-cut{own}");
        let network = Self { guest_ip: format!("169.254.{own}.130"), tap };
        drop(ip(&["link", "delete", &network.tap]).output());
        run(&mut ip(&["tuntap", "add", "dev", &network.tap, "mode", "tap"]));
        run(&mut ip(&["address", "add", &format!("169.254.{own}.129/30"), "dev", &network.tap]));
        run(&mut ip(&["link", "set", &network.tap, "up"]));
        network
    }

    fn guest(&self, port: u16) -> String {
        format!("{}:{port}", self.guest_ip)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(ip(&["link", "delete", &self.tap]).output());
    }
}

fn ip(args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(args);
    command
}

fn run(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; tests/services/install uml"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "this rig must be allowed to do this (root): {command:?}: {said}");
}

#[test]
fn alarms_are_told_from_the_rest_of_a_console() {
    let lines = [
        "mmapper_init - find_iomem failed",
        r#"{"level":"INFO","fields":{"message":"listening"}}"#,
        r#"{"level":"WARN","fields":{"message":"odd"}}"#,
        r#"{"level":"WARN","fields":{"mess"#,
        "thread 'main' panicked at src/main.rs",
        "EXT4-fs error (device ubda): ext4_lookup",
    ]
    .map(str::to_owned);
    assert_eq!(alarms(&lines, &[]), [&lines[2..3], &lines[4..]].concat());
    assert_eq!(alarms(&lines, &["odd".to_owned()]), lines[4..]);
}
