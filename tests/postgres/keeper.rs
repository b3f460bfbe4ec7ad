//! Processes that never outlive the tests, in a folder that does not either.
//!
//! The kernel kills them when the thread that started them ends (PR_SET_PDEATHSIG, set by `setpriv`), so one thread that lives as long
//! as the process starts all of them. The folder is removed by a shell that waits for the end of this process, however it ends.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::{fs, io, thread};

/// What a test says when a program is not there.
pub const INSTALL: &str = "run `tests/services/install postgres`";

const FOLDER_PREFIX: &str = "walcast-pg-";

type Order = (Command, SyncSender<io::Result<Child>>);

static KEEPER: LazyLock<Mutex<SyncSender<Order>>> = LazyLock::new(|| {
    let (orders, ordered) = sync_channel::<Order>(1);
    thread::Builder::new()
        .name("keeper".to_owned())
        .spawn(move || {
            for (mut command, answer) in ordered {
                answer.send(command.spawn()).expect("the test waits for it");
            }
        })
        .expect("a thread");
    Mutex::new(orders)
});

/// Starts a program that dies with the tests.
pub fn spawn(command: Command) -> Child {
    let what = format!("{command:?}");
    let (answer, answered) = sync_channel(1);
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).expect("the keeper runs");
    answered.recv().expect("the keeper answers").unwrap_or_else(|error| panic!("{what}: {error}; {INSTALL}"))
}

/// The beginning of a command line of a program that runs as the user of the package and dies with its parent. Postgres and
/// PgBouncer refuse to run as root.
pub fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program);
    command
}

/// Gives a folder to the user that [`unprivileged`] runs as.
pub fn hand_over(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let status = Command::new("chown").arg("-R").arg("postgres:").arg(path).status().expect("chown runs");
        assert!(status.success(), "there is a user postgres; {INSTALL}");
    }
}

/// A folder of this process that others may pass.
fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = PathBuf::from(format!("/tmp/{FOLDER_PREFIX}{}", std::process::id()));
        fs::create_dir_all(&root).expect("a folder");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("it is ours");
        // In a session of its own: Ctrl-C is not for it. Its input ends when this process does.
        let remove = "cat >/dev/null; sleep 0.5; rm -rf -- \"$0\"";
        let mut remover = Command::new("setsid");
        remover.args(["sh", "-c", remove]).arg(&root).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        #[expect(clippy::zombie_processes, reason = "it outlives this process")]
        let remover = remover.spawn().unwrap_or_else(|error| panic!("setsid: {error}; {INSTALL}"));
        std::mem::forget(remover.stdin);
        root
    });
    &ROOT
}

/// A new folder.
pub fn folder(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let path = root().join(format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&path).expect("a new folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

/// Removes a folder of [`folder`].
pub fn remove(path: &Path) {
    drop(fs::remove_dir_all(path));
}

/// A free port below those that the kernel gives to clients, so that no client of another test sits on it when a server
/// starts again.
pub fn port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).expect("below 10,000");
    for _ in 0..COUNT {
        let port = FIRST + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
