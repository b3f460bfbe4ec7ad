//! The checkpoint file: how far a replay is, so that the next one goes on from there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::super::{Exit, Failure, client};
use super::filter::Filter;
use crate::wal::{DiskFileSystem, write_atomically};

/// How long after a checkpoint the next one is written. Each costs two fsyncs; what is acknowledged in between comes
/// twice after a `kill -9`.
const WRITE_EVERY: Duration = Duration::from_millis(50);

/// The version of the file's format.
const VERSION: u32 = 1;

/// Runs of sequences, in order: first and last of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges(pub Vec<(u64, u64)>);

impl Ranges {
    /// Whether a sequence is in one of them.
    pub fn contains(&self, sequence: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= sequence);
        after.checked_sub(1).is_some_and(|at| sequence <= self.0[at].1)
    }

    /// Both together, without what `position` covers.
    pub fn with(&self, other: &Self, position: u64) -> Self {
        let mut all: Vec<(u64, u64)> = self.0.iter().chain(&other.0).copied().collect();
        all.retain(|(_, last)| *last > position);
        all.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

/// How far a replay is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub version: u32,
    /// The log, in hexadecimal digits.
    pub log_id: String,
    /// What it is replayed into.
    pub target: String,
    pub filter: Filter,
    /// Everything up to here has arrived.
    pub position: u64,
    /// What has arrived behind it.
    pub arrived: Ranges,
}

impl Checkpoint {
    /// The start of a replay.
    pub fn new(log_id: String, target: String, filter: Filter) -> Self {
        let position = filter.from.saturating_sub(1);
        Self { version: VERSION, log_id, target, filter, position, arrived: Ranges::default() }
    }

    /// The one in the file `path`, which must be of the same replay as `self`; `self` if there is none.
    pub fn resumed(self, path: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(error) => return Err(unusable(path, &format!("cannot be read: {error}"))),
        };
        let found: Self = serde_json::from_slice(&text)
            .map_err(|error| unusable(path, &format!("is not one of a replay: {error}")))?;
        let differs = if found.version != VERSION {
            Some(format!("has version {}, this walcast knows {VERSION}", found.version))
        } else if found.log_id != self.log_id {
            Some(format!("is of log {}, this one is {}", found.log_id, self.log_id))
        } else if found.target != self.target {
            Some(format!("is of a replay into {}, not into {}", found.target, self.target))
        } else if found.filter != self.filter {
            Some("is of a replay with other --from, --to, --subject, --since or --until".to_owned())
        } else {
            None
        };
        match differs {
            Some(reason) => Err(unusable(path, &reason)),
            None => Ok(found),
        }
    }

    /// The state now: what arrived since, beside what had arrived before.
    pub fn now(&self, arrived: &Ranges) -> Self {
        Self { arrived: self.arrived.with(arrived, self.position), ..self.clone() }
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| unusable(path, "has no file name"))?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let text = serde_json::to_vec(self).map_err(|error| unusable(path, &error.to_string()))?;
        let mut content = |file: &mut dyn Write| file.write_all(&text).and_then(|()| file.write_all(b"\n"));
        write_atomically(&DiskFileSystem, dir, name, &mut content)
            .map_err(|error| Failure::writing(&path.display().to_string(), &error))
    }
}

fn unusable(path: &Path, reason: &str) -> Failure {
    let path = path.display();
    Failure::new(Exit::Usage, format!("the checkpoint {path} {reason}; name another file with --checkpoint"))
}

/// Writes checkpoints beside the replay, on a thread of its own: an fsync takes milliseconds.
#[derive(Debug)]
pub struct Keeper {
    /// Of one place: a newer checkpoint waits until there is room for it.
    sender: flume::Sender<Checkpoint>,
    thread: JoinHandle<Result<(), Failure>>,
}

impl Keeper {
    /// Writes one at once, so that a wrong path is found before anything is sent.
    pub fn start(path: PathBuf, checkpoint: &Checkpoint) -> Result<Self, Failure> {
        checkpoint.write(&path)?;
        let (sender, receiver) = flume::bounded::<Checkpoint>(1);
        let keep = move || {
            while let Ok(checkpoint) = receiver.recv() {
                checkpoint.write(&path)?;
                thread::sleep(WRITE_EVERY);
            }
            Ok(())
        };
        let thread = thread::Builder::new().name("replay-keep".to_owned()).spawn(keep);
        let thread = thread.map_err(|error| client::cannot_start(&error))?;
        Ok(Self { sender, thread })
    }

    /// Takes what `checkpoint` makes if the thread is free for it.
    pub fn offer(&self, checkpoint: impl FnOnce() -> Checkpoint) {
        if self.sender.is_empty() {
            // If the thread has failed, `finish` tells.
            drop(self.sender.try_send(checkpoint()));
        }
    }

    /// Whether the thread can still write.
    pub fn works(&self) -> bool {
        !self.sender.is_disconnected()
    }

    /// Writes the last one and waits for it.
    pub fn finish(self, last: Checkpoint) -> Result<(), Failure> {
        drop(self.sender.send(last));
        drop(self.sender);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(subject: Option<&str>) -> Filter {
        Filter { from: 5, to: None, subject: subject.map(str::to_owned), since: None, until: None }
    }

    fn fresh() -> Checkpoint {
        Checkpoint::new("0a".to_owned(), "http://x".to_owned(), filter(None))
    }

    #[test]
    fn the_last_checkpoint_is_found_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("replay.json");
        assert_eq!(fresh().resumed(&path), Ok(fresh()), "no file, no progress");
        assert_eq!(fresh().position, 4);
        let keeper = Keeper::start(path.clone(), &fresh()).expect("written");
        for position in 5..100 {
            keeper.offer(|| Checkpoint { position, ..fresh() });
        }
        let last = Checkpoint { position: 100, arrived: Ranges(vec![(102, 103), (107, 107)]), ..fresh() };
        keeper.finish(last.clone()).expect("written");
        assert_eq!(fresh().resumed(&path), Ok(last));
    }

    #[test]
    fn a_checkpoint_of_anything_else_is_refused_with_the_difference() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("replay.json");
        fresh().write(&path).expect("written");
        let others = [
            (Checkpoint { log_id: "0b".to_owned(), ..fresh() }, "is of log 0a, this one is 0b"),
            (Checkpoint { target: "store".to_owned(), ..fresh() }, "into http://x, not into store"),
            (Checkpoint { filter: filter(Some("a*")), ..fresh() }, "--subject"),
        ];
        for (other, says) in others {
            let failure = other.resumed(&path).expect_err("another replay");
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.message().is_some_and(|message| message.contains(says)), "{failure:?}");
        }
        std::fs::write(&path, "{").expect("written");
        assert!(fresh().resumed(&path).is_err());
        assert!(Keeper::start(dir.path().join("none/x.json"), &fresh()).is_err());
    }

    #[test]
    fn ranges_have_their_ends_and_nothing_between_them() {
        let ranges = Ranges(vec![(3, 5), (9, 9)]);
        let found: Vec<u64> = (0..12).filter(|sequence| ranges.contains(*sequence)).collect();
        assert_eq!(found, [3, 4, 5, 9]);
        let both = ranges.with(&Ranges(vec![(1, 2), (4, 7), (8, 8), (20, 30)]), 2);
        assert_eq!(both, Ranges(vec![(3, 9), (20, 30)]));
    }
}
