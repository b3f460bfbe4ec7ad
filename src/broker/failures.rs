//! How often the log of a data directory has failed.
//!
//! A broker whose log fails ends within three seconds, mostly between two scrapes. So it leaves the number in its data
//! directory, and its next process shows it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;

/// In the data directory, a decimal number.
const FILE_NAME: &str = "log-failures";

/// How long leaving it may take: the disk has just failed and may not answer at all.
const WITHIN: Duration = Duration::from_millis(500);

/// How often the log has failed in processes before this one; 0 if nothing readable says so.
pub(super) fn before(data_dir: &Path) -> u64 {
    let text = fs::read_to_string(data_dir.join(FILE_NAME)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Leaves one more for the next process, as well as that can be done beside a log that cannot be written. It is not
/// synced: that would ask the same disk once more, and a restart of the process, which is what follows, keeps it anyway.
pub(super) async fn leave_one_more(data_dir: &Path) {
    let data_dir = data_dir.to_owned();
    let (left, done) = oneshot::channel();
    // Not a thread of the runtime, for the end of which the process would wait.
    let thread = std::thread::Builder::new().name("log-failures".to_owned()).spawn(move || {
        let written = fs::write(data_dir.join(FILE_NAME), format!("{}\n", before(&data_dir) + 1));
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
    async fn the_next_process_knows_of_each_failure() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(before(folder.path()), 0);
        leave_one_more(folder.path()).await;
        leave_one_more(folder.path()).await;
        assert_eq!(before(folder.path()), 2);
    }

    #[tokio::test]
    async fn what_cannot_be_read_or_written_stops_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE_NAME), "many").expect("ours");
        assert_eq!(before(folder.path()), 0);
        leave_one_more(&folder.path().join("missing")).await;
        assert_eq!(before(&folder.path().join("missing")), 0);
    }
}
