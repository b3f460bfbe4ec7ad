//! How often the log of a data directory has failed, and when it did last.
//!
//! A broker whose log fails ends within three seconds, mostly between two scrapes. So it leaves both in its data directory,
//! and its next process shows them. The time tells whoever has not seen the broker before a failure of now from an old one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::event::clock;

/// In the data directory: the number, and on a line of its own the second since 1970 of the last one, both decimal.
const FILE_NAME: &str = "log-failures";

/// How long leaving it may take: the disk has just failed and may not answer at all.
const WITHIN: Duration = Duration::from_millis(500);

/// Failures of processes before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Failures {
    /// How many; 0 if nothing readable says so.
    pub count: u64,
    /// When the last was, in whole seconds since 1970; 0 if nothing readable says so.
    pub last: u32,
}

/// The failures that were left in a data directory.
pub(super) fn before(data_dir: &Path) -> Failures {
    let text = fs::read_to_string(data_dir.join(FILE_NAME)).unwrap_or_default();
    let mut lines = text.lines().map(str::trim);
    let count = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
    Failures { count, last: lines.next().and_then(|line| line.parse().ok()).unwrap_or(0) }
}

/// Leaves one more for the next process, as well as that can be done beside a log that cannot be written. It is not
/// synced: that would ask the same disk once more, and a restart of the process, which is what follows, keeps it anyway.
pub(super) async fn leave_one_more(data_dir: &Path) {
    let data_dir = data_dir.to_owned();
    let (left, done) = oneshot::channel();
    // Not a thread of the runtime, for the end of which the process would wait.
    let thread = std::thread::Builder::new().name("log-failures".to_owned()).spawn(move || {
        let count = before(&data_dir).count + 1;
        let written = fs::write(data_dir.join(FILE_NAME), format!("{count}\n{}\n", clock::now().as_seconds()));
        // Nobody listens any more if it took too long.
        drop(left.send(written));
    });
    match (thread, tokio::time::timeout(WITHIN, done).await) {
        (Ok(_), Ok(Ok(Ok(())))) => {}
        (thread, written) => {
            tracing::info!(?thread, ?written, "the next process will not know that the log failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_process_knows_of_each_failure_and_when_the_last_was() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(before(folder.path()), Failures::default());
        leave_one_more(folder.path()).await;
        let begun = clock::now().as_seconds();
        leave_one_more(folder.path()).await;
        let Failures { count, last } = before(folder.path());
        assert_eq!(count, 2);
        assert!((begun..=clock::now().as_seconds()).contains(&i64::from(last)), "{last}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_or_written_stops_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let left = |text: &str| {
            fs::write(folder.path().join(FILE_NAME), text).expect("ours");
            before(folder.path())
        };
        assert_eq!(left("many\nlately\n"), Failures::default());
        assert_eq!(left("3\n"), Failures { count: 3, last: 0 }, "as versions before this wrote it");
        assert_eq!(left("3\n99999999999\n"), Failures { count: 3, last: 0 }, "no time that a clock shows");
        leave_one_more(&folder.path().join("missing")).await;
        assert_eq!(before(&folder.path().join("missing")), Failures::default());
    }
}
