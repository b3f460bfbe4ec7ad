//! Tests of the room: against a model, and against files that are missing, damaged or wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::event::record::{self, Record};
use crate::event::{Expiration, MessageId, Sequence, Subject, UnixMicros};
use crate::wal::{self, Batch, DiskFileSystem, Log, Options, Preparation, Writer};

const FRAME_BYTES: usize = 8 * 1024;

/// A log with its index, and what was published.
struct Rig {
    folder: TempDir,
    writer: Writer,
    log: Log,
    index: Index,
    indexer: Option<Indexer>,
    /// Bodies by subject, in the order of ids from 1.
    published: BTreeMap<String, Vec<String>>,
}

fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: 16 * 1024,
        max_bytes: 64 * 1024 * 1024,
        keep_bytes: u64::MAX,
        frame_bytes_max: FRAME_BYTES,
        preparation: Preparation::Inline,
        ..Options::new(dir.join("log"))
    }
}

fn subject(name: &str) -> Subject {
    Subject::new(name.to_owned()).expect("a subject")
}

fn id(number: usize) -> MessageId {
    MessageId::new(number as u32).expect("an id")
}

fn message(bytes: &[u8]) -> Record<'_> {
    match record::decode(bytes) {
        Ok(record::Logged::Message(record)) => record,
        other => panic!("{other:?}"),
    }
}

impl Rig {
    fn new() -> Self {
        Self::open(tempfile::tempdir().expect("a folder"), BTreeMap::new())
    }

    fn open(folder: TempDir, published: BTreeMap<String, Vec<String>>) -> Self {
        let dir = folder.path().join("index");
        fs::create_dir_all(&dir).expect("writable");
        let files = Arc::new(DiskFileSystem);
        let wal::Opened { writer, log, .. } = wal::open(files.clone(), options(folder.path())).expect("opens");
        let (index, indexer) = Index::open(files, dir, log.clone()).expect("opens");
        Self { folder, writer, log, index, indexer: Some(indexer), published }
    }

    /// As after a restart.
    fn reopened(self) -> Self {
        let Self { folder, published, writer, log, index, indexer } = self;
        drop((writer, log, index, indexer));
        Self::open(folder, published)
    }

    /// Lets the indexer do all its work, and ends it.
    fn indexed(mut self) -> Self {
        let indexer = self.indexer.take().expect("it has not run");
        let index = self.index.clone();
        thread::scope(|scope| {
            let running = scope.spawn(|| indexer.run());
            while index.gap_records() > 0 && !running.is_finished() {
                thread::sleep(std::time::Duration::from_millis(1));
            }
            index.stop();
            running.join().expect("no panic").expect("the log is sound");
        });
        self
    }

    /// Publishes one frame with a message on each of these subjects.
    fn publish(&mut self, subjects: &[&str]) {
        let mut batch = Batch::new(FRAME_BYTES);
        self.writer.ensure_room(FRAME_BYTES).expect("room");
        let frame = self.writer.next_frame();
        let first = self.writer.next_sequence();
        let mut appended = Vec::new();
        for (number, name) in (0..).zip(subjects) {
            let bodies = self.published.entry((*name).to_owned()).or_default();
            bodies.push(format!("{name} {}", bodies.len() + 1));
            let record = Record {
                subject: name,
                id: id(bodies.len()),
                published_at: UnixMicros::from_micros(1),
                expiration: Expiration::FIRE_AND_FORGET,
                idempotency_key: None,
                traceparent: None,
                body: bodies.last().expect("it was pushed").as_bytes(),
            };
            let offset = batch.push(|buffer| record::encode(&record, buffer)).expect("it fits");
            let (sequence, place) = (first.plus(number), frame.of(offset, record::crc(&record)));
            appended.push(Appended { subject: name, id: record.id, sequence, place });
        }
        self.writer.append(&batch).expect("the disk works");
        self.index.append(appended.into_iter());
    }

    /// Appends a frame of one record of marks, and passes over it.
    fn take_over(&mut self, marks: &[(&str, usize)]) {
        let mut batch = Batch::new(FRAME_BYTES);
        self.writer.ensure_room(FRAME_BYTES).expect("room");
        let (frame, sequence) = (self.writer.next_frame(), self.writer.next_sequence());
        let marks = marks.iter().map(|(subject, last)| (*subject, id(*last)));
        let mut crc = 0;
        let encode = |buffer: &mut Vec<u8>| {
            let start = buffer.len();
            record::encode_marks(marks, buffer).map(|()| crc = crc32c::crc32c(&buffer[start..]))
        };
        let offset = batch.push(encode).expect("it fits");
        self.writer.append(&batch).expect("the disk works");
        self.index.append_taken_over(sequence, &frame.of(offset, crc));
    }

    fn last(&self, name: &str) -> MessageId {
        id(self.published.get(name).map_or(1, Vec::len))
    }

    fn body(&self, name: &str, number: usize) -> Option<String> {
        match self.index.message(&subject(name), id(number), self.last(name)).expect("readable") {
            Lookup::Found(bytes) => {
                let record = message(&bytes);
                Some(String::from_utf8(record.body.to_vec()).expect("text"))
            }
            Lookup::Absent => None,
            Lookup::Unknown => panic!("there is a gap at {name} {number}"),
        }
    }

    /// Every message is found, nothing else is, and each subject's run is in order.
    fn check(&self) {
        for (name, bodies) in &self.published {
            for (number, body) in (1..).zip(bodies) {
                assert_eq!(self.body(name, number).as_ref(), Some(body));
            }
            assert_eq!(self.body(name, bodies.len() + 1), None);
            for (after, limit) in [(0, usize::MAX), (bodies.len() / 2, usize::MAX), (bodies.len() / 3, 2)] {
                let run = self.index.after(&subject(name), after as u32, limit).expect("readable").expect("no gap");
                let ids: Vec<_> = run.iter().filter_map(|located| located.id).map(MessageId::get).collect();
                let expected: Vec<u32> = (after as u32 + 1..=bodies.len() as u32).take(limit).collect();
                assert_eq!(ids, expected, "{name} after {after}");
                assert!(run.is_sorted_by_key(|located| located.sequence));
            }
            self.check_read(name, bodies);
        }
        assert_eq!(self.body("never.published", 1), None);
    }

    /// The subject is read from end to end, whatever is read at once.
    fn check_read(&self, name: &str, bodies: &[String]) {
        for (messages, bytes) in [(usize::MAX, usize::MAX), (3, usize::MAX), (usize::MAX, 200), (7, 1)] {
            let (mut read, through) = (Vec::new(), bodies.len() as u32 - 1);
            loop {
                let (before, amount) = (read.len(), Amount { messages, bytes });
                let range = (before as u32, through);
                let run = self.index.read_after(&subject(name), range, amount, |record| {
                    assert_eq!(record.id.get() as usize, read.len() + 1, "{name}");
                    read.push(String::from_utf8(record.body.to_vec()).expect("text"));
                });
                assert_eq!(run.expect("readable"), RunRead::Messages(read.len() - before));
                if read.len() == before {
                    break;
                }
            }
            assert_eq!(read, bodies[..through as usize], "{name}");
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.folder.path().join("index"))
            .expect("a folder")
            .map(|file| file.expect("one").path())
            .collect();
        files.sort();
        files
    }
}

/// About ten segments: a subject in all of them, one in each other, one once.
fn several_segments() -> Rig {
    let mut rig = Rig::new();
    rig.publish(&["once"]);
    for round in 0..60 {
        let own = format!("round.{}", round / 7);
        for _ in 0..8 {
            rig.publish(&["always", &own, "always"]);
        }
    }
    assert!(rig.log.segments().len() >= 8);
    rig
}

#[test]
fn every_message_is_found_before_and_after_it_is_in_a_file() {
    let mut rig = Rig::new();
    for round in 0..70 {
        rig.publish(&["always", if round % 2 == 0 { "even" } else { "odd" }, "always"]);
    }
    assert!(rig.log.segments().len() >= 2, "some are sealed, and one grows");
    rig.check();
    let rig = several_segments().indexed();
    assert_eq!(rig.files().len(), rig.log.segments().len());
    rig.check();
    let rig = rig.reopened();
    assert_eq!(rig.index.gap_records(), 0, "an orderly stop leaves nothing to build");
    rig.check();
}

#[test]
fn what_a_crash_left_out_is_a_gap_until_it_is_built() {
    let rig = several_segments().reopened();
    assert!(rig.index.gap_records() > 1_000);
    assert_eq!(rig.index.message(&subject("once"), id(1), id(1)).expect("readable"), Lookup::Unknown);
    assert_eq!(rig.index.after(&subject("once"), 0, 1).expect("readable"), None);
    let mut rig = rig.indexed();
    rig.check();
    rig.publish(&["once", "late"]);
    rig.check();
}

#[test]
fn a_file_that_is_missing_or_damaged_anywhere_is_built_again() {
    let rig = several_segments().indexed();
    let files = rig.files();
    let whole = fs::read(&files[3]).expect("readable");
    let mut rig = rig;
    let step = whole.len() / 40;
    for damaged in (0..whole.len()).step_by(step).chain([whole.len() - 1]).map(Some).chain([None]) {
        match damaged {
            Some(at) => {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                fs::write(&files[3], bytes).expect("writable");
            }
            None => fs::remove_file(&files[3]).expect("it is there"),
        }
        rig = rig.reopened();
        // What is damaged in a page is only seen when the page is read.
        for (name, bodies) in rig.published.clone() {
            for number in 1..=bodies.len() {
                drop(rig.index.message(&subject(&name), id(number), rig.last(&name)).expect("readable"));
            }
        }
        rig = rig.indexed();
        rig.check();
        assert_eq!(fs::read(&files[3]).expect("it was built again"), whole, "damaged at {damaged:?}");
    }
}

#[test]
fn a_file_of_another_log_or_of_a_segment_that_was_cut_is_not_used() {
    let foreign = several_segments().indexed();
    let rig = several_segments().indexed();
    for (theirs, ours) in foreign.files().iter().zip(rig.files()) {
        fs::copy(theirs, ours).expect("writable");
    }
    fs::write(rig.folder.path().join("index/00000000000000000001.idx.tmp"), "half").expect("writable");
    let rig = rig.reopened();
    assert_eq!(rig.files(), Vec::<PathBuf>::new());
    rig.indexed().check();
}

#[test]
fn an_index_that_says_the_wrong_thing_is_found_out_by_the_record() {
    let rig = several_segments().indexed();
    // All checksums are right, and every place points to the record after the one that is meant.
    let file = &rig.files()[3];
    let mut bytes = fs::read(file).expect("readable");
    let entries = u32::from_le_bytes(bytes[72..76].try_into().expect("4 bytes")) as usize;
    for page in bytes[4096..].chunks_exact_mut(4096).take(entries.div_ceil(255)) {
        let places: Vec<[u8; 8]> = page.chunks_exact(16).map(|entry| entry[8..].try_into().expect("8 bytes")).collect();
        for slot in 0..entries.min(255) {
            page[slot * 16 + 8..][..8].copy_from_slice(&places[(slot + 1) % entries.min(255)]);
        }
        let crc = crc32c::crc32c(&page[..4092]);
        page[4092..].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(file, bytes).expect("writable");
    let rig = rig.reopened();
    let mut unknown = 0;
    for number in 1..=rig.published["always"].len() {
        match rig.index.message(&subject("always"), id(number), rig.last("always")).expect("readable") {
            Lookup::Found(bytes) => {
                assert_eq!(message(&bytes).id, id(number), "never another message");
            }
            Lookup::Unknown => unknown += 1,
            Lookup::Absent => panic!("always {number} is there"),
        }
    }
    assert!(unknown > 0, "it was noticed");
    rig.indexed().check();
}

#[test]
fn an_index_that_cannot_be_written_is_kept_in_memory() {
    let mut rig = Rig::new();
    for _ in 0..15 {
        rig.publish(&["always", "twice", "twice"]);
    }
    let rig = rig.reopened();
    let gaps = rig.index.shared.parts.read().gaps.clone();
    assert_eq!(gaps.len(), 1);
    for gap in &gaps {
        // Where the file would be written there is a folder.
        let name = format!("index/{:020}.idx.tmp", gap.first.get());
        fs::create_dir(rig.folder.path().join(name)).expect("writable");
    }
    let mut rig = rig;
    let (index, indexer) = (rig.index.clone(), rig.indexer.take().expect("it has not run"));
    let running = thread::spawn(move || indexer.run());
    while index.gap_records() > 0 {
        thread::sleep(std::time::Duration::from_millis(1));
    }
    rig.check();
    index.stop();
    running.join().expect("no panic").expect("the log is sound");
}

#[test]
fn a_folder_that_was_removed_is_made_again() {
    let mut rig = several_segments().indexed().reopened();
    fs::remove_dir_all(rig.folder.path().join("index")).expect("removed");
    assert_eq!(rig.index.message(&subject("always"), id(1), id(960)).expect("readable"), Lookup::Unknown);
    for name in rig.published.keys().cloned().collect::<Vec<_>>() {
        for number in 1..=rig.published[&name].len() {
            drop(rig.index.message(&subject(&name), id(number), rig.last(&name)).expect("readable"));
        }
    }
    rig = rig.indexed();
    rig.check();
    assert!(!rig.files().is_empty());
}

#[test]
fn a_record_larger_than_todays_frames_is_found() {
    let mut rig = Rig::new();
    let name = "l".repeat(200);
    rig.publish(&[name.as_str(); 15]);
    let Rig { folder, writer, log, index, indexer, published } = rig.indexed();
    drop((writer, log, index, indexer));
    let files = Arc::new(DiskFileSystem);
    let smaller = Options { frame_bytes_max: 128, ..options(folder.path()) };
    let wal::Opened { log, .. } = wal::open(files.clone(), smaller).expect("opens");
    let (index, _indexer) = Index::open(files, folder.path().join("index"), log).expect("opens");
    for number in 1..=published[&name].len() {
        let found = index.message(&subject(&name), id(number), id(15)).expect("readable");
        assert!(matches!(found, Lookup::Found(_)), "{number}: {found:?}");
    }
}

#[test]
fn a_damaged_log_ends_the_indexer_with_the_place() {
    let rig = several_segments();
    let segment = rig.log.segments()[4].path.clone();
    let mut bytes = fs::read(&segment).expect("readable");
    bytes[5_000] ^= 1;
    fs::write(&segment, bytes).expect("writable");
    let Rig { folder, writer, log, index, indexer, published } = rig;
    drop((writer, log, index, indexer));
    // Without the check at opening, as for a segment that it had no time for.
    let files = Arc::new(DiskFileSystem);
    let unchecked = Options { verify_for: std::time::Duration::ZERO, ..options(folder.path()) };
    let wal::Opened { log, .. } = wal::open(files.clone(), unchecked).expect("opens");
    let (index, indexer) = Index::open(files, folder.path().join("index"), log).expect("opens");
    let error = indexer.run().expect_err("the log is damaged").to_string();
    assert!(error.contains(&segment.display().to_string()), "{error}");
    let oldest = published.keys().next().expect("one");
    assert_eq!(index.message(&subject(oldest), id(1), id(1)).expect("readable"), Lookup::Unknown);
}

#[test]
fn trimmed_segments_take_their_files_with_them() {
    let rig = several_segments();
    let rig = Rig { published: BTreeMap::new(), ..rig }.indexed();
    let before = rig.files().len();
    let third = rig.log.segments()[2].last;
    let Rig { folder, writer, log, index, indexer, .. } = rig;
    drop((writer, log, index, indexer));
    let files = Arc::new(DiskFileSystem);
    let wal::Opened { writer: _writer, log, .. } =
        wal::open(files.clone(), Options { keep_bytes: 0, ..options(folder.path()) }).expect("opens");
    let (index, _indexer) = Index::open(files, folder.path().join("index"), log.clone()).expect("opens");
    log.release(third).expect("removable");
    assert_eq!(
        index.message(&subject("once"), id(1), id(1)).expect("readable"),
        Lookup::Absent,
        "trimmed, but not yet told"
    );
    index.trim();
    assert_eq!(index.message(&subject("once"), id(1), id(1)).expect("readable"), Lookup::Absent);
    assert_eq!(fs::read_dir(folder.path().join("index")).expect("a folder").count(), before - 3);
    assert_eq!(log.trimmed().sequence(), third);
}

#[test]
fn a_part_that_is_full_is_followed_by_another_of_the_same_segment() {
    let mut part = memory::MemoryPart::new(Sequence::new(1), Sequence::new(1));
    let mut parts = parts::Parts::default();
    let place = wal::Place { segment: Sequence::new(1), offset: 0, crc: 0 };
    for number in 0..PART_RECORDS_MAX as u64 + 10 {
        assert_eq!(part.is_full(), number >= PART_RECORDS_MAX as u64);
        let entry = entry::Entry { hash: number % 1_000, id: (number / 1_000 + 1) as u32, index: 0, offset: 0, crc: 0 };
        if !part.is_full() {
            part.push(entry);
        }
        parts.active_for(Sequence::new(number + 1), &place).push(entry);
    }
    assert_eq!(parts.sealed.len(), 1);
    let found = parts.find_in_memory(999, 262);
    assert_eq!(found.iter().map(|located| located.sequence.get()).collect::<Vec<_>>(), [262_000]);
    let found = parts.find_in_memory(150, 263);
    assert_eq!(found.iter().map(|located| located.sequence.get()).collect::<Vec<_>>(), [262_151]);
    assert_eq!(parts.after_in_memory(150, 0, usize::MAX).len(), 263);
    assert_eq!(parts.after_in_memory(150, 0, 7).len(), 7);
    assert!(part.sorted().is_sorted());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any traffic, with restarts, crashes and lost index files in between.
    #[test]
    fn whatever_happens_the_index_agrees_with_what_was_published(
        steps in prop::collection::vec((prop::collection::vec(0..40usize, 1..30), 0..12u8), 1..60),
    ) {
        let mut rig = Rig::new();
        for (subjects, event) in steps {
            let names: Vec<String> = subjects.iter().map(|number| format!("s.{}", number * number / 40)).collect();
            rig.publish(&names.iter().map(String::as_str).collect::<Vec<_>>());
            rig = match event {
                0 => rig.indexed().reopened(),
                1 => rig.reopened().indexed().reopened(),
                2 => {
                    if let Some(file) = rig.files().first() {
                        fs::remove_file(file).expect("it is there");
                    }
                    rig.reopened()
                }
                3 => {
                    rig.take_over(&[(&names[0], 1)]);
                    rig
                }
                _ => rig,
            };
        }
        rig.indexed().check();
    }
}

/// Records that are no messages cost neither a message nor the order, live, in files, and when the files are built anew.
#[test]
fn what_was_taken_over_is_passed_over() {
    let mut rig = Rig::new();
    let count = |rig: &Rig| (rig.index.taken_over_records(), rig.index.lost_records(), rig.index.gap_records());
    rig.take_over(&[("a", 1)]);
    for round in 1..400 {
        rig.publish(&["a", "b"]);
        rig.take_over(&[("c", round), ("d", 1)]);
        if round == 80 {
            assert_eq!(count(&rig), (81, 0, 0), "in memory, most of it sealed");
            assert!(!rig.index.shared.parts.read().sealed.is_empty());
            rig.check();
        }
    }
    let rig = rig.indexed();
    assert_eq!(count(&rig), (400, 0, 0));
    rig.check();
    let rig = rig.reopened();
    assert_eq!(count(&rig), (400, 0, 0), "all of it in files");
    rig.check();
    let folder = rig.folder.path().join("index");
    for file in fs::read_dir(&folder).expect("readable") {
        fs::remove_file(file.expect("readable").path()).expect("can be removed");
    }
    let rig = rig.reopened();
    assert_eq!(count(&rig), (0, 0, 400 + 2 * 399), "nothing is indexed any more");
    let rig = rig.indexed();
    assert_eq!(count(&rig), (400, 0, 0));
    rig.check();
}
