//! The embedded store against the suite, against crashes, and against other people's directories.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::event::{Expiration, Sequence};
use crate::projector::conformance::{self, Harness, Place};
use crate::projector::{HighWaterMark, Row};

const LOG: u128 = 7;
const START: UnixMicros = UnixMicros::from_micros(1_767_225_600_000_000);

struct Directories;

#[async_trait]
impl Harness for Directories {
    async fn create(&self) -> Result<Box<dyn Place>, String> {
        TempDir::new().map(|directory| Box::new(directory) as Box<dyn Place>).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Place for TempDir {
    async fn open(&self, log_id: u128) -> Result<Box<dyn Store>, String> {
        let path = self.path().join("store");
        let store = EmbeddedStore::open(&path, log_id, &Config::default()).map_err(|error| error.to_string())?;
        Ok(Box::new(store))
    }
}

#[tokio::test]
async fn conforms() {
    conformance::with_history(&Directories).await.expect("conforms");
}

fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path, LOG, &Config::default()).expect("opens")
}

fn subject(text: &str) -> Subject {
    Subject::new(text.to_owned()).expect("valid")
}

fn id(value: u64) -> MessageId {
    u32::try_from(value).ok().and_then(MessageId::new).expect("an id")
}

/// A batch of `count` rows after `previous`, each published a second after the one before; the id is the sequence.
fn batch(previous: u64, count: u64, life_seconds: i32, body: &Bytes) -> Arc<StoreBatch> {
    let rows = (previous + 1..=previous + count)
        .map(|sequence| Row {
            sequence: Sequence::new(sequence),
            subject: subject("s"),
            id: id(sequence),
            published_at: START.plus_seconds(u32::try_from(sequence).expect("small")),
            expiration: Expiration::from_wire(life_seconds).expect("not negative"),
            body: body.clone(),
        })
        .collect();
    Arc::new(StoreBatch {
        previous: Projected(Sequence::new(previous)),
        projected: Projected(Sequence::new(previous + count)),
        rows,
        high_water_marks: vec![HighWaterMark {
            subject: subject("s"),
            id: id(previous + count),
            sequence: Sequence::new(previous + count),
        }],
    })
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[tokio::test]
async fn a_copy_of_the_running_store_has_every_applied_batch() {
    let directory = TempDir::new().expect("made");
    let store = open(&directory.path().join("store"));
    let body = Bytes::from(vec![7; 1_000]);
    for round in 0..20u64 {
        // Life times in four classes, so that several keyspaces are made on the way.
        let life = [60, 200, 3_600, 86_400][usize::try_from(round % 4).expect("small")];
        store.apply(&batch(round * 50, 50, life, &body)).await.expect("applied");
        if round % 5 != 4 {
            continue;
        }
        // What kill -9 leaves: the files as they are, nothing closed.
        let killed = directory.path().join(format!("killed-{round}"));
        copy_directory(&directory.path().join("store"), &killed);
        let last = (round + 1) * 50;
        let after = open(&killed);
        assert_eq!(after.projected().await.expect("read"), Projected(Sequence::new(last)));
        assert_eq!(after.high_water_mark(&subject("s")).await.expect("read"), Some(id(last)));
        for sequence in 1..=last {
            let now = START.plus_seconds(u32::try_from(sequence).expect("small"));
            let found = after.fetch(&subject("s"), id(sequence), now).await.expect("read").expect("there");
            assert_eq!(found.body, body, "{sequence}");
        }
    }
}

#[tokio::test]
async fn a_torn_last_batch_is_absent_as_a_whole() {
    let directory = TempDir::new().expect("made");
    let path = directory.path().join("store");
    let store = open(&path);
    let body = Bytes::from(vec![7; 1_000]);
    store.apply(&batch(0, 50, 60, &body)).await.expect("applied");
    let journal = path.join("0.jnl");
    let whole = written_bytes(&journal);
    store.apply(&batch(50, 50, 60, &body)).await.expect("applied");
    let both = written_bytes(&journal);
    assert!(both > whole + 50_000);
    for cut in [whole, whole + 1, whole + 20, whole + 30_000, both - 1] {
        let torn = directory.path().join(format!("torn-{cut}"));
        copy_directory(&path, &torn);
        let bytes = fs::read(&journal).expect("read");
        fs::write(torn.join("0.jnl"), &bytes[..cut]).expect("written");
        let after = open(&torn);
        assert_eq!(after.projected().await.expect("read"), Projected(Sequence::new(50)), "cut at {cut}");
        assert_eq!(after.high_water_mark(&subject("s")).await.expect("read"), Some(id(50)));
        for sequence in 1..=100 {
            let found = after.fetch(&subject("s"), id(sequence), START).await.expect("read");
            assert_eq!(found.is_some(), sequence <= 50, "{sequence}, cut at {cut}");
        }
        after.apply(&batch(50, 50, 60, &body)).await.expect("goes on");
    }
}

/// Up to the last byte that is not zero: the file is longer from the start.
fn written_bytes(journal: &Path) -> usize {
    let bytes = fs::read(journal).expect("read");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

#[tokio::test]
async fn expired_buckets_give_back_their_files() {
    let directory = TempDir::new().expect("made");
    let path = directory.path().join("store");
    let config = Config { write_buffer_bytes: 1024 * 1024, ..Config::default() };
    let store = EmbeddedStore::open(&path, LOG, &config).expect("opens");
    let body = Bytes::from((0..10_000u32).map(|value| value.to_le_bytes()[1] ^ 0x5A).collect::<Vec<u8>>());
    for round in 0..20u64 {
        store.apply(&batch(round * 50, 50, 60, &body)).await.expect("applied");
    }
    let keyspaces = || fs::read_dir(path.join("keyspaces")).expect("listed").count();
    let before = keyspaces();
    assert!(before > 60, "1000 s of life times in buckets of 15 s: {before}");
    for _ in 0..before {
        store.expire(START.plus_seconds(10_000)).await.expect("expired");
    }
    // The database's own, ours, and what a sealed journal still holds back.
    let after = keyspaces();
    assert!(after < before / 2, "{before} keyspaces before, {after} after");
    assert_eq!(store.fetch(&subject("s"), id(1_000), START).await.expect("read"), None);
    store.apply(&batch(1_000, 50, 60, &body)).await.expect("goes on");
}

/// fjall itself opens a keyspace without files as an empty one.
#[tokio::test]
async fn a_bucket_that_lost_its_files_is_refused_and_a_dropped_one_is_not() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path);
    store.apply(&batch(0, 3, 60, &Bytes::from_static(b"x"))).await.expect("applied");
    store.expire(START.plus_seconds(1_000)).await.expect("dropped");
    store.apply(&batch(3, 3, 3_600, &Bytes::from_static(b"x"))).await.expect("applied");
    drop(store);
    let store = open(&path);
    assert!(store.fetch(&subject("s"), id(5), START).await.expect("it answers").is_some());
    drop(store);
    let mut keyspaces = 0;
    for keyspace in fs::read_dir(path.join("keyspaces")).expect("there") {
        let manifest = keyspace.expect("readable").path().join("current");
        let copy = directory.path().join("copy");
        copy_directory(&path, &copy);
        fs::remove_file(copy.join(manifest.strip_prefix(&path).expect("below"))).expect("it was there");
        let refused = EmbeddedStore::open(&copy, LOG, &Config::default());
        assert!(refused.is_err(), "{}", manifest.display());
        fs::remove_dir_all(&copy).expect("ours");
        keyspaces += 1;
    }
    assert!(keyspaces >= 2, "the bucket's and that of the marks");
}

#[test]
fn a_second_process_is_refused_by_the_name_of_the_directory() {
    let directory = TempDir::new().expect("made");
    let path = directory.path().join("store");
    let first = open(&path);
    let error = EmbeddedStore::open(&path, LOG, &Config::default()).expect_err("in use");
    assert!(matches!(&error, OpenStoreError::InUse { path: named } if *named == path), "{error:?}");
    drop(first);
    open(&path);
}

#[test]
fn another_log_and_a_newer_format_are_refused_by_name() {
    let directory = TempDir::new().expect("made");
    let path = directory.path().join("store");
    drop(open(&path));
    let error = EmbeddedStore::open(&path, LOG + 1, &Config::default()).expect_err("another log");
    assert!(matches!(&error, OpenStoreError::Store { error: StoreError::Inconsistent { .. }, .. }), "{error:?}");
    let newer = directory.path().join("newer");
    open::make_with_format(&newer, &[0, 0, 0, 2, 1, 2, 3]).expect("made");
    let error = EmbeddedStore::open(&newer, LOG, &Config::default()).expect_err("newer");
    assert!(error.to_string().contains("format version 2"), "{error}");
    let reason = "the embedded store holds something else than it must";
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn foreign_files_are_left_alone() {
    let directory = TempDir::new().expect("made");
    let path = directory.path().join("store");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("notes.txt"), "mine").expect("written");
    let error = EmbeddedStore::open(&path, LOG, &Config::default()).expect_err("foreign");
    assert!(matches!(error, OpenStoreError::Foreign { .. }), "{error:?}");
    assert_eq!(fs::read_to_string(path.join("notes.txt")).expect("kept"), "mine");
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "nothing half-made is left");
}

#[test]
fn an_empty_directory_and_a_half_made_store_are_taken_over() {
    let directory = TempDir::new().expect("made");
    let path = directory.path().join("store");
    fs::create_dir(&path).expect("made");
    fs::create_dir(directory.path().join("store.new")).expect("made");
    fs::write(directory.path().join("store.new/0.jnl"), "half").expect("written");
    drop(open(&path));
    assert!(!directory.path().join("store.new").exists());
}

#[test]
fn a_file_in_the_way_is_named() {
    let directory = TempDir::new().expect("made");
    let path = directory.path().join("store");
    fs::write(&path, "a file").expect("written");
    let error = EmbeddedStore::open(&path, LOG, &Config::default()).expect_err("no directory");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}
