//! What a rig needs of the machine, and a clear sentence where it is missing.

use std::path::PathBuf;
use std::process::Command;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Mounting, loop devices, cgroups.
    Root,
    /// `strace`.
    Strace,
    /// `mkfs.ext4`, `losetup`, `fsfreeze`.
    FileSystemTools,
    /// The throttle of the block layer, cgroup v1.
    BlockThrottle,
    /// `libfaketime`.
    FakeTime,
    /// A C compiler, for the library that shortens writes.
    CCompiler,
    /// The binary with the feature `fault-controls`.
    Controls,
}

impl Need {
    /// What is missing and how to get it.
    pub fn missing(self) -> Option<String> {
        let sentence = match self {
            Self::Root if !is_root() => "it must be run as root: it mounts file systems",
            Self::Strace if !runs("strace", &["-V"]) => "strace is missing: apt-get install strace",
            Self::FileSystemTools if !file_system_tools() => {
                "mkfs.ext4, losetup or fsfreeze is missing: apt-get install e2fsprogs util-linux mount"
            }
            Self::BlockThrottle if !throttle().is_file() => {
                "the kernel has no throttle at /sys/fs/cgroup/blkio (cgroup v1)"
            }
            Self::FakeTime if fake_time().is_none() => "libfaketime is missing: apt-get install faketime",
            Self::CCompiler if !runs("cc", &["--version"]) => "a C compiler is missing: apt-get install gcc",
            Self::Controls if controls().is_none() => {
                "FAULT_CONTROLS_BINARY must name a binary built with the feature `fault-controls`; `make faults` does that"
            }
            _ => return None,
        };
        Some(sentence.to_owned())
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn runs(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

fn file_system_tools() -> bool {
    runs("mkfs.ext4", &["-V"]) && runs("losetup", &["--version"]) && runs("fsfreeze", &["--version"])
}

/// The file that limits the writes of a cgroup to a device.
pub fn throttle() -> PathBuf {
    PathBuf::from("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
}

/// The library that moves the clock of a process.
pub fn fake_time() -> Option<PathBuf> {
    let folders =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    let places = folders.iter().map(|folder| PathBuf::from(folder).join("faketime/libfaketimeMT.so.1"));
    places.into_iter().find(|place| place.is_file())
}

/// The binary with the feature `fault-controls`.
pub fn controls() -> Option<PathBuf> {
    std::env::var_os("FAULT_CONTROLS_BINARY").map(PathBuf::from).filter(|path| path.is_file())
}
