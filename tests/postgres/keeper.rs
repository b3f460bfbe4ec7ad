//! Processes that never outlive the tests, in a folder that does not either.
//!
//! The kernel kills them when this process ends (`programs`). The folder is removed by a shell that waits for that, however it
//! comes about.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::programs;

/// What a test says when a program is not there.
pub const INSTALL: &str = "run `tests/services/install postgres`";

const FOLDER_PREFIX: &str = "walcast-pg-";

/// Starts a program that dies with the tests.
pub fn spawn(command: Command) -> Child {
    let what = format!("{command:?}");
    programs::spawn(command).unwrap_or_else(|error| panic!("{what}: {error}; {INSTALL}"))
}

/// The beginning of a command line of a program that runs as the user of the package and dies with its parent. Postgres and
/// PgBouncer refuse to run as root.
pub fn unprivileged(program: &Path) -> Command {
    let mut command = programs::tied();
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

/// Where databases are to keep their files, if it was said: a rig that times the broker keeps them off its disk.
fn folder_of_databases() -> Option<PathBuf> {
    std::env::var_os("DATABASES_DIR").map(PathBuf::from)
}

/// A folder of this process that others may pass.
fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = folder_of_databases().unwrap_or_else(|| PathBuf::from("/tmp"));
        let root = root.join(format!("{FOLDER_PREFIX}{}", std::process::id()));
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
