//! Why the log is not okaywal (`docs/decisions/0001`): three of its losses, each beside the same scenario on our log.
//!
//! A test here that fails because okaywal keeps its records is news: read the decision again.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use okaywal::{EntryId, LogManager, SegmentReader, WriteAheadLog};
use parking_lot::Mutex;
use tempfile::TempDir;
use walcast::event::Sequence;
use walcast::wal::{self, AppendError, Batch, DiskFileSystem, Log, Opened, Options, Writer};

use crate::support::require_strace;

/// Commits after the event of each scenario.
const LATER: usize = 10;

/// Takes down what recovery hands out, as okaywal's documentation does it.
#[derive(Debug, Clone, Default)]
struct Recovered(Arc<Mutex<Vec<Vec<u8>>>>);

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut okaywal::Entry<'_>) -> io::Result<()> {
        if let Some(chunks) = entry.read_all_chunks()? {
            self.0.lock().push(chunks.concat());
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

fn open_okaywal(dir: &Path) -> (WriteAheadLog, Recovered) {
    let recovered = Recovered::default();
    let log = WriteAheadLog::recover(dir, recovered.clone()).expect("okaywal opens");
    (log, recovered)
}

fn commit_okaywal(log: &WriteAheadLog, record: &[u8]) -> io::Result<()> {
    let mut entry = log.begin_entry()?;
    entry.write_chunk(record)?;
    entry.commit().map(drop)
}

fn open_ours(dir: &Path) -> Opened {
    let options = Options { segment_bytes: 1024 * 1024, frame_bytes_max: 64 * 1024, ..Options::new(dir) };
    wal::open(Arc::new(DiskFileSystem), options).expect("our log opens")
}

fn push(batch: &mut Batch, record: &[u8]) {
    let encode = |buffer: &mut Vec<u8>| {
        buffer.extend_from_slice(record);
        Ok::<(), std::convert::Infallible>(())
    };
    batch.push(encode).expect("it fits");
}

fn commit_ours(writer: &mut Writer, record: &[u8]) -> Result<(), AppendError> {
    let mut batch = Batch::new(64 * 1024);
    push(&mut batch, record);
    writer.append(&batch).map(drop)
}

fn records_of(log: &Log) -> Vec<Vec<u8>> {
    let mut reader = log.reader(Sequence::ZERO).expect("nothing is trimmed");
    let frames = std::iter::from_fn(|| reader.next().expect("readable"));
    frames.flat_map(|frame| frame.iter().map(|(_, record)| record.to_vec()).collect::<Vec<_>>()).collect()
}

fn later() -> Vec<Vec<u8>> {
    (0..LATER).map(|number| format!("later {number}").into_bytes()).collect()
}

/// Row 1: the bytes that were rolled back stay in okaywal's buffer and are written behind the next entry, where its
/// recovery stops.
#[test]
fn okaywal_loses_what_is_acknowledged_after_a_rollback_and_ours_does_not() {
    let dir = TempDir::new().expect("a directory");
    let (log, _) = open_okaywal(dir.path());
    let mut entry = log.begin_entry().expect("begins");
    entry.write_chunk(&[b'r'; 1_000]).expect("is written");
    entry.rollback().expect("is rolled back");
    for record in later() {
        commit_okaywal(&log, &record).expect("is acknowledged");
    }
    drop(log);
    let (_log, recovered) = open_okaywal(dir.path());
    let found = recovered.0.lock().iter().filter(|record| later().contains(record)).count();
    println!("okaywal, a rollback: {found} of {LATER} acknowledged entries found");
    assert!(found < LATER, "okaywal has learned to roll back");

    let dir = TempDir::new().expect("a directory");
    let mut opened = open_ours(dir.path());
    // What comes nearest to a rollback: a batch that is given up, and the next one in its place.
    let mut batch = Batch::new(64 * 1024);
    push(&mut batch, &[b'r'; 1_000]);
    batch.clear();
    for record in later() {
        push(&mut batch, &record);
        opened.writer.append(&batch).expect("is acknowledged");
        batch.clear();
    }
    drop(opened);
    assert_eq!(records_of(&open_ours(dir.path()).log), later());
}

/// Row 2: okaywal retires the file that it has just made active; its later entries go where recovery does not look.
#[test]
fn okaywal_loses_what_is_acknowledged_after_an_idle_checkpoint_and_ours_does_not() {
    let dir = TempDir::new().expect("a directory");
    let (log, _) = open_okaywal(dir.path());
    log.checkpoint_active().expect("checkpoints");
    for record in later() {
        commit_okaywal(&log, &record).expect("is acknowledged");
    }
    drop(log);
    // The checkpoint runs on a thread that outlives the log's handle for a moment.
    thread::sleep(Duration::from_millis(200));
    let (_log, recovered) = open_okaywal(dir.path());
    let found = recovered.0.lock().len();
    println!("okaywal, a checkpoint of nothing: {found} of {LATER} acknowledged entries found");
    assert_eq!(found, 0, "okaywal has learned to checkpoint");

    let dir = TempDir::new().expect("a directory");
    let mut opened = open_ours(dir.path());
    opened.log.release(opened.log.durable().sequence()).expect("nothing to trim");
    for record in later() {
        commit_ours(&mut opened.writer, &record).expect("is acknowledged");
    }
    drop(opened);
    assert_eq!(records_of(&open_ours(dir.path()).log), later());
}

/// The environment variable that makes the third test play one of its two parts in a process of its own.
const PART: &str = "WALCAST_TEST_OKAYWAL_PART";
/// A commit that takes longer hangs: the others take a millisecond, on a busy machine a hundred.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// Row 7: okaywal never ends the synchronisation that has failed, so every later commit waits for it.
#[test]
fn after_one_failed_fdatasync_okaywal_hangs_and_ours_says_so() {
    const SELF: &str = "okaywal::after_one_failed_fdatasync_okaywal_hangs_and_ours_says_so";
    if let Some(part) = std::env::var_os(PART) {
        let (part, dir) = part.as_bytes().split_at(4);
        let dir = PathBuf::from(std::ffi::OsStr::from_bytes(dir));
        return if part == b"okay" {
            commit_okaywal_on_a_failing_disk(&dir)
        } else {
            commit_ours_on_a_failing_disk(&dir)
        };
    }
    require_strace();
    let play = |part: &str, segment: &str, syncs_before: u32| {
        let dir = TempDir::new().expect("a directory");
        let data = dir.path().join("log");
        fs::create_dir(&data).expect("a directory");
        // The first commit's sync is the one that fails, once.
        let output = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fdatasync", "-e"])
            .arg(format!("inject=fdatasync:error=EIO:when={}", syncs_before + 1))
            .arg("-P")
            .arg(data.join(segment))
            .arg("-o")
            .arg(dir.path().join("trace"))
            .arg(std::env::current_exe().expect("this program"))
            .args([SELF, "--exact", "--nocapture"])
            .env(PART, format!("{part}{}", data.display()))
            .output()
            .expect("strace runs");
        let trace = fs::read_to_string(dir.path().join("trace")).expect("the trace");
        assert_eq!(trace.matches("(INJECTED)").count(), 1, "{part}: {trace}");
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let answers = output.lines().filter_map(|line| line.strip_prefix("commit: ")).map(str::to_owned);
        (answers.collect::<Vec<_>>(), data, dir)
    };

    let (answers, _, _dir) = play("okay", "wal-1", 0);
    println!("okaywal, one failed fdatasync: {answers:?}");
    assert_eq!(answers, ["failed", "hangs"]);

    let (answers, data, _dir) = play("ours", "00000000000000000001.wal", 0);
    println!("our log, one failed fdatasync: {answers:?}");
    assert_eq!(answers, ["failed", "failed", "failed"]);
    // The disk is well again: what was never acknowledged is there as a whole or not at all.
    let found = records_of(&open_ours(&data).log);
    assert!(found.is_empty() || found == [b"1"], "{found:?}");
}

fn answer<E>(outcome: &Result<(), E>) {
    println!("commit: {}", if outcome.is_ok() { "acknowledged" } else { "failed" });
}

fn commit_okaywal_on_a_failing_disk(dir: &Path) {
    let (log, _) = open_okaywal(dir);
    answer(&commit_okaywal(&log, b"1"));
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || drop(done.send(commit_okaywal(&log, b"2"))));
    match outcome.recv_timeout(HANGS_AFTER) {
        Ok(outcome) => answer(&outcome),
        Err(_still_waiting) => println!("commit: hangs"),
    }
    // Its thread waits for ever.
    std::process::exit(0);
}

fn commit_ours_on_a_failing_disk(dir: &Path) {
    let mut opened = open_ours(dir);
    for record in [b"1", b"2", b"3"] {
        answer(&commit_ours(&mut opened.writer, record));
    }
}
