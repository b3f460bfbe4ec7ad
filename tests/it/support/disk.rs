//! Disks that are small, full or read-only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Broker, Setup};

/// A small disk in the test's folder; it is gone before the folder is.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
    _folder: Setup,
}

impl Mounted {
    /// A tmpfs with these mount options in the test's folder.
    ///
    /// # Panics
    /// When mounting is not allowed.
    pub fn tmpfs(setup: &Setup, options: &str) -> Self {
        Self::tmpfs_at(setup, setup.folder().join("disk"), options)
    }

    /// The same in a folder within it.
    ///
    /// # Panics
    /// When mounting is not allowed.
    pub fn tmpfs_at(setup: &Setup, at: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&at).expect("a folder");
        Self::mount(&["-t", "tmpfs", "-o", options, "tmpfs"], &at);
        Self { at, _folder: setup.clone() }
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Makes it read-only.
    pub fn read_only(&self) {
        Self::mount(&["-o", "remount,ro"], &self.at);
    }

    fn mount(args: &[&str], at: &Path) {
        let output = Command::new("mount").args(args).arg(at).output().expect("mount(8) is there");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "this test must be allowed to mount (root, or `unshare -rm`): {said}");
    }
}

/// A broker without a store on a disk of 32 MiB of its own, and the file with which a test fills that disk. The disk must
/// outlive the broker.
pub async fn broker_on_a_small_disk() -> (Mounted, Broker, PathBuf) {
    let setup = Setup::new();
    let disk = Mounted::tmpfs(&setup, "size=32M");
    let ballast = disk.at().join("ballast");
    let setup = setup.data_dir(disk.at().join("data")).store("none").set("limits.body_bytes", "64KiB");
    let broker = setup.set("log.segment_bytes", "1MiB").expect_log("full").expect_log("space").start().await;
    (disk, broker, ballast)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the broker may still be closing its files.
        drop(Command::new("umount").arg("-l").arg(&self.at).status());
    }
}
