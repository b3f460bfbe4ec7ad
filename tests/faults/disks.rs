//! Disks of the rigs' own: images behind loop devices, which can be frozen, slow, full or broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs;
use crate::support::Setup;

/// Runs a program of the system that must succeed; gives what it printed.
///
/// # Panics
/// With what it said, if it fails.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {}", args.join(" "), said.trim());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The same for the ways out, which have nobody to tell.
fn try_run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are text")
}

/// An ext4 file system in an image behind a loop device. Everything is undone when it is dropped.
#[derive(Debug)]
pub struct LoopDisk {
    device: String,
    at: PathBuf,
    // Keeps the folder, in which the image is.
    _folder: Setup,
}

impl LoopDisk {
    /// Makes an image of `mib` MiB in the file `image`, and mounts it at `at`.
    pub fn new(setup: &Setup, image: &Path, mib: u64, format: &[&str], at: &Path) -> Self {
        let file = fs::File::create(image).expect("an image");
        file.set_len(mib * 1024 * 1024).expect("a sparse file");
        drop(file);
        let image = text(image);
        run("mkfs.ext4", &[&["-q", "-F", "-m", "0"], format, &[image]].concat());
        let device = run("losetup", &["--find", "--show", image]);
        fs::create_dir_all(at).expect("a folder");
        let disk = Self { device, at: at.to_owned(), _folder: setup.clone() };
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Takes it out and puts it back, checked: what was only in memory is gone.
    pub fn remount(&self) {
        run("umount", &[text(&self.at)]);
        // 1 means that something was mended.
        let checked = Command::new("e2fsck").args(["-f", "-y", &self.device]).output().expect("e2fsck runs");
        assert!(checked.status.code().is_some_and(|code| code <= 1), "e2fsck: {checked:?}");
        run("blockdev", &["--flushbufs", &self.device]);
        self.mount();
    }

    fn mount(&self) {
        run("mount", &[&self.device, text(&self.at)]);
    }

    /// Turns it read-only as the kernel does after an error of its own, with files open.
    pub fn turn_read_only(&self) {
        run("mount", &["-o", "remount,abort", text(&self.at)]);
    }

    /// Stops everything that writes until the guard is dropped.
    pub fn freeze(&self) -> Frozen {
        run("fsfreeze", &["--freeze", text(&self.at)]);
        Frozen(self.at.clone())
    }

    /// Lets this many bytes a second through to the device until the guard is dropped.
    pub fn throttle(&self, bytes_per_second: u64) -> Throttled {
        let numbers = run("lsblk", &["--nodeps", "--noheadings", "--output", "MAJ:MIN", &self.device]);
        let throttled = Throttled(numbers.trim().to_owned());
        throttled.set(bytes_per_second).expect("the throttle takes a limit");
        throttled
    }

    /// Sends every block to the device as a request of its own. The loop driver calls a request done of which its file took
    /// only the first part, so a larger one would hide that there is no space.
    pub fn block_by_block(&self) {
        let name = self.device.rsplit('/').next().expect("a device has a name");
        fs::write(format!("/sys/block/{name}/queue/max_sectors_kb"), "4").expect("requests can be limited");
    }

    /// Takes all space but `leave` bytes, until the file is removed.
    pub fn fill(&self, leave: u64) -> PathBuf {
        fill(&self.at, leave)
    }
}

/// Writes a file that takes all space of the file system at `at` but `leave` bytes.
pub fn fill(at: &Path, leave: u64) -> PathBuf {
    use std::io::Write as _;
    let path = at.join("ballast");
    let mut file = fs::File::create(&path).expect("a file");
    let block = vec![0x5a; 64 * 1024];
    loop {
        let stat = rustix::fs::statvfs(at).expect("it is mounted");
        if stat.f_bavail * stat.f_frsize < leave + block.len() as u64 || file.write_all(&block).is_err() {
            break;
        }
    }
    // Delayed allocation may find that there is less than it had promised; then it is full as well.
    file.sync_all().ok();
    path
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        try_run("fsfreeze", &["--unfreeze", text(&self.at)]);
        if !try_run("umount", &[text(&self.at)]) {
            // The broker may still be closing its files.
            try_run("umount", &["-l", text(&self.at)]);
        }
        try_run("losetup", &["--detach", &self.device]);
    }
}

/// A file system that is frozen. It must be dropped before a broker that waits for it can be killed.
#[derive(Debug)]
pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        try_run("fsfreeze", &["--unfreeze", text(&self.0)]);
    }
}

/// A device that is slow.
#[derive(Debug)]
pub struct Throttled(String);

impl Throttled {
    fn set(&self, bytes_per_second: u64) -> std::io::Result<()> {
        fs::write(needs::throttle(), format!("{} {bytes_per_second}", self.0))
    }
}

impl Drop for Throttled {
    fn drop(&mut self) {
        // 0 takes the limit away.
        self.set(0).ok();
    }
}
